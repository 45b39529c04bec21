"""Boosted trees: agreement with the authors' code, real removals, and time and memory of large jobs.

    python -m benchmarks.trees --peers

Both sides train the same LightGBM or XGBoost model before the clock runs. Where the authors' code does something else
than we do, a second line puts that right on one side (``as theirs``: ours with their choice; ``before its round``, ``at
its optimum``: theirs with a repair): if both then agree, that is all that is different.

Leave-one-out stands beside the loop that one would write: copy the estimator, fit it without one row, measure. And
leave-one-out by refits on bins of all rows, made once, stands beside refits from scratch: how much time that saves, and
how much of what leaving out does it tells.
"""

import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import steelyard as sy
from benchmarks.measure import Options, options, record, run, show
from benchmarks.runners.exchange import Job
from steelyard.run import open_run
from steelyard.score import by_name

_LOADERS = {"regression": load_diabetes, "binary": load_breast_cancer, "multiclass": load_wine}
_AGREEING = (
    "boostin",
    "boostin as theirs",
    "leaf_inf_sp",
    "leaf_inf_sp as theirs",
    "leaf_influence",
    "leaf_influence as theirs",
    "leaf_refit",
    "leaf_refit before its round",
    "tree_sim",
    "trex",
    "trex at its optimum",
)
_METHODS = (
    "random",
    "boostin",
    "leaf_inf_sp",
    "leaf_influence",
    "leaf_refit",
    "trex",
    "tree_sim",
    "knn_shapley",
)
_LIBRARIES = ("lightgbm", "xgboost", "catboost", "hist", "sklearn")
_THREADED = ("lightgbm", "xgboost", "catboost")
"""Libraries whose estimators take a number of threads."""
_TRAIN, _QUERY = 120, 20
_PATIENCE = 10.0
"""Seconds of a loop that tell its pace."""


def main(given: Options) -> None:
    """All tables."""
    found: dict[str, Any] = {}
    parts = {"removals": _removals, "loo": _loo, "refits": _refits, "large": _large}
    if given.peers:
        parts |= {"agreement": _agreement, "speed": _speed}
    for name, part in parts.items():
        began = time.perf_counter()
        found[name] = part(given)
        print(f"{name}: {time.perf_counter() - began:.0f} s")
    record("trees", given, found)


