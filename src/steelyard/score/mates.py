"""MATES and Group-MATES: a small model learns what one step of training on an example does, and predicts it for all.

Sources: Yu, Das & Xiong (2024), "MATES: Model-Aware Data Selection for Efficient Pretraining with Data Influence
Models" (the locally probed oracle and the data influence model that is fitted anew as training goes on); Yu et al.
(2025), "Group-Level Data Selection for Efficient Pretraining" (Group-MATES: individual influence weighted by
relations).

Deviations: the oracle's step is a plain gradient step on one example, where the papers take a step of the run's own
optimiser; the small model is a ridge regression on the learner's embeddings and errors, where they fine-tune a small
language model; it predicts every query apart, not their mean alone; the relation of two examples is the cosine of these
features and its weight one number per query, where Group-MATES learns relations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.describing import describe, unit_vectors
from steelyard.collect.fits import explained
from steelyard.errors import SettingError
from steelyard.maths.surrogate import Ridge, agreement, fit_ridge, folds_of, greedy_relational
from steelyard.problem import HasCheckpoints, Problem, require
from steelyard.records import Cost, Scores
from steelyard.run import Run, in_memory
from steelyard.run.seeds import generator
from steelyard.score.driver import MethodCard, begin, make_scores

Rate = float | int | Literal["auto"]

_LEAST = 20
_RATE = 0.01


@dataclass(frozen=True)
class MATES:
    r"""What one step of training on an example does to every query, probed for a few and predicted for all.

    .. math:: s_{xq} = \pm\left[f_q(\theta) - f_q(\theta - \eta \nabla \ell_x(\theta))\right],

    + for measurements that are better when lower: positive = the step helps. A share of the examples is probed; ridge
    regressions learn from them and predict all. With several stages this is done anew at states along the training,
    because what helps a model changes with it, and the mean over the stages is given. The record says how well
    held-out probes are predicted and what was saved. To choose training data by it: ``act.draw`` (Gumbel top-k).

    Cost: per stage and probed example one gradient and a forward pass of all queries; two forward passes per example.

    Args:
        share: Of the training examples to probe; 20 at least. At 1 all are, and the gains themselves are given.
        rate: Learning rate of the step; ``"auto"``: that of the learner's recipe, else 0.01.
        stages: At how many states along the training; 1 is the explained model. More need checkpoints.

    Source: Yu, Das & Xiong (2024); deviations at the head of the module.
    """

    share: float | int = 0.2
    rate: Rate = "auto"
    stages: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Yu, Das & Xiong 2024, MATES: Model-Aware Data Selection for Efficient Pretraining",
        needs="a network with embeddings",
        cost="stages x share x n steps, each with a forward pass of all queries",
        good_for="choosing data for the next stage of a long training; scores of far more examples than can be probed",
    )

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.stages < 1:
            raise SettingError(
                f"MATES: share={self.share}, stages={self.stages}.",
                fix="give a share above 0, at most 1, and at least one stage.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Predicted gain of every query by a step on every example."""
        run = run or in_memory()
        started = begin(self, problem, run)
        rate = step_length(problem, self.rate)
        total, facts = np.zeros((len(problem.train), len(problem.query))), []
        stages = _states(problem, run, self.stages)
        for number, state in enumerate(stages):
            rows = probed_rows(problem, self.share, stage=number)
            found = _surrogate(problem, state, rows, run, rate=rate, method="MATES")
            if len(rows) == len(total):  # nothing is left to be predicted
                total[rows] += found.measured / len(stages)
            else:
                total += found.predicted / len(stages)
            facts.append(agreement(found.ridge.held_out, found.measured))
        resolved = {
            "rate": rate,
            "probed": len(probed_rows(problem, self.share, stage=0)),
            "share_of_probes_saved": 1 - len(probed_rows(problem, self.share, stage=0)) / len(problem.train),
            "held_out": facts,
        }
        unit = problem.learner.measurement.unit
        return make_scores(
            self, problem, total, run, unit=unit, resolved=resolved, started=started
        ).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """Steps, and the forward passes after them."""
        probes = self.stages * _count(len(problem.train), self.share)
        return Cost(fits=1, gradients=round(probes * (1 + len(problem.query) / 3)))


