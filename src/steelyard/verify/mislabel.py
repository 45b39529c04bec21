"""Do the scores find known wrong labels? Area under the ROC curve."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from steelyard.errors import DataError, SettingError
from steelyard.maths.power import minimum_detectable
from steelyard.maths.ranks import Area, auc, detection_curve
from steelyard.records import Evidence, Provenance, Scores
from steelyard.records.evidence import Verdict
from steelyard.records.provenance import versions
from steelyard.verify.design import LEVEL, listed

_SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


def mislabel_auc(scores: Scores, truth: Iterable[str]) -> Evidence:
    """How well suspicion separates examples that are known to be mislabelled from the others.

    The area under the ROC curve of ``scores.harm()``: the chance that a mislabelled example is more suspect
    than a correctly labelled one, ties counting one half. Random scores give 1/2 whatever the number of wrong
    labels. The interval is DeLong's, the p-value that of Mann and Whitney.

    Cost: no fit; a few sorts.

    Args:
        scores: Per query (averaged over queries) or per example.
        truth: Ids of all training examples that are mislabelled.

    Returns:
        Evidence at 95 %. The table is the detection curve: the share of wrong labels found when that share of
        the training examples, most suspect first, is inspected. Confirmed if the interval lies above 1/2 and
        p is at most .05, refuted if it lies below or within .45 to .55, else inconclusive.

    Raises:
        DataError: If an id is not among the scored examples.
        SettingError: If no or every example is mislabelled.
        NumericsError: If a score is not finite.
    """
    scores.check_finite()
    ids = [str(name) for name in scores.train_ids]
    wanted = {str(name) for name in truth}
    unknown = sorted(wanted.difference(ids))
    if unknown:
        raise DataError(
            f"mislabel_auc: {len(unknown)} ids of mislabelled examples are not among the {len(ids)} scored "
            f"ones; the first is {unknown[0]!r}.",
            fix="give ids of the training examples that were scored.",
        )
    marked = np.array([name in wanted for name in ids], dtype=bool)
    if marked.all() or not marked.any():
        raise SettingError(
            f"mislabel_auc: {int(marked.sum())} of {len(ids)} examples are mislabelled.",
            fix="give the ids of some, and not all, training examples.",
        )
    harm = scores.harm().astype(np.float64)
    area = auc(harm, marked, level=LEVEL)
    inspected = np.unique(np.maximum(1, np.round(np.array(_SHARES) * len(ids)).astype(np.int64)))
    right, wrong = int((~marked).sum()), int(marked.sum())
    # Variance of the Mann-Whitney area when both groups are alike, without ties.
    error = ((len(ids) + 1) / (12 * right * wrong)) ** 0.5
    return Evidence(
        metric="mislabel_auc",
        subject=scores.method,
        estimate=area.value,
        interval=(area.low, area.high),
        level=LEVEL,
        unit="AUC",
        better="higher",
        control={"estimate": 0.5, "low": max(0.0, 0.5 - 1.96 * error), "high": min(1.0, 0.5 + 1.96 * error)},
        p_value=area.p_value,
        verdict=_verdict(area),
        power=(
            f"With {wrong} wrong labels among {len(ids)} this sees areas above "
            f"{min(1.0, 0.5 + minimum_detectable(error, 10_000, level=LEVEL)):.3g} at 80 % power."
        ),
        table={
            "inspected": listed(inspected),
            "share_inspected": listed(inspected / len(ids)),
            "share_found": listed(detection_curve(harm, marked, inspected)),
        },
        provenance=replace(
            Provenance(given={"by": "mislabel_auc", "mislabelled": wrong}),
            versions=versions(),
            checksums={"train": scores.train_checksum, "query": scores.query_checksum},
            seeds=dict(scores.provenance.seeds),
        ),
    )


def _verdict(area: Area) -> Verdict:
    if area.low > 0.5 and area.p_value <= 1 - LEVEL:
        return "confirmed"
    if area.high < 0.5 or (area.low > 0.45 and area.high < 0.55):
        return "refuted"
    return "inconclusive"
