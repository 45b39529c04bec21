"""What published systems share that turn influence into a better model: their card, budgets, weights, and signal.

A system is a frozen dataclass whose fields are its settings. Called with a problem it gives a plan: which training
examples to keep and how much each weighs (``spends="kept"``), or which to change (``spends="changed"``). It sees the
queries of the problem that it is given, its *target*; whether the plan helps is judged on others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from steelyard.collect.gradients import open_gradients, training_products
from steelyard.errors import NumericsError, SettingError
from steelyard.problem import Learner, Problem
from steelyard.records import Plan, Provenance
from steelyard.run import Run, generator

Spends = Literal["kept", "changed", "passes"]
LEAST_EFFECTIVE = 0.25
"""Share of the budget below which the effective number of examples may not fall."""

_SIGNS = 999
_FEWEST_QUERIES = 6


@dataclass(frozen=True)
class SystemCard:
    """A system in a few words, for tables.

    Attributes:
        paper: Authors, year, title.
        code: The official repository, or that there is none.
        needs: What the learner and the data must offer.
        cost: In gradient-equivalents and fits.
        good_for: When to use it.
        spends: What a budget counts: examples kept; examples changed (dropped or relabelled); or passes over all
            examples, of which there are then fewer.
    """

    paper: str
    code: str
    needs: str
    cost: str
    good_for: str
    spends: Spends = "kept"


@runtime_checkable
class System(Protocol):
    """Turns a problem and a budget into a plan."""

    card: ClassVar[SystemCard]

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan for the problem's training set within the budget, made with the problem's queries as the target."""
        ...


@runtime_checkable
class TrainsOtherwise(Protocol):
    """A system that changes the training itself, beside what it plans."""

    def learner(self, problem: Problem, budget: int) -> Learner:
        """The learner to train in place of the problem's own."""
        ...


def check_settings(system: object, *, hold: bool, fix: str) -> None:
    """Refuse a system whose settings cannot work.

    Args:
        system: Its representation shows the settings.
        hold: Whether they can.
        fix: What to give.

    Raises:
        SettingError: If they cannot.
    """
    if not hold:
        raise SettingError(f"{system!r} cannot work.", fix=fix)


def effective(weights: Float[np.ndarray, " example"]) -> float:
    """Effective number of examples, ``(sum w)^2 / sum w^2``: that of equal weights with the same variance.

    Source: Kish (1965), "Survey Sampling".
    """
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0


def spread(
    weights: Float[np.ndarray, " example"], least: float | int
) -> tuple[Float[np.ndarray, " example"], str]:
    """The same weights, raised to the power nearest 1 at which they amount to at least so many examples.

    Args:
        weights: Not negative; zeros stay zeros.
        least: Effective number of examples to keep; at most the number of positive weights.

    Returns:
        Weights with the same sum, and a note where they had to be changed, else an empty text.

    Raises:
        NumericsError: If a weight is negative or not finite, or all are zero.
    """
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise NumericsError(
            "the weights of a system are negative, not finite or all zero.",
            fix="lower its learning rate or temperature, or look for extreme examples.",
        )
    before, there = effective(weights), weights > 0
    least = min(float(least), float(there.sum()) * (1 - 1e-9))
    if before >= least:
        return weights, ""
    logs = np.where(there, np.log(np.where(there, weights, 1.0)), -np.inf)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(_powered(logs, middle)) >= least else (low, middle)
    found = _powered(logs, low)
    note = (
        f"the weights amounted to {before:.1f} of {int(there.sum())} examples; raised to the power {low:.2f} they "
        f"amount to {effective(found):.1f}"
    )
    return found * (weights.sum() / found.sum()), note


def _powered(logs: Float[np.ndarray, " example"], power: float) -> Float[np.ndarray, " example"]:
    # 0 * -inf has no value, so zeros are put back by hand.
    return np.where(
        np.isfinite(logs), np.exp(power * (np.where(np.isfinite(logs), logs, 0.0) - logs.max())), 0.0
    )


def best(values: Float[np.ndarray, " example"], ids: np.ndarray, count: int) -> np.ndarray:
    """Rows of the highest values, best first; equal ones in the order of their ids."""
    return np.lexsort((ids.astype(str), -values))[:count]


