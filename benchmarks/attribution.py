"""All methods of attribution beside the peers: LDS, removal (QLD) and time, on two tasks.

    python -m benchmarks.attribution --peers

Task one is the network on digits of ``benchmarks.digits``; task two a small language model trained from scratch on
passages of Python's own reference (``benchmarks.passages``). LDS: Spearman's correlation between the sum of an
example subset's scores and what training on the subset does to a query, mean over the queries. QLD (query loss
difference): by how many nats the loss of a query rises when its 5 % highest-ranked training examples are left out
and the model is trained again, less the same for random examples; mean over queries and seeds, the same seeds for
every method. No setting of ours is chosen by either number.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks import digits, passages
from benchmarks.ekfac import as_job, peer_rows
from benchmarks.measure import CACHE, Options, options, record, show
from steelyard.collect import pace
from steelyard.collect.fits import ensemble, explained
from steelyard.run import Run
from steelyard.score.method import Multiplies, Predicts

_REMOVED = 0.05
_PATIENCE = 900.0  # seconds that one method may be predicted to take on text; on digits, everything is run
_PAIRED = (
    "random", "class_similarity", "embedding_cosine", "bm25", "tfidf", "knn_shapley", "grad_dot", "grad_cos", "tracin",
    "gauss_newton", "kfac", "ekfac", "ekfac_cg", "datainf", "tkfac", "shampoo", "cg", "lissa", "arnoldi", "nystrom",
    "source", "replay", "trak", "logra", "trackstar", "less", "grass",
)  # fmt: skip
"""Methods that score a pair of training example and query without refits; values have benchmarks of their own."""
_SKIPPED = {
    "leave_one_out": "one fit per example",
    "group_influence": "scores groups, not examples",
    "self_influence": "scores examples without a query",
    "loss": "scores examples without a query",
}


@dataclass(frozen=True)
class Line:
    """One method on one task.

    Attributes:
        who: Whose implementation.
        method: Name and settings.
        lds: Linear datamodelling score.
        low: Lower end of the 95 % interval of the LDS, queries and subsets resampled.
        high: Upper end.
        qld: Query loss difference in nats, random removal subtracted.
        error: Standard error of the QLD over queries.
        seconds: From the trained model or models to the scores.
    """

    who: str
    method: str
    lds: float
    low: float
    high: float
    qld: float
    error: float
    seconds: float


def main(given: Options) -> None:
    """Both tables."""
    results: dict[str, Any] = {}
    for name, task in {"digits": _digits, "passages": _passages}.items():
        lines, facts = task(given)
        lines.sort(key=lambda line: -line.lds)
        show(
            f"{name}: {facts['about']}; LDS ceiling {facts['ceiling']:.2f}; QLD of {facts['removed']} examples "
            f"left out, {facts['queries']} queries x {facts['seeds']} seeds",
            ("who", "method", "LDS", "95 %", "QLD, nats", "±", "seconds"),
            [
                (x.who, x.method, x.lds, f"{x.low:.3f} to {x.high:.3f}", x.qld, x.error, x.seconds)
                for x in lines
            ],
        )
        results[name] = {**facts, "lines": [vars(line) for line in lines]}
    record("attribution", given, results)


def _digits(given: Options) -> tuple[list[Line], dict[str, Any]]:
    size = digits.REDUCED if given.reduced else digits.FULL
    found = digits.truth(size)
    along = digits.problem(size, checkpoints=10)
    left_out = dict(_SKIPPED)
    scored = _scores(found.problem, along, left_out, patience=np.inf)
    if given.peers:
        job = as_job(found, given)
        scored += [(row.who, row.method, row.scores, row.seconds) for row in peer_rows(found, job, given)]
    about = f"{size.train} training examples, {size.query} queries, perceptron 64-48-32-10"
    queries, seeds = (3, 1) if given.reduced else (12, 3)
    return _lines(
        found, scored, _Removal(found.problem, queries=queries, seeds=seeds), about=about, left_out=left_out
    )


def _passages(given: Options) -> tuple[list[Line], dict[str, Any]]:
    size = passages.REDUCED if given.reduced else passages.FULL
    found = passages.truth(size)
    along = passages.problem(size, checkpoints=5)
    left_out = dict(_SKIPPED)
    scored = _scores(found.problem, along, left_out, patience=_PATIENCE)
    about = f"{size.train} passages, {size.query} queries, transformer of 2 layers from scratch"
    queries, seeds = (2, 1) if given.reduced else (6, 2)
    return _lines(
        found, scored, _Removal(found.problem, queries=queries, seeds=seeds), about=about, left_out=left_out
    )


Scored = tuple[str, str, np.ndarray, float]


def _scores(
    asked: sy.Problem, along: sy.Problem, left_out: dict[str, str], *, patience: float
) -> list[Scored]:
    """Every method that this problem admits, with its default settings; what training it needs is done before.

    Args:
        asked: The problem.
        along: The same with checkpoints.
        left_out: Gets the methods that were not run, with the reason.
        patience: Seconds that a method may be predicted to take.
    """
    scored: list[Scored] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name in _PAIRED:
            for method in _variants(name):
                problem = along if name in ("tracin", "source", "replay", "less") else asked
                request = {"command": "benchmark", "method": repr(method)}
                try:
                    with sy.open_run(Path(folder) / f"{name}-{len(scored)}", request, show="quiet") as run:
                        explained(problem, run)
                        if isinstance(method, sy.score.TRAK) and method.over == "seeds":
                            ensemble(problem, method.models, run)
                        foretold = _foretold(method, problem, run, patience)
                        started = time.perf_counter()
                        values = np.array(method(problem, run).values)
                        seconds = time.perf_counter() - started
                except (sy.errors.CapabilityError, sy.errors.SettingError, sy.errors.DataError) as error:
                    left_out[name] = error.problem
                    print(f"{name} is left out: {error.problem}", flush=True)
                    continue
                scored.append(("steelyard", _label(method), values, seconds))
                print(f"{_label(method)}: {seconds:.2f} s, predicted {foretold:.2f} s", flush=True)
    return scored


def _foretold(method: Any, problem: sy.Problem, run: Run, patience: float) -> float:
    """Predicted seconds. The probe is kept in the run folder, so that it is not in the method's own time.

    Raises:
        SettingError: If that is more than what patience allows.
    """
    if not isinstance(method, Predicts):
        return 0.0
    products = method.products(problem) if isinstance(method, Multiplies) else None
    run.allowed = patience if np.isfinite(patience) else None
    found = pace.predict(problem, run, method.predict(problem), products=products)
    run.allowed = None
    return found.seconds


def _variants(name: str) -> list[Any]:
    default = sy.score.by_name(name)
    if isinstance(default, sy.score.TRAK):
        return [default, replace(default, models=5)]
    return [default]


def _label(method: Any) -> str:
    """The name on the command line, with the settings that are not the default."""
    kind = type(method)
    name = next(key for key, path in sy.score.METHODS.items() if path.endswith(f":{kind.__name__}"))
    default = kind()
    own = [
        f"{field.name}={getattr(method, field.name)!r}"
        for field in fields(method)
        if getattr(method, field.name) != getattr(default, field.name)
    ]
    return f"{name}({', '.join(own)})" if own else name


def _lines(
    found: digits.Truth,
    scored: Sequence[Scored],
    removal: "_Removal",
    *,
    about: str,
    left_out: dict[str, str],
) -> tuple[list[Line], dict[str, Any]]:
    """LDS with intervals, and QLD by retraining."""
    lines = []
    for who, method, values, seconds in scored:
        low, high = interval(found, values)
        qld, error = removal.difference(values)
        lines.append(Line(who, method, found.lds(values), low, high, qld, error, seconds))
    facts = {
        "about": about,
        "left_out": left_out,
        "ceiling": found.ceiling(),
        "removed": removal.count,
        "queries": len(removal.queries),
        "seeds": removal.seeds,
        "fits": removal.fits,
    }
    return lines, facts


def interval(found: digits.Truth, values: np.ndarray, draws: int = 500) -> tuple[float, float]:
    """95 % percentile interval of the LDS; subsets and queries are resampled."""
    from steelyard.maths.ranks import spearman

    outcome = -found.losses.mean(axis=1)
    predicted = found.masks @ np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        pick = np.ix_(
            generator.integers(0, len(outcome), len(outcome)),
            generator.integers(0, outcome.shape[1], outcome.shape[1]),
        )
        drawn.append(np.nanmean(spearman(predicted[pick], outcome[pick])))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


class _Removal:
    """Retraining without what a method ranks highest; every fit is kept on disk by what was left out."""

    def __init__(self, problem: sy.Problem, *, queries: int, seeds: int) -> None:
        self._problem = problem
        self.seeds = seeds
        self.count = max(1, round(_REMOVED * len(problem.train)))
        self.fits = 0
        generator = np.random.default_rng(1)
        self.queries = np.sort(generator.choice(len(problem.query), queries, replace=False))
        facts = json.dumps(
            [problem.checksums(), dict(problem.learner.settings())], sort_keys=True, default=str
        )
        self._path = CACHE / f"removal-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
        self._known: dict[str, np.ndarray] = {}
        if self._path.exists():
            with np.load(self._path) as kept:
                self._known = dict(kept)
        # The random control: one set per query, as many as a method removes.
        sets = [generator.choice(len(problem.train), self.count, replace=False) for _ in self.queries]
        self._random = self._losses(sets)

    def difference(self, values: np.ndarray) -> tuple[float, float]:
        """Mean over queries of the rise in loss over that of random removal, with its standard error."""
        sets = [np.argsort(-values[:, query], kind="stable")[: self.count] for query in self.queries]
        rise = (self._losses(sets) - self._random).mean(axis=1)
        return float(rise.mean()), float(rise.std(ddof=1) / np.sqrt(len(rise)))

    def _losses(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """``float64["query seed"]`` Loss of each query after training without its set."""
        losses = np.zeros((len(sets), self.seeds))
        for row, (query, removed) in enumerate(zip(self.queries, sets, strict=True)):
            digest = hashlib.sha256(np.sort(removed).astype(np.int64).tobytes()).hexdigest()[:24]
            for seed in range(self.seeds):
                key = f"{digest}-{seed}"
                if key not in self._known:
                    self._known[key] = self._fit(removed, seed)
                    self.fits += 1
                losses[row, seed] = self._known[key][query]
        self._save()
        return losses

    def _fit(self, removed: np.ndarray, seed: int) -> np.ndarray:
        weights = np.ones(len(self._problem.train))
        weights[removed] = 0.0
        # Seeds that neither the explained model nor the ground truth of the LDS uses.
        fitted = self._problem.learner.fit(self._problem.train, weights, 50_000 + seed)
        return self._problem.learner.measure(fitted, self._problem.query)

    def _save(self) -> None:
        CACHE.mkdir(exist_ok=True)
        part = self._path.with_suffix(".part.npz")
        arrays: Mapping[str, Any] = self._known
        np.savez(part, **arrays)
        part.rename(self._path)


if __name__ == "__main__":
    main(options(__doc__))
