"""Taps: layer inputs and output gradients of every tapped layer, from one forward and one backward pass.

Parameters are switched to ``requires_grad=False`` while a tap is on, so that the backward pass computes gradients
of activations only; the weight gradients, a third of a training step, are what the factors replace. The caller's
model is given back as it was: modes, flags and hooks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.gradients.factors import Factors, Lookup, Outer, Patches, Rows, join_positions

# Layers whose own forward is known. A subclass with another forward is not tapped: it falls back.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_NORMS = tuple(
    kind
    for kind in (nn.LayerNorm, getattr(nn, "RMSNorm", None), nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
    if kind
)


@dataclass(frozen=True)
class Block:
    """A tapped layer and those of its parameters that get gradients.

    Attributes:
        name: Name of the module.
        weight: Name of its weight parameter, or None if that is frozen.
        bias: Name of its bias parameter, or None.
        transposed: Whether the weight is stored as inputs times outputs.
        embedding: Name of the embedding module that reads the same weight, where it is tied to one.
    """

    name: str
    weight: str | None
    bias: str | None
    transposed: bool = False
    embedding: str | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that this block covers."""
        return tuple(name for name in (self.weight, self.bias) if name)


def tappable(model: nn.Module) -> list[Block]:
    """Layers that can be tapped, in module order, with their trainable parameters.

    An output layer that shares its weight with the input embedding is one block: its gradient is the sum over both
    uses. Any other parameter that several modules share is left out here and formed by the fallback.
    """
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    blocks = _tied(model, uses)
    for name, module in model.named_modules():
        if not _is_known(module):
            continue
        found = {
            key: parameter
            for key, parameter in module._parameters.items()
            if parameter is not None and parameter.requires_grad
        }
        if found and all(uses[id(parameter)] == 1 for parameter in found.values()):
            prefix = f"{name}." if name else ""
            weight = f"{prefix}weight" if "weight" in found else None
            bias = f"{prefix}bias" if "bias" in found else None
            blocks.append(Block(name, weight, bias, transposed=_is_transposed(module)))
    return blocks


def _tied(model: nn.Module, uses: Mapping[int, int]) -> list[Block]:
    """Output layers whose weight is also the input embedding, and is nothing else."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tables = {
        id(module.weight): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and _is_known(module)
    }
    return [
        Block(name, names[id(module.weight)], None, embedding=tables[id(module.weight)])
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _is_known(module) and module.bias is None
        and id(module.weight) in tables and uses[id(module.weight)] == 2 and module.weight.requires_grad
    ]  # fmt: skip


def _is_known(module: nn.Module) -> bool:
    forward = type(module).forward
    if "weight" not in module._parameters:
        return False
    if isinstance(module, nn.Linear):
        return forward is nn.Linear.forward
    if isinstance(module, nn.Embedding):
        return forward is nn.Embedding.forward and module.max_norm is None and not module.scale_grad_by_freq
    if isinstance(module, _CONVOLUTIONS):
        plain = forward in (nn.Conv1d.forward, nn.Conv2d.forward)
        return plain and module.groups == 1 and module.padding_mode == "zeros"
    if isinstance(module, _NORMS):
        return forward in {kind.forward for kind in _NORMS}
    return _is_transposed(module) or _is_scale(module)


def _is_transposed(module: nn.Module) -> bool:
    """GPT-2's linear layer in transformers, which multiplies from the other side."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _is_scale(module: nn.Module) -> bool:
    """Norms of other libraries (the many RMSNorm classes): one weight per feature, no modules inside."""
    own = {key: value for key, value in module._parameters.items() if value is not None}
    plain = not module._modules and set(own) <= {"weight", "bias"} and own["weight"].dim() == 1
    return plain and "norm" in type(module).__name__.lower() and not isinstance(module, _NORMS)


@dataclass
class _Call:
    """One call of a tapped layer: its input, and its output's gradient once the backward pass ran."""

    inputs: Tensor
    grads: Tensor | None = None


