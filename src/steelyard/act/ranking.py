"""From scores to an order of suspicion, with a reason in words for every example that a plan names."""

import numpy as np
from jaxtyping import Int

from steelyard.errors import SettingError
from steelyard.records import Provenance, Scores


def by_harm(scores: Scores) -> Int[np.ndarray, " train"]:
    """Row positions from most to least harmful; equal scores in the order of their ids, on every machine.

    Raises:
        NumericsError: If a score is not finite.
    """
    harm = scores.check_finite().harm()
    return np.lexsort((scores.train_ids.astype(str), -harm))


def size_of(total: int, *, fraction: float | None, count: int | None, action: str) -> int:
    """How many examples a plan names.

    Args:
        total: Number of training examples.
        fraction: Share of them, above 0 and below 1, rounded to the nearest whole number but at least 1.
        count: Or their number, at least 1 and below ``total``.
        action: Who asks, for the errors.

    Raises:
        SettingError: If both or neither are given, or one is out of range.
    """
    if (fraction is None) == (count is None):
        raise SettingError(
            f"{action}: fraction={fraction} and count={count}.",
            fix="give exactly one of fraction= and count=.",
        )
    if fraction is not None and not 0 < fraction < 1:
        raise SettingError(
            f"{action}: fraction={fraction}.", fix="give a share above 0 and below 1, such as .02."
        )
    size = max(1, round(fraction * total)) if fraction is not None else int(count or 0)
    if not 0 < size < total:
        raise SettingError(
            f"{action}: {size} of {total} training examples.",
            fix=f"name at least 1 and at most {total - 1} of them.",
        )
    return size


def reasons(scores: Scores, rows: Int[np.ndarray, " change"]) -> tuple[str, ...]:
    """One sentence per row: what the scores say about it, and its rank among all training examples."""
    order = by_harm(scores)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    values = scores.per_example()
    return tuple(
        f"{_claim(scores, float(values[row]))}; rank {rank[row]} of {len(order)} by harm" for row in rows
    )


def _claim(scores: Scores, value: float) -> str:
    if scores.axis == "example":
        unit = "" if scores.unit == "rank" else f" {scores.unit}"
        suspect = "higher" if scores.suspect == "high" else "lower"
        return f"{scores.name} is {value:.4g}{unit} ({suspect} = more suspect)"
    queries = f"{len(scores.query_ids)} queries" if len(scores.query_ids) != 1 else "1 query"
    if scores.unit == "rank":
        return f"mean rank {value:+.3f} over {queries} (-1 = least like them, 1 = most)"
    helps = value >= 0
    verb = "lowers" if helps == scores.measurement.lower_is_better else "raises"
    return f"{verb} the {scores.measurement.name} of {queries} by {abs(value):.4g} {scores.unit} on average"


def provenance(scores: Scores, given: dict[str, object], size: int) -> Provenance:
    """Where a plan came from: its settings and the scores behind it."""
    return Provenance(
        given=given,
        resolved={"examples": size, "scores": scores.method},
        versions=dict(scores.provenance.versions),
        seeds=dict(scores.provenance.seeds),
        checksums={"train": scores.train_checksum, "query": scores.query_checksum},
    )
