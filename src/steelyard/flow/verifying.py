"""Evidence for scores and plans in one call, by name of the metric."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from steelyard import act, verify
from steelyard.errors import SettingError
from steelyard.flow.metrics import METRICS, applies, metric_of, settings_from, with_column
from steelyard.problem import Problem
from steelyard.records import Evidence, Report, Scores
from steelyard.report import judge
from steelyard.run import Run, in_memory

_SHARE = 0.05


def verify_report(  # noqa: PLR0913 - what to verify, by what and how hard, all named
    problem: Problem,
    report: Report,
    *,
    metrics: Sequence[str] = ("lds", "retraining"),
    seeds: int | None = None,
    subsets: int = 64,
    truth: Mapping[str, str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    run: Run | None = None,
) -> Report:
    """The same report with evidence: do refits bear out what the scores and plans say?

    Cost: that of each metric: see :data:`METRICS` and ``docs/families/verification.md``. Fits that metrics or methods
    share, such as those of random controls, are made once.

    Without a plan in the report, ``"retraining"`` verifies that of dropping the 5 % that the scores call most
    harmful. Metrics whose fits all methods share are also asked of the baselines.

    Args:
        problem: The problem that the report is about.
        report: Scores first asked for, then baselines, and plans.
        metrics: Names from ``METRICS``.
        seeds: Training seeds per fit; each metric's own default if None.
        subsets: Random subsets for ``"lds"``.
        truth: Metric to the column that it needs; under the empty name, that of all metrics not named.
        settings: Metric to further settings, as text or plain values; they take precedence.
        run: Run folder in which every fit is kept; nowhere if None.

    Raises:
        SettingError: If there is no such metric or setting, a column is missing, or a metric applies to no scores.
    """
    asked = {name: _settings(name, seeds, subsets, truth or {}, settings or {}) for name in metrics}
    run = run or in_memory()
    if "retraining" in asked and not report.plans:
        report = replace(report, plans=(act.drop(report.scores[0], fraction=_SHARE),))
    evidence: list[Evidence] = []
    for name, chosen in asked.items():
        if name == "retraining":
            evidence += [verify.by_retraining(problem, plan, run=run, **chosen) for plan in report.plans]
        else:
            evidence += [METRICS[name].ask(problem, one, chosen, run) for one in _scores(name, report)]
    return judge(replace(report, evidence=(*report.evidence, *evidence)))


def _scores(name: str, report: Report) -> list[Scores]:
    """The scores that a metric is asked of: those asked for, and baselines where these cost little."""
    found = [scores for scores in report.scores if applies(name, scores)]
    if not found:
        raise SettingError(
            f"{name} needs scores for every query, and {report.scores[0].name} gives one number per example.",
            fix="use removal_curve, retain_curve, retraining or mislabel_auc, or another method.",
        )
    return found if METRICS[name].beside else found[:1]


def _settings(
    name: str,
    seeds: int | None,
    subsets: int,
    truth: Mapping[str, str],
    given: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    known: dict[str, Any] = {"subsets": subsets} if name == "lds" else {}
    if seeds is not None and "seeds" in metric_of(name).settings:
        known["seeds"] = seeds
    return with_column(name, known | settings_from(name, given.get(name, {})), truth)


def forecasts(
    problem: Problem,
    report: Report,
    *,
    metrics: Sequence[str],
    effect: float | None = None,
    run: Run | None = None,
) -> tuple[verify.Forecast, ...]:
    """How many fits each of these metrics needs to see an effect: see :func:`steelyard.verify.forecast`.

    Cost: some dozen fits per metric, which the verification itself reads again where they are of the same sets.

    Raises:
        SettingError: If there is no such metric, none of them has a forecast, or the scores do not suit one.
    """
    names = [name for name in dict.fromkeys(metrics) if metric_of(name) and name in verify.FORECAST]
    if not names:
        raise SettingError(
            f"none of {', '.join(metrics)} has a forecast.", fix=f"choose from {', '.join(verify.FORECAST)}."
        )
    return tuple(
        verify.forecast(problem, _scores(name, report)[0], metric=name, effect=effect, run=run)
        for name in names
    )
