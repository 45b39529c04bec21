"""Damping of Kronecker-factored curvature: by a rule, as given, or by the likelihood of held-out gradients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from steelyard.errors import SettingError
from steelyard.gradients.kronecker import EigenBlock

_MULTIPLES = np.logspace(-6, 2, 65)
_DEAD = 1e-10


def resolve_damping(
    blocks: Mapping[str, EigenBlock], damping: float | int | str
) -> tuple[dict[str, float], str]:
    """Damping per block, and the reason in words.

    ``"auto"`` is a tenth of the mean eigenvalue of each block (Grosse et al. 2023, appendix D.3): it follows
    the scale of every layer and looks at the curvature only, never at a query or a metric of quality.

    Args:
        blocks: Curvature per block, means over examples.
        damping: ``"auto"``, or a number added to every eigenvalue of the *mean* curvature.

    Raises:
        SettingError: If the number is negative, or the word is not ``"auto"``.
    """
    if damping == "auto":
        return (
            {name: 0.1 * float(block.values.mean()) for name, block in blocks.items()},
            "0.1 x mean eigenvalue of each block",
        )
    if isinstance(damping, str) or damping < 0:
        raise SettingError(
            f"damping={damping!r}", fix='give "auto", "heldout" or a number that is not negative.'
        )
    return dict.fromkeys(blocks, float(damping)), "as given, the same for every block"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What held-out gradients say about the damping.

    Attributes:
        damping: The likeliest per block.
        multiples: Multiples of each block's mean eigenvalue that were tried.
        curve: ``[" multiple"]`` Log-likelihood in nats per direction, all blocks together, when every block takes
            the same multiple.
        best: The same with each block's own best multiple.
    """

    damping: Mapping[str, float]
    multiples: Float64[np.ndarray, " multiple"]
    curve: Float64[np.ndarray, " multiple"]
    best: float


def held_out_damping(
    blocks: Mapping[str, EigenBlock], seen: Mapping[str, np.ndarray], decay: float
) -> HeldOut:
    r"""The damping under which held-out gradients are most likely to have come from the damped curvature.

    Gradients are taken as draws from :math:`N(0, F + (decay + damping) I)` with F the curvature of the other
    examples. In its eigenbasis the log-likelihood of held-out gradients with mean squares ``s`` is
    :math:`-\frac12 \sum_{kl} \log(d_{kl} + \lambda) + s_{kl} / (d_{kl} + \lambda)`, up to a constant. Where the
    curvature is overconfident (an eigenvalue estimated as nearly 0 in a direction that held-out gradients do
    have), a larger damping wins. No query and no measure of quality takes part.

    Directions that no gradient reaches on either side (a pixel that is always black) are left out: with them, the
    likelihood would grow without bound as the damping goes to 0.

    Cost: 65 evaluations per eigenvalue.

    Args:
        blocks: Curvature of one part of the examples.
        seen: Per block, mean squared gradients of the other part in the eigenbases of ``blocks``.
        decay: Coefficient of the l2 penalty in the mean training loss.

    Returns:
        Damping per block, to be added to the eigenvalues of the mean curvature.
    """
    chosen: dict[str, float] = {}
    total, best, directions = np.zeros(len(_MULTIPLES)), 0.0, 0
    for name, block in blocks.items():
        values, squares = block.values.clamp_min(0.0).numpy().ravel(), seen[name].ravel()
        mean = float(values.mean())
        live = np.maximum(values, squares) > _DEAD * max(mean, float(squares.mean()))
        if mean == 0.0 or not live.any():
            chosen[name] = 0.0
            continue
        damped = values[live] + decay + mean * _MULTIPLES[:, None]
        curve = -0.5 * (np.log(damped) + squares[live] / damped).sum(axis=1)
        chosen[name] = float(mean * _MULTIPLES[int(curve.argmax())])
        total, best, directions = total + curve, best + float(curve.max()), directions + int(live.sum())
    return HeldOut(chosen, _MULTIPLES, total / max(1, directions), best / max(1, directions))
