"""The metrics by name: which verification each one is, what it needs to know, and how it is asked for.

``steelyard verify`` and ``steelyard leaderboard`` know metrics only through this table.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from steelyard import act, verify
from steelyard.errors import SettingError
from steelyard.flow.untaught import untaught
from steelyard.problem import Problem
from steelyard.records import Evidence, Scores
from steelyard.run import Run, stream
from steelyard.score import from_repr
from steelyard.score.settings import did_you_mean, parse_values
from steelyard.verify.planted import flags

_DROPPED = 0.05
_NOT_SETTINGS = {"problem", "scores", "plan", "column", "run", "truth", "sets", "again", "untaught", "level"}

Ask = Callable[[Problem, Scores, Mapping[str, Any], Run], Evidence]


@dataclass(frozen=True)
class Metric:
    """A way to verify scores.

    Attributes:
        says: What it asks, in a few words.
        ask: Verifies scores of a problem, with settings, in a run.
        settings: Name to type of every setting.
        pairs: Whether it needs one score per training example and query.
        column: What the column that it needs is for; empty if it needs none.
        beside: Whether baselines are verified by it as well: what all methods share makes that cheap.
        rated: Whether its estimate says which of two methods is better.
    """

    says: str
    ask: Ask
    settings: Mapping[str, Any]
    pairs: bool = True
    column: str = ""
    beside: bool = False
    rated: bool = True


def _plain(function: Callable[..., Evidence]) -> Ask:
    """A verification that takes a problem, scores and settings, and fits or columns as it needs them."""
    takes_run = "run" in inspect.signature(function).parameters

    def ask(problem: Problem, scores: Scores, settings: Mapping[str, Any], run: Run) -> Evidence:
        if takes_run:
            return function(problem, scores, run=run, **settings)
        return function(problem, scores, **settings)

    return ask


def _retraining(problem: Problem, scores: Scores, settings: Mapping[str, Any], run: Run) -> Evidence:
    plan = act.drop(scores, fraction=_DROPPED)
    return verify.by_retraining(problem, plan, run=run, **settings)


def _mislabel(problem: Problem, scores: Scores, settings: Mapping[str, Any], run: Run) -> Evidence:
    wrong = problem.train.ids[flags(problem.train, settings["column"])]
    return verify.mislabel_auc(scores, wrong.tolist())


def _stability(problem: Problem, scores: Scores, settings: Mapping[str, Any], run: Run) -> Evidence:
    method, count = from_repr(scores.method), int(settings.get("seeds", 3))
    others = [method(_seeded(problem, k), run) for k in range(1, count)]
    return verify.seed_stability(problem, [scores, *others])


def _randomisation(problem: Problem, scores: Scores, settings: Mapping[str, Any], run: Run) -> Evidence:
    method = from_repr(scores.method)
    again = method(_seeded(problem, 1), run)
    blank = method(untaught(problem, run), run)
    return verify.model_randomisation(problem, scores, again, blank)


def _seeded(problem: Problem, number: int) -> Problem:
    """The same problem, its explained model trained with another seed of verification."""
    if problem.learner.settings().get("trained"):
        raise SettingError(
            "the model came trained, so that there is no second one to compare scores with.",
            fix="let the learner train it (without trained=True), or leave this metric out.",
        )
    seed = stream(problem.seed, "verification", "seed", number)
    return Problem(problem.learner, problem.train, problem.query, seed=seed)


def _of(  # noqa: PLR0913 - one argument per fact about a metric
    function: Callable[..., Evidence],
    says: str,
    *,
    ask: Ask | None = None,
    settings: Mapping[str, Any] | None = None,
    pairs: bool = True,
    column: str = "",
    beside: bool = False,
    rated: bool = True,
) -> Metric:
    """A metric whose settings are the keyword arguments of a verification, where they are not given."""
    parameters = inspect.signature(function).parameters.values()
    found = {item.name: item.annotation for item in parameters if item.name not in _NOT_SETTINGS}
    return Metric(says, ask or _plain(function), settings or found, pairs, column, beside, rated)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "lds": _of(verify.lds, "predictions for random subsets", beside=True),
        "loo": _of(verify.loo, "order of single removals", beside=True),
        "retraining": _of(verify.by_retraining, "gain by dropping what harms", ask=_retraining, pairs=False),
        "qld": _of(verify.qld, "query loss without the top examples", beside=True),
        "brittleness": _of(verify.brittleness, "predictions flipped by few removals"),
        "targeted_edit": _of(verify.targeted_edit, "query with its proponents relabelled"),
        "poison": _of(verify.poison, "spoiling what helps", pairs=False, beside=True),
        "fix_labels": _of(
            verify.fix_labels,
            "repairing what harms",
            pairs=False,
            column="of the training examples: the right label",
            beside=True,
        ),
        "removal_curve": _of(verify.removal_curve, "dropping what harms, what helps", pairs=False),
        "retain_curve": _of(verify.retain_curve, "training on what helps, what harms", pairs=False),
        "calibration": _of(verify.calibration, "amounts predicted"),
        "tail_patch": _of(verify.tail_patch, "one step on proponents", beside=True),
        "mislabel_auc": _of(
            verify.mislabel_auc,
            "finding wrong labels",
            ask=_mislabel,
            pairs=False,
            column="of the training examples: true where the label is wrong",
            beside=True,
        ),
        "mrr": _of(verify.mrr, "rank of planted facts", column="that links queries to examples", beside=True),
        "recall": _of(
            verify.recall, "planted facts among the top", column="that links queries to examples", beside=True
        ),
        "agreement": _of(verify.agreement, "proponents alike", column="of both sides", beside=True),
        "class_detection": _of(verify.class_detection, "proponents of the same class", beside=True),
        "subclass_detection": _of(
            verify.subclass_detection, "proponents of the same subclass", column="of fine labels", beside=True
        ),
        "shortcut": _of(verify.shortcut, "finding a shortcut", column="true where it is", beside=True),
        "mixed_data": _of(
            verify.mixed_data, "finding the own data set", column="that names the data set", beside=True
        ),
        "cardinality": _of(
            verify.cardinality, "different proponents for different queries", beside=True, rated=False
        ),
        "seed_stability": _of(
            verify.seed_stability,
            "agreement over seeds",
            ask=_stability,
            settings={"seeds": int},
            rated=False,
        ),
        "model_randomisation": _of(
            verify.model_randomisation, "dependence on what was learned", ask=_randomisation
        ),
    }
)
"""What ``--metric`` knows."""


def metric_of(name: str) -> Metric:
    """The metric of that name.

    Raises:
        SettingError: If there is none.
    """
    if name not in METRICS:
        raise SettingError(
            f"There is no metric {name!r}{did_you_mean(name, METRICS)}",
            fix=f"choose from {', '.join(METRICS)}.",
        )
    return METRICS[name]


def settings_from(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a metric from text or plain values.

    Raises:
        SettingError: If the metric has no such setting, or its type does not take the value.
    """
    metric = metric_of(name)
    return parse_values(metric.settings, {key: _text(value) for key, value in given.items()}, owner=name)


def with_column(name: str, settings: Mapping[str, Any], truth: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a metric with the column that it needs.

    Args:
        name: The metric.
        settings: Its other settings.
        truth: Metric to column; under the empty name, that of all other metrics.

    Raises:
        SettingError: If it needs a column and none is known.
    """
    needs = metric_of(name).column
    if not needs:
        return dict(settings)
    column = truth.get(name, truth.get("", ""))
    if not column:
        raise SettingError(
            f"{name} needs a column {needs}.",
            fix=f"name it: --truth {name}=COLUMN (or truth: in the configuration of a leaderboard).",
        )
    return {**settings, "column": column}


def applies(name: str, scores: Scores) -> bool:
    """Whether scores of this kind can be verified by the metric."""
    return scores.axis == "pair" or not metric_of(name).pairs


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
