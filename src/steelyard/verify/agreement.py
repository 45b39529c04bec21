"""Do the strongest proponents share what is known about the query: its topic, its class, its source?"""

import numpy as np

from steelyard.errors import SettingError
from steelyard.maths.power import minimum_detectable, paired
from steelyard.problem import Problem
from steelyard.records import Evidence, Provenance, Scores
from steelyard.records.evidence import Verdict
from steelyard.records.provenance import versions
from steelyard.records.top import extremes
from steelyard.verify.design import aligned, listed

LEVEL = 0.95


def agreement(problem: Problem, scores: Scores, *, column: str, top: int = 5) -> Evidence:
    """How often a query's strongest proponents agree with it in a column that the model never read.

    The estimate is the share of a query's ``top`` proponents whose ``column`` equals the query's, averaged
    over the queries (precision at ``top``). Random scores reach the share of all training examples for which
    it does; query by query the difference from this chance is taken.

    This tells whether scores point at related examples, not whether removing these would matter: that is what
    refits are for. A method that only looks for similar words can score high here.

    Cost: no fit; one pass over the scores.

    Args:
        problem: Training examples and queries with the column.
        scores: One column per query.
        column: A column of both sides, such as ``"topic"``.
        top: Proponents per query.

    Returns:
        Evidence in precision, at 95 %: Student's interval over the queries, shifted by chance. Confirmed if
        it lies above chance, refuted if it ends at or below chance, else inconclusive.

    Raises:
        SettingError: If ``top`` is out of range, there are fewer than two queries, or scores are per example.
        DataError: If a side lacks the column, or the scores are about other examples.
    """
    if not 1 <= top < len(problem.train) or len(problem.query) < 2:
        raise SettingError(
            f"agreement: top={top} of {len(problem.train)} training examples, {len(problem.query)} queries.",
            fix="give at least one proponent, fewer than there are examples, and at least two queries.",
        )
    scores = aligned(problem, scores, asked="agreement")
    theirs = np.asarray(problem.train.column(column)[:]).astype(str)
    wanted = np.asarray(problem.query.column(column)[:]).astype(str)
    found = extremes(scores.blocks(), top, highest=True)
    shares = (theirs[found.rows] == wanted).mean(axis=0)
    chance = np.array([(theirs == value).mean() for value in wanted])
    gap = paired(shares - chance, level=LEVEL)
    base = float(chance.mean())
    seen = minimum_detectable(gap.standard_error, gap.freedom, level=LEVEL)
    return Evidence(
        metric="agreement",
        subject=scores.method,
        estimate=base + gap.estimate,
        interval=(base + gap.low, min(1.0, base + gap.high)),
        level=LEVEL,
        unit=f"precision at {top} in {column}",
        better="higher",
        control={"estimate": base},
        p_value=gap.p_value,
        verdict=_verdict(gap.low, gap.high),
        power=f"With {len(wanted)} queries this sees {seen:.2g} above chance at 80 % power.",
        table={"query_id": listed(problem.query.ids), "precision": listed(shares), "chance": listed(chance)},
        provenance=Provenance(
            given={"by": "agreement", "column": column, "top": top},
            versions=versions(),
            checksums={"train": scores.train_checksum, "query": scores.query_checksum},
            seeds=dict(scores.provenance.seeds),
        ),
    )


def _verdict(low: float, high: float) -> Verdict:
    if low > 0:
        return "confirmed"
    return "refuted" if high <= 0 else "inconclusive"