class _Anchor(torch.autograd.Function):
    """Makes an output require a gradient without copying it, where nothing upstream does.

    Marking the tensor as changed in place keeps later in-place operations (an in-place ReLU) legal, which a
    leaf with ``requires_grad`` would forbid.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None


class Recorder:
    """Calls of the tapped layers seen during a forward pass; filled in by the backward pass.

    One batch at a time: :meth:`begin`, forward, backward, :meth:`factors`.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Block], broadcast: Sequence[str]) -> None:
        self.modules = dict(model.named_modules())
        self.blocks = tuple(blocks)
        self.broadcast = {name: _owner(self.modules, name) for name in broadcast}
        tied = [block.embedding for block in blocks if block.embedding is not None]
        self.calls: dict[str, list[_Call]] = {name: [] for name in (*(b.name for b in blocks), *tied)}
        self.copies: dict[str, Tensor] = {}
        self.examples = 0
        self.listening = True

    def begin(self, examples: int) -> None:
        """Start a batch of that many examples and forget the one before."""
        self.examples = examples
        for calls in self.calls.values():
            calls.clear()
        for name, (owner, key, parameter) in self.broadcast.items():
            copy = parameter.detach().expand(examples, *parameter.shape).requires_grad_()
            self.copies[name] = copy
            owner.__dict__[key] = copy

    def factors(self) -> dict[str, Factors]:
        """Factors per block after a backward pass; a layer called several times adds its positions up."""
        found: dict[str, Factors] = {}
        # Some factors are formed by running a layer once more, which is not to be recorded.
        listening, self.listening = self.listening, False
        for block in self.blocks:
            parts = [
                part
                for name in (block.name, block.embedding)
                if name is not None
                for part in self._parts(name, block)
            ]
            if parts:
                found[block.name] = join_positions(parts)
        self.listening = listening
        for name, copy in self.copies.items():
            if copy.grad is not None:
                found[name] = Rows(copy.grad.flatten(1))
        return found

    def _parts(self, name: str, block: Block) -> list[Factors]:
        module = self.modules[name]
        calls = [call for call in self.calls[name] if call.grads is not None]
        parts = [_factors(module, block, call, self.examples) for call in calls]
        return [_as_outer(part) for part in parts] if name == block.embedding else parts

    def forget(self) -> None:
        """Drop the output gradients, so that another backward pass through the same graph can be recorded."""
        for calls in self.calls.values():
            for call in calls:
                call.grads = None
        for copy in self.copies.values():
            copy.grad = None


def _owner(modules: dict[str, nn.Module], name: str) -> tuple[nn.Module, str, nn.Parameter]:
    prefix, _, key = name.rpartition(".")
    parameter = modules[prefix]._parameters[key]
    if parameter is None:
        raise KeyError(name)
    return modules[prefix], key, parameter


@contextmanager
def recording(model: nn.Module, blocks: Sequence[Block], broadcast: Sequence[str] = ()) -> Iterator[Recorder]:
    """Record the calls of the given layers within the context; the model is left as found.

    Args:
        model: The model; it is in evaluation mode within the context.
        blocks: Layers to tap.
        broadcast: Parameters used by broadcasting over the batch (a learned position vector, a scale): each
            is replaced by one copy per example, whose gradient is then per example. Whether that holds for a
            given model is for the caller to check.
    """
    recorder = Recorder(model, blocks, broadcast)
    anchor = torch.zeros((), requires_grad=True)
    handles = [
        recorder.modules[name].register_forward_hook(_hook(recorder, name, anchor)) for name in recorder.calls
    ]
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = {module: module.training for module in model.modules()}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for owner, key, _ in recorder.broadcast.values():
            del owner._parameters[key]
        model.eval()
        # The fused encoder skips its sub-modules, and with them the hooks.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.enable_grad():
            yield recorder
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, mode in training.items():
            module.training = mode
        for owner, key, parameter in recorder.broadcast.values():
            owner.__dict__.pop(key, None)
            owner._parameters[key] = parameter
        for parameter in frozen:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


