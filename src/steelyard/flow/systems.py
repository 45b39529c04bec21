"""The systems by name: what ``steelyard act compare`` can put beside random examples.

Each is a frozen dataclass as :mod:`steelyard.act.system` describes; to add one, write it and name it in ``SYSTEMS``.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from steelyard import act
from steelyard.act.flyt import FLYT, Lessons, by_lessons
from steelyard.act.system import System, SystemCard, best, planned, signal
from steelyard.collect.folds import held_out_probabilities
from steelyard.errors import SettingError
from steelyard.flow.scoring import chosen_by
from steelyard.problem import Problem
from steelyard.records import Plan
from steelyard.run import Run, generator
from steelyard.score import by_name
from steelyard.score.inffeed import InfFeed
from steelyard.score.less import LESS
from steelyard.score.settings import did_you_mean, parse_settings

SYSTEMS: dict[str, str] = {
    "top": "steelyard.flow.systems:Top",
    "clean": "steelyard.flow.systems:Clean",
    "less": "steelyard.flow.systems:LessEndToEnd",
    "flyt": "steelyard.act.flyt:FLYT",
    "mflyt": "steelyard.flow.systems:MFLYT",
    "got_d": "steelyard.act.got_d:GOTD",
    "presence": "steelyard.act.presence:PRESENCE",
    "meritfed": "steelyard.act.meritfed:MeritFed",
    "quad": "steelyard.act.quad:Quad",
    "inffeed": "steelyard.flow.systems:InfFeedLabels",
    "prune_by_kernel": "steelyard.act.prune_by_kernel:PruneByKernel",
}
"""Name to module and class."""


@dataclass(frozen=True)
class Top:
    """Keep what a score calls most helpful to the target: ``act.keep``, or ``act.draw`` with a temperature.

    Cost: that of the score.

    Args:
        method: A name of ``score.METHODS``.
        temperature: 0 keeps the best; above, examples are drawn by Gumbel top-k, in standard deviations of the score.
    """

    method: str = "grad_dot"
    temperature: float | int = 0.0
    card: ClassVar[SystemCard] = SystemCard(
        paper="any score of `steelyard methods`",
        code="that of the score",
        needs="what the score needs",
        cost="that of the score",
        good_for="seeing what a score is worth as a rule for choosing data",
    )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to keep ``budget`` examples."""
        return chosen_by(self.method, problem, run, count=budget, temperature=self.temperature, seed=seed)[1]


@dataclass(frozen=True)
class Clean:
    """Drop what a score calls most harmful, or give it the label that models believe which did not see it.

    Cost: that of the score; five fits for labels.

    Args:
        method: A name of ``score.METHODS``.
        change: ``"drop"`` or ``"relabel"``.
    """

    method: str = "self_influence"
    change: Literal["drop", "relabel"] = "drop"
    card: ClassVar[SystemCard] = SystemCard(
        paper="any score of `steelyard methods`",
        code="that of the score",
        needs="what the score needs; class probabilities to relabel",
        cost="that of the score, and 5 fits to relabel",
        good_for="wrong labels",
        spends="changed",
    )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to change at most ``budget`` examples."""
        scores = by_name(self.method)(problem, run)
        if self.change == "drop":
            return act.drop(scores, count=budget)
        return act.relabel(
            scores,
            problem.train,
            probabilities=held_out_probabilities(problem, run),
            predicted_by="models that did not see the example",
            count=budget,
        )


@dataclass(frozen=True)
class InfFeedLabels:
    """InfFeed: give the examples whose influencers outvote their label the label with most votes.

    Examples are looked at in the order of their lead in votes, worst first; those whose own label wins stay.

    Cost: five times a fit and the influence of all pairs.

    Args:
        base: As in ``score.InfFeed``.
        folds: As in ``score.InfFeed``.
    """

    base: str = "auto"
    folds: int = 5
    card: ClassVar[SystemCard] = SystemCard(
        paper=InfFeed.card.paper,
        code="none was found",
        needs=InfFeed.card.needs,
        cost=InfFeed.card.cost,
        good_for="wrong labels, with the examples that speak for another one",
        spends="changed",
    )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to relabel at most ``budget`` examples."""
        method = InfFeed(base=self.base, folds=self.folds)
        return act.relabel(
            method(problem, run),
            problem.train,
            probabilities=method.votes(problem, run),
            predicted_by="votes of the examples that influence it most",
            count=budget,
        )


