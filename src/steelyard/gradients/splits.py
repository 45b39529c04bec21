"""A product of gradients taken apart: by token, module, layer or attention head, from the same pass.

``g_i^T M g_q = sum_blocks sum_t g_it^T (M g_q) a_it``: a sum over blocks of parameters and over the positions t of
the training example. Whatever the parts, they sum to the whole, because each term lands in exactly one of them;
what belongs to no part (parameters without positions, layers without heads) is kept as the rest.

The value of a token is what the layers did *at its position*: reading it, on the way to every later prediction,
the next token's first of all.

Source: Grosse et al. (2023), "Studying Large Language Model Generalization with Influence Functions", section
3.3.1 (layerwise and tokenwise attribution).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steelyard.errors import CapabilityError
from steelyard.gradients.batching import Positions
from steelyard.gradients.factors import (
    _CHUNK_ELEMENTS,
    Factors,
    Lookup,
    Outer,
    Rows,
    flat,
    ghost_positions,
)
from steelyard.gradients.parts import Heads, Split
from steelyard.gradients.queries import QuerySide, dot

_ADAPTER = re.compile(r"\.lora_([AB])(\.[^.]+)?$")
_WRAPPER = "base_model.model."
_LAYER = re.compile(r"^(.*?\.\d+)\.")
# Projections of attention by the last part of their name: how many matrices lie side by side in the rows.
_INTO_HEADS = {
    **dict.fromkeys(("q_proj", "query", "q_lin", "wq", "q"), ("query", 1)),
    **dict.fromkeys(("k_proj", "key", "k_lin", "wk", "k"), ("key", 1)),
    **dict.fromkeys(("v_proj", "value", "v_lin", "wv", "v"), ("key", 1)),
    **dict.fromkeys(("c_attn", "query_key_value", "qkv", "qkv_proj", "attend", "in_proj"), ("query", 3)),
}
_OUT_OF_HEADS = {"o_proj", "out_proj", "out_lin", "wo", "mix"}
_ATTENTION = re.compile(r"^((self|cross|encoder|multi_?head)_)?(attn|attention)$")


def named_products(
    found: Mapping[str, Factors], side: QuerySide, part_of: Callable[[str], str]
) -> dict[str, Float[Tensor, "example query"]]:
    """Products block by block, those of one part summed."""
    parts: dict[str, Tensor] = {}
    for name, factors in found.items():
        if name in side.blocks:
            product, _ = dot(factors, side.blocks[name], compact=True)
            part = part_of(name)
            parts[part] = parts[part] + product if part in parts else product
    return parts


def module_of(block: str) -> str:
    """The module that a block belongs to: the adapted layer for the two halves of an adapter."""
    return _ADAPTER.sub("", block).removeprefix(_WRAPPER)


def is_attention(block: str) -> bool:
    """Whether a block is a projection of attention, told by the names that models give to them.

    Either its own name is one of those of projections into or out of heads, or it or a module around it is called
    attention.
    """
    *around, leaf = module_of(block).split(".")
    if "norm" in leaf.lower():
        return False
    own = leaf in _INTO_HEADS or leaf in _OUT_OF_HEADS or leaf.startswith("in_proj_")
    return own or any(_ATTENTION.match(name) for name in (*around, leaf))


def layer_of(block: str) -> str:
    """The numbered layer that a block belongs to; the module itself for embeddings and output."""
    module = module_of(block)
    found = _LAYER.match(f"{module}.")
    return found.group(1) if found else module


def head_products(
    found: Mapping[str, Factors], side: QuerySide, heads: Heads
) -> tuple[dict[str, Float[Tensor, "example query"]], Float[Tensor, "example query"]]:
    """Products head by head, and those of everything that no head has for its own.

    Projections into heads are divided by rows, the projection out of them by columns. The half of an adapter
    that all heads share, biases of the output projection and other layers are the rest.

    Cost: training gradients of the attention projections are formed whole, in pieces.
    """
    parts: dict[str, Tensor] = {}
    rest = torch.zeros(len(next(iter(found.values()))), side.count, dtype=torch.float64)
    for name, factors in found.items():
        if name not in side.blocks:
            continue
        division = _division(name, factors, heads)
        if division is None:
            rest = rest + dot(factors, side.blocks[name], compact=True)[0].to(rest)
            continue
        labels, own, shared = _by_head(factors, side.blocks[name], division)
        for label, product in zip(labels, own, strict=True):
            parts[label] = parts[label] + product if label in parts else product
        rest = rest + shared.to(rest)
    return parts, rest


@dataclass(frozen=True)
class _Division:
    """How the gradient matrix of a projection is cut: along which axis, into which parts."""

    by_rows: bool
    labels: tuple[str, ...]
    stacked: int  # projections that lie one under the other, each cut into all the heads


def _division(block: str, factors: Factors, heads: Heads) -> _Division | None:
    module, half = module_of(block), _ADAPTER.search(block)
    prefix, _, leaf = module.rpartition(".")
    if isinstance(factors, Rows | Lookup) or factors.patches is not None:
        return None
    out_of = leaf in _OUT_OF_HEADS or (leaf == "c_proj" and prefix.endswith("attn"))
    if leaf in _INTO_HEADS and (half is None or half.group(1) == "B"):
        kind, stacked = _INTO_HEADS[leaf]
        fewer = kind == "key" and heads.key_value not in (None, heads.count)
        count, word = (heads.key_value or heads.count, "key-value head") if fewer else (heads.count, "head")
        size = factors.shape[0]
    elif out_of and (half is None or half.group(1) == "A"):
        count, word, stacked = heads.count, "head", 1
        size = factors.shape[1] - factors.bias
    else:
        return None
    if size % (count * stacked):
        return None
    labels = tuple(f"{prefix} {word} {k}" for k in range(count))
    return _Division(not out_of, labels, stacked)


def _by_head(
    factors: Factors, other: Factors, division: _Division
) -> tuple[tuple[str, ...], Float[Tensor, "head example query"], Float[Tensor, "example query"]]:
    count, (rows, columns) = len(division.labels), factors.shape
    step = max(1, _CHUNK_ELEMENTS // max(1, rows * columns))
    own: list[Tensor] = []
    shared: list[Tensor] = []
    for i in range(0, len(factors), step):
        mine = factors.slice(i, i + step).full()
        columnwise = [_cut(flat(other.slice(j, j + step)).view(-1, rows, columns), division, count)
                      for j in range(0, len(other), step)]  # fmt: skip
        parts, left = _cut(mine, division, count)
        own.append(torch.cat([parts @ theirs.transpose(1, 2) for theirs, _ in columnwise], 2))
        shared.append(torch.cat([left @ theirs.T for _, theirs in columnwise], 1))
    return division.labels, torch.cat(own, 1), torch.cat(shared)


def _cut(matrices: Tensor, division: _Division, count: int) -> tuple[Tensor, Tensor]:
    """``[head, example, number]`` and what is left over, ``[example, number]``."""
    examples = len(matrices)
    if division.by_rows:
        cut = matrices.view(examples, division.stacked, count, -1).permute(2, 0, 1, 3)
        return cut.reshape(count, examples, -1), matrices.new_zeros(examples, 0)
    width = matrices.shape[2] // count * count
    cut = matrices[:, :, :width].view(examples, matrices.shape[1], count, -1).permute(2, 0, 1, 3)
    return cut.reshape(count, examples, -1), matrices[:, :, width:].flatten(1)


def token_products(
    found: Mapping[str, Factors], side: QuerySide, longest: int | None
) -> tuple[Float[Tensor, "example token query"], Float[Tensor, "example query"]]:
    """Products token by token, and those of parameters without positions.

    Args:
        found: One captured batch.
        side: The queries.
        longest: Tokens of the longest example of the batch; None: as many as most layers have positions.

    Returns:
        Values of all tokens, zeros at padding; and the rest.
    """
    tokens = longest or _usual_positions(found)
    examples = len(next(iter(found.values())))
    total = torch.zeros(examples, tokens, side.count, dtype=torch.float64)
    rest = torch.zeros(examples, side.count, dtype=torch.float64)
    shifted = tokens > 1 and not any(_positions(f) % tokens == 0 for f in found.values() if _positions(f))
    for name, factors in found.items():
        if name not in side.blocks:
            continue
        read = tokens - 1 if shifted else tokens  # a causal model is often not given the last token
        if not _positions(factors) or _positions(factors) % read:
            rest += dot(factors, side.blocks[name], compact=True)[0].to(rest)
            continue
        values = position_products(factors, side.blocks[name])
        total[:, :read] += values.unflatten(1, (-1, read)).sum(1).to(total)
    return total, rest


def _positions(factors: Factors) -> int:
    """Positions of tokens; 0 for parameters without, and for convolutions, whose positions are pixels."""
    if isinstance(factors, Rows) or (isinstance(factors, Outer) and factors.patches is not None):
        return 0
    return factors.grads.shape[1]


def _usual_positions(found: Mapping[str, Factors]) -> int:
    counts = [_positions(factors) for factors in found.values() if _positions(factors)]
    return max(set(counts), key=counts.count, default=1)


def position_products(factors: Factors, other: Factors) -> Float[Tensor, "example position query"]:
    """``g_it^T G_q a_it``: the products of a block before they are summed over positions.

    Cost: per token and query one multiplication by the smaller side of the gradient matrix, and one pass over
    the matrix; temporaries are cut to 64 MiB pieces.
    """
    if isinstance(factors, Rows):
        raise TypeError("rows have no positions")
    rows, columns = factors.shape
    positions = factors.grads.shape[1]
    if not isinstance(other, Rows) and other.grads.shape[1] * (rows + columns) < rows * columns:
        return ghost_positions(factors, other)
    out = factors.grads.new_empty(len(factors), positions, len(other))
    few = max(1, _CHUNK_ELEMENTS // max(1, rows * columns))
    for j in range(0, len(other), few):
        matrices = flat(other.slice(j, j + few)).view(-1, rows, columns)
        step = max(1, _CHUNK_ELEMENTS // max(1, positions * min(rows, columns) * len(matrices)))
        for i in range(0, len(factors), step):
            out[i : i + step, :, j : j + few] = _at_positions(factors.slice(i, i + step), matrices)
    return out


def _at_positions(factors: Outer | Lookup, matrices: Float[Tensor, "query row column"]) -> Tensor:
    if isinstance(factors, Lookup):
        picked = matrices[:, factors.index.reshape(-1)].unflatten(1, factors.index.shape)
        return torch.einsum("btd,qbtd->btq", factors.grads, picked)
    inputs = factors.inputs
    if matrices.shape[1] <= matrices.shape[2]:
        seen = torch.einsum("bti,qoi->btqo", inputs, matrices)
        return torch.einsum("btqo,bto->btq", seen, factors.grads)
    seen = torch.einsum("bto,qoi->btqi", factors.grads, matrices)
    return torch.einsum("btqi,bti->btq", seen, inputs)


def split_by_token(
    passes: Iterable[tuple[Positions, Mapping[str, Factors]]],
    side: QuerySide,
    count: int,
    lengths: Int[np.ndarray, " example"] | None,
) -> Split:
    """Products of captured examples, token by token.

    Args:
        passes: Batches in any order: which examples, and their factors.
        side: The queries.
        count: Number of examples in all.
        lengths: Tokens of each; None: all have as many as layers have positions.
    """
    values = [np.zeros((0, side.count))] * count
    rest = np.zeros((count, side.count))
    for rows, found in passes:
        positions = np.arange(count)[rows]
        tokens, left = token_products(found, side, None if lengths is None else int(lengths[positions].max()))
        rest[positions] = left.numpy()
        for position, row in zip(positions.tolist(), tokens.numpy(), strict=True):
            own = len(row) if lengths is None else int(lengths[position])
            values[position] = row[:own]
            rest[position] += row[own:].sum(0)  # nothing, unless a model looks at padding
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in values])]).astype(np.int64)
    return Split((), offsets, np.concatenate(values), rest)


def split_by_parameters(
    passes: Iterable[tuple[Positions, Mapping[str, Factors]]],
    side: QuerySide,
    count: int,
    by: Literal["module", "layer", "head"],
    heads: Heads | None = None,
) -> Split:
    """Products of captured examples, part by part of the network.

    Args:
        passes: Batches in any order: which examples, and their factors.
        side: The queries.
        count: Number of examples in all.
        by: Which parts.
        heads: How attention is divided, for ``"head"``.
    """
    table: dict[str, np.ndarray] = {}
    rest = np.zeros((count, side.count))
    for rows, found in passes:
        if heads is None:
            parts = named_products(found, side, module_of if by == "module" else layer_of)
        else:
            parts, left = head_products(found, side, heads)
            rest[rows] = left.numpy()
        for name, product in parts.items():
            table.setdefault(name, np.zeros((count, side.count)))[rows] = product.cpu().numpy()
    names = tuple(table)
    values = np.stack([table[name] for name in names], 1) if names else np.zeros((count, 0, side.count))
    offsets = np.arange(count + 1, dtype=np.int64) * len(names)
    return Split(names, offsets, values.reshape(-1, side.count), rest)


def heads_of(model: nn.Module) -> Heads:
    """The attention heads that the model's configuration tells, as transformers' models do.

    Raises:
        CapabilityError: If it tells none.
    """
    config = getattr(model, "config", None)
    values = config.to_dict() if isinstance(config, Configured) else {}
    for name in ("num_attention_heads", "n_head", "n_heads"):
        if isinstance(values.get(name), int):
            return Heads(values[name], values.get("num_key_value_heads"))
    raise CapabilityError(
        f"{type(model).__name__} does not tell how many attention heads it has.",
        fix="give heads=Heads(count); on the command line, split by module or layer.",
    )


@runtime_checkable
class Configured(Protocol):
    """The configuration of a model of transformers."""

    def to_dict(self) -> dict[str, Any]:
        """Its settings."""
        ...