def _hook(recorder: Recorder, name: str, anchor: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not recorder.listening:
            return output
        index = inputs[0].detach()
        if isinstance(module, nn.Embedding) and index.dim() == 1 and output.dim() == 2:
            # Positions shared by the whole batch: one copy per example keeps their gradients apart.
            index = index.expand(recorder.examples, -1)
            output = output.expand(recorder.examples, -1, -1).contiguous()
        elif isinstance(module, nn.Embedding) and index.shape[0] == 1 != recorder.examples:
            index = index.expand(recorder.examples, *index.shape[1:])
            output = output.expand(recorder.examples, *output.shape[1:]).contiguous()
        call = _Call(index)
        recorder.calls[name].append(call)
        if not output.requires_grad:
            output = _Anchor.apply(output, anchor)  # pyright: ignore[reportAssignmentType]

        def keep(grad: Tensor) -> None:
            call.grads = grad

        output.register_hook(keep)
        return output

    return hook


def _factors(module: nn.Module, block: Block, call: _Call, examples: int) -> Factors:
    if call.grads is None:
        raise RuntimeError("factors are asked for before the backward pass")
    inputs, grads = call.inputs, call.grads
    if isinstance(module, nn.Embedding):
        return _embedding(module, inputs, grads, examples)
    if isinstance(module, _NORMS) or _is_scale(module):
        return _norm(module, block, inputs, grads)
    if isinstance(module, _CONVOLUTIONS):
        images, patches = _images(module, inputs)
        factors = Outer(images, grads.flatten(2).transpose(1, 2), block.bias is not None, patches)
    else:
        raw = inputs.reshape(examples, -1, inputs.shape[-1])
        factors = Outer(raw, grads.reshape(examples, -1, grads.shape[-1]), block.bias is not None)
    if block.weight is None:  # the bias alone: its input is the one
        return Outer(factors.grads.new_ones(*factors.grads.shape[:2], 1), factors.grads)
    return factors


def _as_outer(part: Factors) -> Factors:
    """An embedding's gradient in the form of the output layer that it is tied to: one-hot rows times gradients."""
    if not isinstance(part, Lookup):
        raise TypeError("only embeddings are tied to output layers")
    rows = part.grads.new_zeros(*part.index.shape, part.rows)
    return Outer(part.grads, rows.scatter_(2, part.index[:, :, None], 1.0))


def _embedding(module: nn.Embedding, index: Tensor, grads: Tensor, examples: int) -> Lookup:
    index = index.reshape(examples, -1)
    grads = grads.reshape(examples, -1, grads.shape[-1])
    if module.padding_idx is not None:
        grads = grads.masked_fill((index == module.padding_idx)[:, :, None], 0.0)
    return Lookup(index, grads, module.num_embeddings)


def _images(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Patches]:
    if isinstance(module, nn.Conv1d):
        inputs = inputs.unsqueeze(2)
        patches = Patches((1, module.kernel_size[0]), (1, module.stride[0]), (1, module.dilation[0]))
    elif isinstance(module, nn.Conv2d):
        patches = Patches(
            (module.kernel_size[0], module.kernel_size[1]),
            (module.stride[0], module.stride[1]),
            (module.dilation[0], module.dilation[1]),
        )
    else:
        raise TypeError(f"{type(module).__name__} is not a convolution")
    padding = list(module._reversed_padding_repeated_twice)
    return (F.pad(inputs, padding) if any(padding) else inputs), patches


def _norm(module: nn.Module, block: Block, inputs: Tensor, grads: Tensor) -> Rows:
    normal = _normalised(module, inputs)
    if isinstance(module, nn.GroupNorm | nn.BatchNorm1d | nn.BatchNorm2d):
        over = tuple(range(2, grads.dim()))
    else:
        kept = len(module.weight.shape)  # pyright: ignore[reportArgumentType]
        over = tuple(range(1, grads.dim() - kept))
    parts: list[Tensor] = []
    if block.weight is not None:
        product = grads * normal
        parts.append((product.sum(over) if over else product).flatten(1))
    if block.bias is not None:
        parts.append((grads.sum(over) if over else grads).flatten(1))
    return Rows(torch.cat(parts, 1))


def _normalised(module: nn.Module, inputs: Tensor) -> Tensor:
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(inputs, module.normalized_shape, None, None, module.eps)
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(inputs, module.num_groups, None, None, module.eps)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        if module.running_mean is None or module.running_var is None:
            raise TypeError("a BatchNorm without running statistics mixes the examples of a batch")
        shape = (1, -1, *([1] * (inputs.dim() - 2)))
        scale = (module.running_var + module.eps).rsqrt().view(shape)
        return (inputs - module.running_mean.view(shape)) * scale
    if _is_scale(module):
        return _per_weight(module, inputs)
    return F.rms_norm(inputs, module.normalized_shape, None, module.eps)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _per_weight(module: nn.Module, inputs: Tensor) -> Tensor:
    """What the layer's weight is multiplied with: its output at weight one, less that at weight zero."""
    weight = getattr(module, "weight").detach()  # noqa: B009 - a parameter, which the type of a module hides
    with torch.no_grad():
        one, zero = (
            torch.func.functional_call(module, {"weight": value}, (inputs,))
            for value in (torch.ones_like(weight), torch.zeros_like(weight))
        )
    return one - zero
