"""Soft cap sampling: draw with repetition, where what was drawn becomes less likely to be drawn again."""

import numpy as np
from jaxtyping import Float, Int


def soft_cap(
    scores: Float[np.ndarray, " item"],
    size: int,
    *,
    penalty: float | int,
    at_once: int,
    draw: np.random.Generator,
) -> Int[np.ndarray, " item"]:
    r"""How often each item is drawn when ``size`` are drawn in rounds.

    A round draws items without replacement with chances that go as :math:`e^{s_i}`; then the score of every drawn item
    falls by the penalty. No penalty is sampling with replacement (for rounds of one), an infinite one is sampling
    without.

    Cost: size / at_once draws of one number per item.

    Args:
        scores: Logarithms of chances, up to a constant.
        size: How many to draw, in all.
        penalty: What a draw takes off the score.
        at_once: Items per round.
        draw: Of random numbers.

    Source: Shechter & Carmon (2025), "Filter Like You Test", on soft cap sampling; from its description.
    """
    counts = np.zeros(len(scores), dtype=np.int64)
    left = np.asarray(scores, dtype=np.float64).copy()
    while size > 0:
        open_ = np.flatnonzero(np.isfinite(left))
        count = min(size, at_once, len(open_))
        if count == 0:
            break
        noise = -np.log(-np.log(np.maximum(draw.random(len(open_)), np.finfo(np.float64).tiny)))
        chosen = open_[np.argsort(-(left[open_] + noise), kind="stable")[:count]]
        counts[chosen] += 1
        left[chosen] -= penalty
        size -= count
    return counts