def signal(
    helps: Float[np.ndarray, "example query"], draw: np.random.Generator, *, who: str
) -> tuple[float, str]:
    r"""Whether a target's queries agree on which examples help.

    With S the helpfulness of every example to every query, each column less its mean, the statistic is the length of
    the sum of the columns, :math:`|S 1|^2`. If queries do not agree, a column is as likely as its negative, so that the
    lengths :math:`|S \sigma|^2` with random signs :math:`\sigma` are what chance gives.

    Cost: products of all pairs of columns.

    Args:
        helps: How much an example helps a query, by the system's own reckoning.
        draw: Of the signs.
        who: The system, for the note.

    Returns:
        The p-value, and a note if it is above .05: the selection is then little better than a random one.
    """
    count = helps.shape[1]
    if count < _FEWEST_QUERIES:
        return 1.0, f"{who}: {count} target queries are too few to see whether they agree on what helps"
    centred = (helps - helps.mean(axis=0)).astype(np.float64)
    gram = centred.T @ centred
    signs = draw.choice([-1.0, 1.0], size=(_SIGNS, count))
    chance = np.einsum("sq,sq->s", signs @ gram, signs)
    p_value = float((1 + np.sum(chance >= gram.sum())) / (1 + _SIGNS))
    if p_value <= 0.05:
        return p_value, ""
    return p_value, (
        f"{who}: no signal: the {count} target queries agree no better than chance on which training examples help "
        f"(p = {p_value:.2g}); expect no more than from random examples"
    )


def target_signal(problem: Problem, run: Run, *, seed: int, who: str) -> str:
    """A note if the target's queries do not agree on what helps, by products of gradients at the explained model.

    Cost: a gradient per example and query, shared by all systems of a run.

    Raises:
        CapabilityError: If the learner has no gradients.
    """
    fitted = open_gradients(problem, run, method=who, instead="top with a score that needs none")

    def compute() -> dict[str, np.ndarray]:
        run.spend(gradients=len(problem.query))
        side = fitted.gradients.prepare(problem.query)
        return {"values": training_products(problem, fitted, side, slice(0, len(problem.train)))}

    key = f"signal/{problem.mark()}-{problem.query.checksum[:16]}"
    helps = np.asarray(run.keep(key, compute)["values"], dtype=np.float64)
    return signal(helps, generator(seed, "signal"), who=who)[1]


def planned(  # noqa: PLR0913 - what a plan consists of
    problem: Problem,
    weights: Float[np.ndarray, " example"],
    reason: Callable[[int], str],
    *,
    system: object,
    run: Run,
    seed: int,
    resolved: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """A plan to keep the examples of positive weight: plainly where these are all 1, else weighted.

    Args:
        problem: Whose training set it is for.
        weights: One per training example; 0 is left out.
        reason: From the row of a kept example to a sentence.
        system: For the provenance.
        run: Is told the notes.
        seed: Of the system.
        resolved: What the system decided.
        notes: What is to be known about it; empty ones are left out.
    """
    kept = np.flatnonzero(weights)
    notes = tuple(note for note in notes if note)
    for note in notes:
        run.note(note)
    plain = bool(np.all(weights[kept] == 1.0))
    rows = kept if plain else np.arange(len(weights))
    provenance = Provenance(
        given={"by": repr(system), "seed": seed},
        resolved={"examples": len(kept), "effective": effective(weights), **(resolved or {})},
        checksums={"train": problem.train.checksum, "query": problem.query.checksum},
        seeds={"system": seed},
        notes=notes,
    )
    return Plan(
        action="keep" if plain else "weigh",
        ids=problem.train.ids[rows],
        reasons=tuple(reason(int(row)) if weights[row] else "not chosen" for row in rows),
        train_checksum=problem.train.checksum,
        weights=None if plain else weights[rows],
        provenance=provenance,
    )


def sources_of(problem: Problem, column: str, *, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Names of the sources of the training examples, and the number of its source for every example.

    Raises:
        SettingError: If there is no such column, or fewer than two sources.
    """
    train = problem.train
    if column not in train.columns:
        raise SettingError(
            f"{who}: {train.source} has no column {column!r}; it has {list(train.columns)}.",
            fix=f"name the column that says where each example comes from: {{{who.lower()}: {{column: ...}}}}.",
        )
    names, numbers = np.unique(np.asarray(train.column(column)[:]).astype(str), return_inverse=True)
    if len(names) < 2:
        raise SettingError(
            f"{who}: column {column!r} names the one source {str(names[0])!r}.",
            fix="give training examples of two sources or more.",
        )
    return names, numbers
