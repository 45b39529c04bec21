"""Gradients as an optimiser sees them: Adam's direction, and second moments in the layout of the blocks.

Sources: Kingma & Ba (2015), "Adam: A Method for Stochastic Optimization", algorithm 1; Shazeer & Stern (2018),
"Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", section 3, for second moments as the outer product
of their row and column sums, which leaves gradients factored.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.errors import ModelError
from steelyard.gradients.coverage import Coverage, split_matrix, split_rows
from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Lookup, Outer, Rows


@dataclass(frozen=True, eq=False)
class AdamState:
    """Adam in the middle of a training.

    Attributes:
        first: Running mean of the gradient by parameter, not bias-corrected (``exp_avg``).
        second: Running mean of its square (``exp_avg_sq``).
        step: Steps that went into them.
        betas: Decay rates of the two.
        eps: Added to the root of the second moment.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    step: int
    betas: tuple[float, float]
    eps: float


def in_blocks(
    values: Mapping[str, Tensor], found: Mapping[str, Factors], coverage: Coverage, model: nn.Module
) -> dict[str, Float[Tensor, "row column"]]:
    """Numbers per parameter, arranged like the gradient matrices of the blocks.

    Args:
        values: By parameter, each of the parameter's shape.
        found: Factors of any example, for names and shapes.
        coverage: Which block holds which parameters.
        model: Whose parameters they are.

    Raises:
        ModelError: If a parameter is missing or has another shape.
    """
    blocks = {block.name: block for block in coverage.blocks}
    parameters = dict(model.named_parameters())
    arranged: dict[str, Tensor] = {}
    for name, factors in found.items():
        rows, columns = factors.shape
        # Places travel the way that gradients take to their parameters, whatever that is; then it is reversed.
        places = torch.arange(rows * columns, dtype=torch.float64)[None]
        if name in blocks and not isinstance(factors, Rows):
            parts = split_matrix(blocks[name], places.view(1, rows, columns))
        elif name in blocks:
            parts = split_rows(blocks[name], Rows(places), model)
        else:
            parts = {name: places}
        out = torch.zeros(rows * columns)
        for parameter, where in parts.items():
            _check(parameter, values, parameters[parameter])
            out[where[0].long()] = values[parameter].detach().flatten().to(out)
        arranged[name] = out.view(rows, columns)
    return arranged


def _check(name: str, values: Mapping[str, Tensor], parameter: Tensor) -> None:
    given = tuple(values[name].shape) if name in values else None
    if given != tuple(parameter.shape):
        raise ModelError(
            f"the optimiser's state has {given or 'nothing'} for parameter {name!r}, which has shape "
            f"{tuple(parameter.shape)}.",
            fix="give the state that was saved with this very model.",
        )


def adam_direction(
    state: AdamState, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> Callable[[str, Tensor], Tensor]:
    """What Adam's next step would be along, were an example's gradient that of the batch.

    With ``m`` and ``v`` the moments after that step, at step ``t + 1``:
    ``m / (1 - beta1^(t+1)) / (sqrt(v / (1 - beta2^(t+1))) + eps)``. Not linear in the gradient.

    Args:
        state: For step, betas and eps.
        first: ``state.first`` by block, from :func:`in_blocks`.
        second: ``state.second`` by block.

    Source: Kingma & Ba (2015), algorithm 1; as Gamma of Xia et al. (2024), definition 3.1.
    """
    (beta1, beta2), after = state.betas, state.step + 1

    def direction(name: str, full: Tensor) -> Tensor:
        mean = first[name].to(full) * beta1 + full * (1 - beta1)
        square = second[name].to(full) * beta2 + full.square() * (1 - beta2)
        return mean / (1 - beta1**after) / ((square / (1 - beta2**after)).sqrt() + state.eps)

    return direction


Sums = tuple[Tensor, Tensor]


def squares(
    batches: Iterable[tuple[Mapping[str, Factors], Float[Tensor, " example"]]],
) -> dict[str, Sums]:
    """Row and column sums of the weighted sum of squared gradients of every block, in float64.

    Args:
        batches: Factors per block with the weights of their examples.
    """
    total: dict[str, Sums] = {}
    for found, weights in batches:
        for name, factors in found.items():
            rows, columns = _squares(factors, weights)
            old = total.get(name)
            total[name] = (rows, columns) if old is None else (old[0] + rows, old[1] + columns)
    return total


def inverse_roots(sums: Sums) -> tuple[Tensor, Tensor]:
    """Numbers for rows and columns whose products are ``1 / sqrt(V)``, V the rank-one second moment.

    ``V_kl = rows_k columns_l / sum(rows)``; exact where there is one row. A row or column without any gradient gets
    0: no example ever moved those parameters.
    """
    root = sums[0].sum().sqrt()
    scales = [torch.where(part > 0, (part / root.clamp_min(1e-300)).rsqrt(), 0.0) for part in sums]
    return scales[0], scales[1]


def _squares(factors: Factors, weights: Tensor) -> Sums:
    weights = weights.double()
    if isinstance(factors, Lookup):
        return _squares_of_lookup(factors, weights)
    if isinstance(factors, Outer) and factors.grads.shape[1] == 1 and factors.patches is None:
        grads, inputs = factors.grads[:, 0].double().square(), factors.inputs[:, 0].double().square()
        return (weights * inputs.sum(1)) @ grads, (weights * grads.sum(1)) @ inputs
    rows, columns = factors.shape
    total = torch.zeros(rows, columns, dtype=torch.float64)
    step = max(1, _CHUNK_ELEMENTS // max(1, rows * columns))
    for i in range(0, len(factors), step):
        full = factors.slice(i, i + step).full().double().square()
        total += torch.einsum("e,erc->rc", weights[i : i + step].to(full), full).cpu()
    return total.sum(1), total.sum(0)


def _squares_of_lookup(factors: Lookup, weights: Tensor) -> Sums:
    """Positions of one example that look up the same row add up before they are squared."""
    count, positions = factors.index.shape
    own = torch.arange(count, device=factors.index.device)[:, None] * factors.rows
    keys, place = torch.unique(own + factors.index, return_inverse=True)
    width = factors.grads.shape[2]
    merged = torch.zeros(len(keys), width, dtype=torch.float64, device=factors.grads.device)
    merged.index_add_(0, place.flatten(), factors.grads.reshape(count * positions, width).double())
    merged = merged.square() * weights.to(merged)[keys // factors.rows][:, None]
    rows = torch.zeros(factors.rows, dtype=torch.float64, device=merged.device)
    return rows.index_add_(0, keys % factors.rows, merged.sum(1)).cpu(), merged.sum(0).cpu()