def _data(task: str, train: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = _LOADERS[task](return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: train + _QUERY]
    x, y = x[order], y[order].astype(np.float64)
    return x, (y - y.mean()) / y.std() if task == "regression" else y


def _agreement(given: Options) -> list[dict[str, Any]]:
    rows = []
    for library in ("lightgbm",) if given.reduced else ("lightgbm", "xgboost"):
        for task in ("binary",) if given.reduced else _LOADERS:
            x, y = _data(task, _TRAIN)
            # At learning rate 1 the authors' BoostIn is the derivative; no other method differs by the rate.
            for rate, methods in ((1.0, ("boostin",)), (0.1, _AGREEING)):
                work = {"library": library, "task": task, "rounds": 10, "leaves": 6, "rate": rate}
                work |= {"methods": methods}
                sides = (x[:_TRAIN], y[:_TRAIN]), (x[_TRAIN:], y[_TRAIN:])
                job = Job("all", work, *sides, threads=given.threads, repeats=1)
                ours, theirs = run("trees", job, None), run("tree_influence", job, given.peers)
                for method, own, other in zip(methods, ours.scores, theirs.scores, strict=True):
                    facts = {"library": library, "task": task, "rate": rate, "method": method}
                    rows.append({**facts, **_apart(own, other)})
    show(
        f"agreement with the authors' code, {_TRAIN} x {_QUERY}, 10 rounds",
        ("library", "task", "rate", "method", "largest score", "largest difference", "correlation"),
        [tuple(row.values()) for row in rows],
    )
    return rows


def _apart(own: np.ndarray, other: np.ndarray) -> dict[str, float]:
    return {
        "largest": float(np.abs(other).max()),
        "apart": float(np.abs(own - other).max()),
        "correlation": float(np.corrcoef(own.ravel(), other.ravel())[0, 1]),
    }


def _speed(given: Options) -> dict[str, Any]:
    rows, rounds = (200, 10) if given.reduced else (900, 50)
    x, y = _made(rows + _QUERY, 1)
    work = {"task": "binary", "rounds": rounds, "leaves": 31, "rate": 0.1}
    job = Job(
        "leaf_influence", work, (x[:rows], y[:rows]), (x[rows:], y[rows:]), threads=given.threads, repeats=1
    )
    ours, theirs = run("trees", job, None), run("tree_influence", job, given.peers)
    facts = {
        "train": rows,
        "rounds": rounds,
        "ours": ours.median,
        "theirs": theirs.median,
        **_apart(ours.scores, theirs.scores),
    }
    show(
        f"LeafInfluence, {rows} x {_QUERY}, {rounds} trees",
        ("ours, seconds", "authors, seconds", "times", "largest difference"),
        [(ours.median, theirs.median, theirs.median / ours.median, facts["apart"])],
    )
    return facts


def _large(given: Options) -> list[dict[str, Any]]:
    train, query, rounds = (1000, 50, 20) if given.reduced else (50_000, 1000, 200)
    x, y = _made(train + query, 2)
    work = {"task": "binary", "rounds": rounds, "leaves": 31, "rate": 0.1}
    rows = []
    # LeafInfluence goes twice through all examples and trees per query: a tenth of the queries tells its pace.
    for method, asked in (
        ("boostin", query),
        ("leaf_inf_sp", query),
        ("tree_sim", query),
        ("leaf_influence", query // 10),
    ):
        sides = (x[:train], y[:train]), (x[train:][:asked], y[train:][:asked])
        job = Job(method, work, *sides, threads=given.threads, repeats=1)
        answer = run("trees", job, None)
        size = {"train": train, "query": asked, "trees": rounds}
        size |= {"seconds": answer.median, "peak_bytes": answer.peak_bytes}
        rows.append({"method": method, **size, "process_peak_bytes": answer.extra["process_peak_bytes"]})
    show(
        f"{train:,} training examples, {rounds} trees; peak memory of scoring, and of the whole process",
        ("method", "queries", "seconds", "peak MB", "of the process"),
        [
            (r["method"], r["query"], r["seconds"], r["peak_bytes"] / 2**20, r["process_peak_bytes"] / 2**20)
            for r in rows
        ],
    )
    return rows


def _loo(given: Options) -> list[dict[str, Any]]:
    """Leave-one-out of every row beside the loop that one would write, of which the first rows tell the pace.

    Both sides are timed by the clock and by the processors' time: on a busy machine only the latter means something.
    Fits are the same, but for GradientBoosting, which breaks ties at random.
    """
    rows = []
    for train, rounds in ((60, 10),) if given.reduced else ((120, 20), (300, 50)):
        # So few fits of the other libraries are made one by one here too: there is nothing to compare.
        libraries = ("lightgbm", "xgboost") if train < 300 else _LIBRARIES
        for library in ("lightgbm",) if given.reduced else libraries:
            size = {"train": train, "rounds": rounds, "library": library}
            rows.append(size | _beside_the_loop(library, train, rounds, given))
    show(
        "leave-one-out, time of a fit; the loop with its better number of threads",
        (
            ("rows", "rounds", "library", "loop, ms", "threads", "ours, ms", "times faster")
            + ("loop, ms of processors", "ours", "times less", "largest difference")
        ),
        [
            (r["train"], r["rounds"], r["library"], 1000 * r["naive"], r["naive_threads"], 1000 * r["ours"])
            + (r["naive"] / r["ours"], 1000 * r["naive_cpu"], 1000 * r["ours_cpu"])
            + (r["naive_cpu"] / r["ours_cpu"], r["apart"])
            for r in rows
        ],
    )
    return rows


def _beside_the_loop(library: str, train: int, rounds: int, given: Options) -> dict[str, Any]:
    x, y = _made(train + _QUERY, 3)
    y, looped = y.astype(np.int64), 5 if given.reduced else 40
    sides = [sy.read({"input": x[part], "label": y[part]}) for part in (slice(train), slice(train, None))]
    found: list[tuple[float, float, int]] = []
    naive = np.zeros((looped, _QUERY))
    for threads in sorted({1, given.threads}) if library in _THREADED else (1,):
        model = _estimator(library, "binary", rounds=rounds, threads=threads)
        whole = _losses(clone(model).fit(x[:train], y[:train]), x[train:], y[train:])
        began, used = time.perf_counter(), _processors()
        row = 0
        # Several threads of one fit can wait for each other very long where other work holds a core.
        while row < looped and time.perf_counter() - began < _PATIENCE:
            kept = np.delete(np.arange(train), row)
            naive[row] = _losses(clone(model).fit(x[kept], y[kept]), x[train:], y[train:]) - whole
            row += 1
        found.append(((time.perf_counter() - began) / row, (_processors() - used) / row, threads))
    problem = sy.Problem(sy.learners.Boosted(_estimator(library, "binary", rounds=rounds)), *sides)
    # Ours takes as many threads as this says.
    with patch.dict(os.environ, {"OMP_NUM_THREADS": str(given.threads)}):
        began, used = time.perf_counter(), _processors()
        scores = by_name("leave_one_out")(problem)
        ours, ours_cpu = (time.perf_counter() - began) / (train + 1), (_processors() - used) / (train + 1)
    pace, cpu, threads = min(found)
    facts = {"naive": pace, "naive_cpu": cpu, "naive_threads": threads, "ours": ours, "ours_cpu": ours_cpu}
    return facts | {"apart": float(np.abs(scores.values[:looped] - naive)[naive.any(axis=1)].max())}


def _processors() -> float:
    """Processor time of this process and of those that it has ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _losses(model: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -np.log(model.predict_proba(x)[np.arange(len(y)), y])


def _refits(given: Options) -> list[dict[str, Any]]:
    """Process CPU time of a leave-one-out fit, ways taken in turn, and its effects beside those from scratch."""
    train, rounds, left_out = (100, 10, 5) if given.reduced else (300, 50, 60)
    rows = []
    for table in ("continuous", "16 values"):
        x, y = _made(train + _QUERY, 3)
        x = x if table == "continuous" else np.clip(np.round(2 * x), -7, 8)
        for library, ways in (
            ("lightgbm", _lightgbm_ways(x, y, train, rounds)),
            ("xgboost", _xgboost_ways(x, y, train, rounds)),
        ):
            took = {name: 0.0 for name in ways}
            answers: dict[str, list[np.ndarray]] = {name: [] for name in ways}
            for row in range(-1, left_out):  # -1: nothing is left out, and warming up
                for name, way in ways.items():
                    began = time.process_time()
                    answers[name].append(way(np.delete(np.arange(train), [row] if row >= 0 else [])))
                    took[name] += (time.process_time() - began) / left_out if row >= 0 else 0.0
            effects = {name: np.array(found[1:]) - found[0] for name, found in answers.items()}
            for name in ways:
                alike = float(np.corrcoef(effects[name].ravel(), effects["from scratch"].ravel())[0, 1])
                facts = {"table": table, "library": library, "way": name, "milliseconds": 1000 * took[name]}
                rows.append({**facts, "times": took["from scratch"] / took[name], "correlation": alike})
    show(
        f"leave-one-out, {train} rows, {rounds} trees, CPU time of a fit; effects beside those from scratch",
        ("table", "library", "way", "ms per fit", "times faster", "correlation of effects"),
        [tuple(row.values()) for row in rows],
    )
    return rows


Way = Callable[[np.ndarray], np.ndarray]
"""Rows that stay -> raw scores of the queries."""


def _lightgbm_ways(x: np.ndarray, y: np.ndarray, train: int, rounds: int) -> dict[str, Way]:
    import lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=rounds, num_leaves=8, n_jobs=1, verbosity=-1)
    settings = {
        "objective": "binary",
        "num_leaves": 8,
        "num_threads": 1,
        "deterministic": True,
        "verbosity": -1,
    }
    settings |= {"force_row_wise": True, "feature_pre_filter": False}
    binned = lightgbm.Dataset(x[:train], y[:train], params=settings, free_raw_data=False).construct()
    learner = sy.learners.Boosted(model)
    examples = sy.read({"input": x[:train], "label": y[:train].astype(np.int64)})

    def scratch(kept: np.ndarray) -> np.ndarray:
        data = lightgbm.Dataset(x[kept], y[kept])
        return np.asarray(
            lightgbm.train(settings, data, rounds).predict(x[train:], raw_score=True, num_threads=1)
        )

    def shared(kept: np.ndarray) -> np.ndarray:
        booster = lightgbm.Booster(settings, binned.subset(kept.tolist()))
        for _ in range(rounds):
            booster.update()
        return np.asarray(booster.predict(x[train:], raw_score=True, num_threads=1))

    def ours(kept: np.ndarray) -> np.ndarray:
        return learner.fit(examples.take(kept)).raw(x[train:])[:, 0]

    return {"from scratch": scratch, "estimator by Steelyard": ours, "bins of all rows": shared}


def _xgboost_ways(x: np.ndarray, y: np.ndarray, train: int, rounds: int) -> dict[str, Way]:
    import xgboost

    settings = {
        "objective": "binary:logistic",
        "max_depth": 3,
        "eta": 0.1,
        "nthread": 1,
        "tree_method": "hist",
    }
    binned = xgboost.QuantileDMatrix(x[:train], y[:train], nthread=1)
    queries = xgboost.DMatrix(x[train:], nthread=1)

    def scratch(kept: np.ndarray) -> np.ndarray:
        data = xgboost.QuantileDMatrix(x[kept], y[kept], nthread=1)
        return xgboost.train(settings, data, rounds).predict(queries, output_margin=True)

    def shared(kept: np.ndarray) -> np.ndarray:
        weights = np.zeros(train)
        weights[kept] = 1.0
        binned.set_weight(weights)
        return xgboost.train(settings, binned, rounds).predict(queries, output_margin=True)

    return {"from scratch": scratch, "bins of all rows": shared}


def _made(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 20))
    return x, (x[:, 0] * x[:, 1] + x[:, 2] + draw.normal(size=count) > 0).astype(np.float64)


def _estimator(library: str, task: str, *, rounds: int = 20, threads: int = 1) -> Any:
    """An unfitted estimator whose training has no chance in it."""
    import catboost
    import lightgbm
    import sklearn.ensemble
    import xgboost

    kind = "Regressor" if task == "regression" else "Classifier"
    if library == "lightgbm":
        return getattr(lightgbm, f"LGBM{kind}")(
            n_estimators=rounds, num_leaves=6, n_jobs=threads, verbosity=-1
        )
    if library == "xgboost":
        return getattr(xgboost, f"XGB{kind}")(
            n_estimators=rounds, max_depth=3, learning_rate=0.1, n_jobs=threads
        )
    if library == "catboost":
        usual = {"iterations": rounds, "depth": 3, "learning_rate": 0.1, "verbose": False}
        usual |= {"leaf_estimation_iterations": 1, "allow_writing_files": False, "bootstrap_type": "No"}
        usual |= {"thread_count": threads, "random_strength": 0, "boosting_type": "Plain"}
        return getattr(catboost, f"CatBoost{kind}")(**usual)
    if library == "hist":
        return getattr(sklearn.ensemble, f"HistGradientBoosting{kind}")(max_iter=rounds, max_leaf_nodes=6)
    return getattr(sklearn.ensemble, f"GradientBoosting{kind}")(n_estimators=rounds, max_depth=3)


def _removals(given: Options) -> list[dict[str, Any]]:
    """Spearman correlation with leave-one-out and LDS over random halves, by real training."""
    rows = []
    train = 60 if given.reduced else _TRAIN
    for library in ("lightgbm",) if given.reduced else _LIBRARIES:
        for task in ("binary",) if given.reduced else ("regression", "binary"):
            x, y = _data(task, train)
            y = y if task == "regression" else y.astype(np.int64)
            sides = [
                sy.read({"input": x[part], "label": y[part]}) for part in (slice(train), slice(train, None))
            ]
            problem = sy.Problem(sy.learners.Boosted(_estimator(library, task)), *sides)
            # The fits of verification are kept and shared: all methods are held against the same ones.
            with (
                warnings.catch_warnings(),
                tempfile.TemporaryDirectory() as folder,
                open_run(f"{folder}/fits", {}, show="quiet") as kept,
            ):
                warnings.simplefilter("ignore")
                for method in _METHODS:
                    if method == "knn_shapley" and task == "regression":
                        continue
                    scores = by_name(method)(problem)
                    loo = sy.verify.loo(problem, scores, run=kept)
                    lds = sy.verify.lds(problem, scores, subsets=40, run=kept)
                    rows.append(
                        {
                            "library": library,
                            "task": task,
                            "method": method,
                            "loo": loo.estimate,
                            "lds": lds.estimate,
                        }
                    )
    show(
        f"real training, {train} examples, {_QUERY} queries, 20 rounds",
        ("library", "task", "method", "Spearman with leave-one-out", "LDS"),
        [tuple(row.values()) for row in rows],
    )
    return rows


if __name__ == "__main__":
    main(options(__doc__))