@dataclass(frozen=True)
class LessEndToEnd:
    """LESS from end to end (Xia et al. 2024): warm-up on a share, Adam's directions, the best for any task.

    The model is first trained on a random share of the examples. At the states of that training every example is
    compared with the target: cosines of projected gradients, Adam's direction on the training side where the recipe
    is Adam's. An example counts by the task that it suits best: the largest mean over a task's queries. What is kept
    is then trained on from the learner's start.

    Cost: the share of a fit, and (n + q) gradients per kept state.

    Args:
        warmup: Share of the training examples for the warm-up; the paper's is 0.05, of far more examples.
        column: Column of the queries that names their task; empty: all are one task.
        dimension: As in ``score.LESS``.
    """

    warmup: float | int = 0.2
    column: str = ""
    dimension: int = 512
    card: ClassVar[SystemCard] = SystemCard(
        paper="Xia et al. 2024, LESS: Selecting Influential Data for Targeted Instruction Tuning",
        code="github.com/princeton-nlp/LESS, as for the score",
        needs="a network that is trained here; best by Adam with checkpoints",
        cost="a share of a fit, (n + q) gradients per checkpoint",
        good_for="fine-tuning data for several small tasks, without training on everything first",
    )

    def __post_init__(self) -> None:
        if not 0 < self.warmup <= 1:
            raise SettingError(f"less: warmup={self.warmup}.", fix="give a share above 0, at most 1.")

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to keep ``budget`` examples."""
        by_id = np.argsort(problem.train.ids, kind="stable")
        count = max(2, round(self.warmup * len(by_id)))
        rows = np.sort(by_id[generator(seed, "less warm-up").permutation(len(by_id))[:count]])
        warm = Problem(problem.learner, problem.train.take(rows), problem.query, seed=problem.seed)
        method = LESS(dimension=self.dimension, seed=seed)
        state = method.prepare(warm, run)
        helps = method.score(problem, state, slice(0, len(by_id)))
        run.spend(gradients=len(state.points) * (len(by_id) + len(problem.query)))
        tasks = self._tasks(problem)
        value = np.max([helps[:, tasks == name].mean(axis=1) for name in np.unique(tasks)], axis=0)
        chosen = best(value, problem.train.ids, budget)
        weights = np.zeros(len(by_id))
        weights[chosen] = 1.0
        return planned(
            problem,
            weights,
            lambda row: f"cosine {value[row]:.3f} with the task that it suits best",
            system=self,
            run=run,
            seed=seed,
            resolved={"warm-up examples": count, **method.resolved(state)},
            notes=(signal(helps, generator(seed, "signal"), who="less")[1],),
        )

    def _tasks(self, problem: Problem) -> np.ndarray:
        query = problem.query
        if not self.column:
            return np.zeros(len(query), dtype=np.int64)
        if self.column not in query.columns:
            raise SettingError(
                f"less: {query.source} has no column {self.column!r}; it has {list(query.columns)}.",
                fix="name the column of the queries that says which task each belongs to, or none.",
            )
        return np.asarray(query.column(self.column)[:]).astype(str)


@dataclass(frozen=True)
class MFLYT:
    """M-FLYT: learn from the target how to mix several scores into one, and draw the budget by soft cap sampling.

    Cost: that of the scores, and that of ``flyt``.

    Args:
        methods: Names of ``score.METHODS``; a score of pairs is averaged over the target.
        steps: As in ``FLYT``.
        batch: As in ``FLYT``.
        rate: As in ``FLYT``.
        penalty: As in ``FLYT``.
    """

    methods: tuple[str, ...] = ("loss", "self_influence", "grad_dot", "grad_cos", "knn_shapley")
    steps: int = 60
    batch: int = 128
    rate: float | int = 0.2
    penalty: float | int = 0.15
    card: ClassVar[SystemCard] = replace(
        FLYT.card,
        needs="what the scores need; a network",
        cost="that of the scores, and steps x (5 batch + q) gradients",
        good_for="several scores that disagree",
    )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan whose weights count how often an example was drawn, ``budget`` in all."""
        lessons = Lessons(self.steps, self.batch, self.rate, self.penalty)
        scores = [by_name(name)(problem, run) for name in self.methods]
        # Ranks, so that one extreme value does not flatten a score.
        columns = [np.argsort(np.argsort(-one.check_finite().harm(), kind="stable")) for one in scores]
        features = np.stack(columns, axis=1).astype(np.float64)
        return by_lessons(problem, features, lessons, budget, run, system=self, seed=seed, names=self.methods)


def system_by_name(name: str, settings: Mapping[str, str] | None = None) -> System:
    """A system from its name and settings as text.

    Raises:
        SettingError: If the name, a field or a value is wrong.

    Example:
        >>> system_by_name("top", {"method": "loss"})
        Top(method='loss', temperature=0.0)
    """
    kind = system_class(name)
    return kind(**parse_settings(kind, settings or {}, owner=name))


def system_class(name: str) -> Any:
    """The class of a system.

    Raises:
        SettingError: If there is none of that name.
    """
    if name not in SYSTEMS:
        raise SettingError(
            f"there is no system {name!r}{did_you_mean(name, SYSTEMS)}", fix=f"one of {', '.join(SYSTEMS)}."
        )
    module, _, kind = SYSTEMS[name].partition(":")
    return getattr(importlib.import_module(module), kind)
