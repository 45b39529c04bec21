"""Evidence for scores and plans in one call, by name of the metric."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from steelyard import act, verify
from steelyard.errors import SettingError
from steelyard.problem import Problem
from steelyard.records import Evidence, Report
from steelyard.report import judge
from steelyard.run import Run, in_memory
from steelyard.score.settings import did_you_mean

_SHARE = 0.05


def verify_report(
    problem: Problem,
    report: Report,
    *,
    metrics: Sequence[str] = ("lds", "retraining"),
    seeds: int | None = None,
    subsets: int = 64,
    run: Run | None = None,
) -> Report:
    """The same report with evidence: do refits bear out what the scores and plans say?

    Cost: ``subsets`` fits for ``"lds"``, shared with the baselines; seeds times ten per plan for
    ``"retraining"``; about as many for ``"removal_curve"`` and ``"calibration"``; six and one more per further
    method for ``"qld"``; no fit but some gradients for ``"tail_patch"``.

    Without a plan in the report, ``"retraining"`` verifies that of dropping the 5 % that the scores call most
    harmful.

    Args:
        problem: The problem that the report is about.
        report: Scores first asked for, then baselines, and plans.
        metrics: Names from ``METRICS``.
        seeds: Training seeds per fit; each metric's own default if None.
        subsets: Random subsets for ``"lds"``.
        run: Run folder in which every fit is kept; nowhere if None.

    Raises:
        SettingError: If there is no such metric, or none applies.
    """
    for metric in metrics:
        if metric not in METRICS:
            raise SettingError(
                f"There is no metric {metric!r}{did_you_mean(metric, METRICS)}",
                fix=f"choose from {', '.join(METRICS)}.",
            )
    run = run or in_memory()
    if "retraining" in metrics and not report.plans:
        report = replace(report, plans=(act.drop(report.scores[0], fraction=_SHARE),))
    evidence: list[Evidence] = []
    for metric in dict.fromkeys(metrics):
        evidence += METRICS[metric](problem, report, _Effort(seeds, subsets), run)
    return judge(replace(report, evidence=(*report.evidence, *evidence)))


@dataclass(frozen=True)
class _Effort:
    seeds: int | None
    subsets: int

    def seeds_or(self, default: int) -> int:
        return default if self.seeds is None else self.seeds


def _lds(problem: Problem, report: Report, effort: _Effort, run: Run) -> list[Evidence]:
    found = [scores for scores in report.scores if scores.axis == "pair"]
    return [verify.lds(problem, s, subsets=effort.subsets, seeds=effort.seeds_or(1), run=run) for s in found]


def _retraining(problem: Problem, report: Report, effort: _Effort, run: Run) -> list[Evidence]:
    return [verify.by_retraining(problem, plan, seeds=effort.seeds_or(5), run=run) for plan in report.plans]


def _removal_curve(problem: Problem, report: Report, effort: _Effort, run: Run) -> list[Evidence]:
    return [verify.removal_curve(problem, report.scores[0], seeds=effort.seeds_or(3), run=run)]


def _calibration(problem: Problem, report: Report, effort: _Effort, run: Run) -> list[Evidence]:
    return [verify.calibration(problem, report.scores[0], seeds=effort.seeds_or(3), run=run)]


def _tail_patch(problem: Problem, report: Report, effort: _Effort, run: Run) -> list[Evidence]:
    found = [scores for scores in report.scores if scores.axis == "pair"]
    return [verify.tail_patch(problem, scores, run=run) for scores in found]


def _qld(problem: Problem, report: Report, effort: _Effort, run: Run) -> list[Evidence]:
    found = [scores for scores in report.scores if scores.axis == "pair"]
    return [verify.qld(problem, s, seeds=effort.seeds_or(1), run=run) for s in found]


METRICS: Mapping[str, Callable[[Problem, Report, _Effort, Run], list[Evidence]]] = {
    "lds": _lds,
    "retraining": _retraining,
    "removal_curve": _removal_curve,
    "calibration": _calibration,
    "tail_patch": _tail_patch,
    "qld": _qld,
}
"""What ``steelyard verify --metric`` knows."""