@dataclass(frozen=True)
class GroupMATES:
    r"""What an example adds within a group that is trained on together: less, if others in it teach the same.

    The gain of the t-th step of a short training on a group is modelled as the example's own gain, as in ``mates``,
    times :math:`1 - \gamma_q r_t`, with :math:`r_t` the sum of its cosines with the members before it. :math:`\gamma`
    is fitted to probed groups; the record compares held-out groups' gains with the plain sum of own gains and with this
    model, which is used only where its squared error is smaller. The score is the expected gain of the example
    in the middle of a random group of that size.

    Cost: that of ``mates``, and ``groups * size`` more steps.

    Args:
        groups: How many random groups to probe.
        size: Examples per group.
        share: As in ``MATES``.
        rate: As in ``MATES``.

    Source: Yu et al. (2025), "Group-Level Data Selection for Efficient Pretraining"; deviations at the head of the
    module.
    """

    groups: int = 40
    size: int = 8
    share: float | int = 0.2
    rate: Rate = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Yu et al. 2025, Group-Level Data Selection for Efficient Pretraining",
        needs="a network with embeddings",
        cost="(share x n + groups x size) steps, each with a forward pass of all queries",
        good_for="choosing sets of examples that do not repeat one another",
    )

    def __post_init__(self) -> None:
        if self.groups < 10 or self.size < 2 or not 0 < self.share <= 1:
            raise SettingError(
                f"GroupMATES: groups={self.groups}, size={self.size}, share={self.share}.",
                fix="give at least 10 groups of 2 examples, and a share above 0, at most 1.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Expected gain of every query by a step on every example in the middle of a random group."""
        return self._found(problem, run or in_memory())[0]

    def choose(
        self, problem: Problem, count: int, run: Run | None = None
    ) -> tuple[Scores, Int[np.ndarray, " chosen"]]:
        """The scores, and rows chosen one by one, each for what it still adds to those before it.

        Where the record says that relations do not explain unseen groups better than the plain sum, these are the rows
        of the largest own gains.

        Cost: that of the scores, and ``count`` products of all features with one example's.
        """
        scores, own, vectors, redundancy = self._found(problem, run or in_memory())
        by_id = np.argsort(problem.train.ids, kind="stable")  # ties in the order of ids
        rows = greedy_relational(own[by_id], vectors[by_id], count, redundancy=redundancy)
        return scores, by_id[rows]

    def _found(self, problem: Problem, run: Run) -> tuple[Scores, np.ndarray, np.ndarray, np.ndarray]:
        """Scores, own gains, features of length 1, and the redundancy of every query."""
        started = begin(self, problem, run)
        rate, state = step_length(problem, self.rate), explained(problem, run)
        own = _surrogate(
            problem, state, probed_rows(problem, self.share, stage=0), run, rate=rate, method="GroupMATES"
        )
        vectors = unit_vectors(own.features)
        rows, gains = self._probed(problem, state, run, rate)
        related = np.stack([before(vectors[one]) for one in rows])  # [group, member]
        half = len(rows) // 2
        redundancy = fit_redundancy(own.predicted[rows[:half]], related[:half], gains[:half])
        held = slice(half, None)
        plain = own.predicted[rows[held]]
        model = plain * (1 - redundancy * related[held, :, None])
        measured = gains[held].sum(axis=1)
        # The examples of a random group that come before its middle, as related as any two are on average.
        mean = (vectors @ vectors.sum(axis=0) - (vectors**2).sum(axis=1)) / max(1, len(vectors) - 1)
        by_sum, by_model = agreement(plain.sum(axis=1), measured), agreement(model.sum(axis=1), measured)
        errors = [float(np.square(each.sum(axis=1) - measured).sum()) for each in (plain, model)]
        used = errors[1] < errors[0]
        if not used:  # relations that do not explain unseen groups better have no place in the scores
            redundancy = np.zeros_like(redundancy)
        values = own.predicted * (1 - redundancy * ((self.size - 1) / 2 * mean)[:, None])
        resolved = {
            "rate": rate,
            "redundancy": float(np.median(redundancy)),
            "held_out_examples": agreement(own.ridge.held_out, own.measured),
            "held_out_groups_plain_sum": by_sum,
            "held_out_groups_relational": by_model,
            "held_out_groups_error_ratio": errors[1] / errors[0] if errors[0] else None,
            "relations_used": used,
        }
        unit = problem.learner.measurement.unit
        scores = make_scores(self, problem, values, run, unit=unit, resolved=resolved, started=started)
        return scores.check_finite(), own.predicted, vectors, redundancy

    def predict(self, problem: Problem) -> Cost:
        """Steps, and the forward passes after them."""
        probes = _count(len(problem.train), self.share) + self.groups * self.size
        return Cost(fits=1, gradients=round(probes * (1 + len(problem.query) / 3)))

    def _probed(
        self, problem: Problem, state: Any, run: Run, rate: float
    ) -> tuple[Int[np.ndarray, "group member"], Float[np.ndarray, "group member query"]]:
        from steelyard.collect.probing import probe_groups  # torch, for those who have it

        size = min(self.size, len(problem.train))
        by_id = np.argsort(problem.train.ids, kind="stable")
        draw = generator(problem.seed, "group-mates")
        rows = np.stack([by_id[draw.choice(len(by_id), size, replace=False)] for _ in range(self.groups)])
        return rows, probe_groups(problem, state, list(rows), run, rate=rate, method="GroupMATES")


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A small model of one state of the training.

    Attributes:
        ridge: The fitted model.
        features: Of all training examples.
        predicted: Gain of every query by a step on every training example.
        measured: Gains by the steps that were taken.
    """

    ridge: Ridge
    features: Float[np.ndarray, "train feature"]
    predicted: Float[np.ndarray, "train query"]
    measured: Float[np.ndarray, "probe query"]


def probed_rows(problem: Problem, share: float | int, *, stage: int) -> Int[np.ndarray, " probe"]:
    """Rows of the examples to probe, drawn by id so that the order of the rows does not matter."""
    by_id = np.argsort(problem.train.ids, kind="stable")
    draw = generator(problem.seed, "mates", stage)
    return by_id[draw.permutation(len(by_id))[: _count(len(by_id), share)]]


def step_length(problem: Problem, rate: Rate) -> float:
    """The learning rate of a probe.

    Raises:
        SettingError: If it is not positive.
    """
    known: Mapping[str, Any] = problem.learner.settings()
    found = known.get("lr", _RATE) if rate == "auto" else rate
    if not isinstance(found, float | int) or found <= 0:
        raise SettingError(f"rate={rate!r}.", fix="give a learning rate above 0.")
    return float(found)


def before(vectors: Float[np.ndarray, "member feature"]) -> Float[np.ndarray, " member"]:
    """Sum of every member's products with those before it."""
    return np.tril(vectors @ vectors.T, k=-1).sum(axis=1)


def fit_redundancy(
    own: Float[np.ndarray, "group member query"],
    related: Float[np.ndarray, "group member"],
    gains: Float[np.ndarray, "group member query"],
) -> Float[np.ndarray, " query"]:
    r"""The :math:`\gamma` of every query for which ``own * (1 - gamma * related)`` is closest to the gains."""
    effect = own * related[:, :, None]
    scale = (effect**2).sum(axis=(0, 1))
    return -(effect * (gains - own)).sum(axis=(0, 1)) / np.where(scale > 0, scale, 1.0)


def _surrogate(  # noqa: PLR0913 - a problem at a state, what to probe and how far
    problem: Problem, state: Any, rows: np.ndarray, run: Run, *, rate: float, method: str
) -> Surrogate:
    from steelyard.collect.probing import probe_groups  # torch, for those who have it

    gains = probe_groups(problem, state, list(rows[:, None]), run, rate=rate, method=method)[:, 0]
    features = describe(problem, state, problem.train, method=method)
    run.spend(gradients=2 / 3 * len(problem.train))
    fold = folds_of(len(rows), generator(problem.seed, "mates folds"))
    ridge = fit_ridge(features[rows], gains, fold)
    return Surrogate(ridge, features, ridge.predict(features), gains)


def _states(problem: Problem, run: Run, count: int) -> list[Any]:
    model = explained(problem, run)
    if count == 1:
        return [model]
    learner = require(problem.learner, HasCheckpoints, method="MATES with stages", instead="stages=1")
    states = [state for state, _ in learner.checkpoints(model)]
    if len(states) < count:
        raise SettingError(
            f"MATES: stages={count}, but the training kept {len(states)} states.",
            fix=f"give the recipe checkpoints={count}, or fewer stages.",
        )
    return [states[k] for k in np.linspace(0, len(states) - 1, count).round().astype(int)]


def _count(total: int, share: float | int) -> int:
    return min(total, max(_LEAST, round(share * total)))
