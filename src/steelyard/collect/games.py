"""Games: what the queries gain from training on a coalition of examples or groups, with a budget of fits.

Two things are defined here, because no fit can tell them. *Nobody*: training on nothing leaves an untrained model,
which is taken to know as much as chance does (equal probabilities for all classes, the mean for regression), or what
the user says. *Untrainable coalitions*: one that lacks a class of the training set and whose fit fails is worth as
much as nobody, since it gives no model. Every other failed fit has no outcome: it is counted and left out.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.collect.fits import outcomes
from steelyard.collect.players import Players, classes_of
from steelyard.errors import CapabilityError, NumericsError, SettingError
from steelyard.problem import Problem
from steelyard.run import Run

_CHUNK_BYTES = 64 * 2**20

Nobody = float | int | str


@dataclass(frozen=True)
class Rules:
    """What a game needs to be told.

    Attributes:
        fits: Distinct fits that may be made, at most.
        nobody: Measurement after training on nothing, or ``"auto"``: what chance gives; None: untrainable coalitions
            are failed fits like any other.
        smallest: Coalitions of fewer players are not trained; they are worth as much as nobody.
    """

    fits: int
    nobody: Nobody | None = None
    smallest: int = 1


class Game:
    """Utilities of coalitions, each fitted once; it counts fits and never makes more than allowed.

    Attributes:
        players: Who takes part.
        spent: Distinct fits asked for so far, those that the run folder had included.
        failed: Fits without an outcome among them, and what the first one said.
        untrainable: Coalitions that lack a class and could not be fitted.
    """

    def __init__(self, problem: Problem, run: Run, players: Players, rules: Rules) -> None:
        if rules.smallest < 1:
            raise SettingError(
                f"smallest={rules.smallest}.", fix="the smallest coalition has at least 1 player."
            )
        self.players = players
        self.spent: int = 0
        self.failed: int = 0
        self.untrainable: int = 0
        self._problem, self._run, self._rules = problem, run, rules
        self._sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
        self._known: dict[bytes, np.ndarray] = {}
        self._classes = classes_of(problem.train)
        self._lowest = np.full(len(problem.query), np.inf)
        self._highest = np.full(len(problem.query), -np.inf)
        self._nobody: np.ndarray | None = None
        self._said = ""

    def play(
        self, coalitions: Bool[np.ndarray, "coalition player"], seeds: Int[np.ndarray, " coalition"]
    ) -> Float[np.ndarray, "coalition query"]:
        """Utility of every coalition for every query: the measurement, turned so that higher is better.

        Cost: one fit per pair of coalition and seed that was not played before; coalitions below the smallest size
        take none.

        Args:
            coalitions: Who takes part.
            seeds: Number of the training seed of each.

        Returns:
            NaN in the rows of failed fits.

        Raises:
            SettingError: If these fits go beyond the budget: a mistake of the method, not of the user.
        """
        keys = [_key(*pair) for pair in zip(np.packbits(coalitions, axis=1), seeds, strict=True)]
        large = coalitions.sum(axis=1) >= self._rules.smallest
        fresh: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if large[row] and key not in self._known:
                fresh.setdefault(key, row)
        if self.spent + len(fresh) > self._rules.fits:
            raise SettingError(
                f"{self.spent} fits were made and {len(fresh)} more are asked for, beyond the budget of "
                f"{self._rules.fits}.",
                fix="raise fits=.",
            )
        rows = np.fromiter(fresh.values(), dtype=np.int64, count=len(fresh))
        for chunk in np.array_split(
            rows, max(1, -(-8 * len(rows) * len(self.players.owner) // _CHUNK_BYTES))
        ):
            found = self._fit(coalitions[chunk], seeds[chunk])
            self._known.update((keys[row], values) for row, values in zip(chunk, found, strict=True))
        nobody = self.nobody() if not large.all() else np.zeros(0)
        return np.stack([self._known[key] if big else nobody for key, big in zip(keys, large, strict=True)])

    def play_some(
        self, coalitions: Bool[np.ndarray, "coalition player"], seeds: Int[np.ndarray, " coalition"]
    ) -> Float[np.ndarray, "coalition query"]:
        """As :meth:`play`, but an empty coalition has no outcome (NaN) instead of that of an untrained model."""
        some = coalitions.any(axis=1)
        values = np.full((len(coalitions), len(self._problem.query)), np.nan)
        if some.any():
            values[some] = self.play(coalitions[some], seeds[some])
        return values

    def nobody(self) -> Float[np.ndarray, " query"]:
        """Utility of the empty coalition.

        Raises:
            CapabilityError: If it is not known what an untrained model measures.
        """
        if self._nobody is None:
            self._nobody = self._sign * untrained(self._problem, self._rules.nobody)
        return self._nobody

    def everybody(self, seeds: int) -> Float[np.ndarray, "seed query"]:
        """Utility of all players together with each of the seeds.

        Raises:
            NumericsError: If one of these fits fails.
        """
        found = self.play(np.ones((seeds, len(self.players)), dtype=bool), np.arange(seeds))
        if not np.isfinite(found).all():
            raise NumericsError(
                f"{self._problem.train.source}: training on everything failed. {self.note()}",
                fix="make the recipe train this data first.",
            )
        return found

    def note(self) -> str:
        """How many fits failed or were not possible; empty if none."""
        parts: list[str] = []
        if self.untrainable:
            parts.append(
                f"{self.untrainable} of {self.spent} coalitions lack a class and could not be fitted; they count as "
                "training on nothing"
            )
        if self.failed:
            parts.append(
                f"{self.failed} of {self.spent} fits failed and are left out; the first because: {self._said}"
            )
        return "; ".join(parts)

    def check_varied(self) -> None:
        """Refuse to value examples by outcomes that are all the same; note queries of which that is true.

        Raises:
            NumericsError: If no query's utility differed between any two fits.
        """
        spread = self._highest - self._lowest
        same = ~(spread > 0)
        if same.all():
            name = self._problem.learner.measurement.name
            raise NumericsError(
                f"the {name} of every query was the same after all {self.spent} fits, so that nothing can be told "
                "about any example.",
                fix="measure something finer than that (a loss rather than accuracy), or train on smaller subsets.",
            )
        if same.any():
            first = str(self._problem.query.ids[int(np.argmax(same))])
            self._run.note(
                f"{int(same.sum())} of {len(same)} queries do not differ between fits; the first: {first!r}"
            )

    def _fit(self, coalitions: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        if not len(coalitions):
            return np.zeros((0, len(self._problem.query)))
        weightings = self.players.weightings(coalitions)
        found = outcomes(self._problem, weightings, seeds.tolist(), self._run, purpose="scoring")
        self.spent += len(coalitions)
        values = self._sign * found.values
        lacking = np.zeros(len(weightings), dtype=bool)
        if found.failed.any() and self._rules.nobody is not None:
            lacking = found.failed & self._lacks_class(weightings)
            values[lacking] = self.nobody()
        if (found.failed & ~lacking).any() and not self._said:
            self._said = found.messages[int(np.argmax(found.failed & ~lacking))]
        self.untrainable += int(lacking.sum())
        self.failed += int((found.failed & ~lacking).sum())
        if not found.failed.all():
            self._lowest = np.fmin(self._lowest, np.nanmin(values[~found.failed], axis=0))
            self._highest = np.fmax(self._highest, np.nanmax(values[~found.failed], axis=0))
        return values

    def _lacks_class(self, weightings: np.ndarray) -> np.ndarray:
        if self._classes is None:
            return np.zeros(len(weightings), dtype=bool)
        member = self._classes[:, None] == np.arange(self._classes.max() + 1)
        return ((weightings @ member) == 0).any(axis=1)


def untrained(problem: Problem, nobody: Nobody | None) -> Float[np.ndarray, " query"]:
    """The measurement of every query by a model that has learned nothing.

    Args:
        problem: Its measurement, training labels and queries.
        nobody: A number, or ``"auto"``: equal probabilities for the classes of the training set; for squared error,
            the mean of the training labels.

    Raises:
        CapabilityError: If ``"auto"`` does not know this measurement.
        SettingError: If it is another text.
    """
    if isinstance(nobody, int | float):
        return np.full(len(problem.query), float(nobody))
    if nobody != "auto":
        raise SettingError(f"nobody={nobody!r}.", fix="give a number, or auto.")
    asked = problem.learner.measurement
    classes = classes_of(problem.train)
    if classes is not None:
        count = int(classes.max()) + 1
        chance = {
            ("loss", "nats"): np.log(count),
            ("log_probability", "nats"): -np.log(count),
            ("accuracy", "accuracy"): 1.0 / count,
            ("margin", "logits"): -np.log(max(1, count - 1)),
        }
        if (asked.name, asked.unit) in chance:
            return np.full(len(problem.query), float(chance[asked.name, asked.unit]))
    if "squared error" in (asked.name, asked.unit) and problem.train.label is not None:
        target = np.asarray(problem.train.labels(), dtype=np.float64).reshape(len(problem.train), -1)
        gap = np.asarray(problem.query.labels(), dtype=np.float64).reshape(
            len(problem.query), -1
        ) - target.mean(0)
        return np.square(gap).sum(axis=1)
    raise CapabilityError(
        f"the utility of an empty training set is needed, and it is not known what an untrained model measures as "
        f"{asked.name!r} in {asked.unit}.",
        fix="give it: nobody=0 (on the command line: --set nobody=0); or use banzhaf or datamodels, which never ask.",
    )


def check_budget(fits: int, least: int, *, method: str, unit: str) -> None:
    """Refuse a budget that is too small to say anything.

    Args:
        fits: Given.
        least: Needed for the first estimate with a standard error.
        method: Who asks.
        unit: What these fits are for.

    Raises:
        SettingError: With the smallest budget that would do.
    """
    if fits < least:
        raise SettingError(
            f"{method}: fits={fits} is too small; {unit} takes {least}.",
            fix=f"give fits={least} or more, group the examples by a column, or use knn_shapley, which fits nothing.",
        )


def _key(packed: np.ndarray, seed: np.integer | int) -> bytes:
    return packed.tobytes() + int(seed).to_bytes(4, "little")
