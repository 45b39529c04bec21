"""Boosted trees: agreement with the authors' code, real removals, and time and memory of large jobs.

    python -m benchmarks.trees --peers

Both sides train the same LightGBM model before the clock runs. The authors' BoostIn has the leaf's value, learning
rate inside, where the derivative has the step before it; both agree at learning rate 1, and at .1 the table shows how
far they are apart.

Leave-one-out by refits on bins of all rows, made once, stands beside refits from scratch: how much time that saves, and
how much of what leaving out does it tells.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import steelyard as sy
from benchmarks.measure import Options, options, record, run, show
from benchmarks.runners.exchange import Answer, Job
from steelyard.score import by_name

_LOADERS = {"regression": load_diabetes, "binary": load_breast_cancer, "multiclass": load_wine}
_AGREEING = ("boostin", "leaf_inf_sp", "leaf_influence", "leaf_refit", "tree_sim")
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
_TRAIN, _QUERY = 120, 20


def main(given: Options) -> None:
    """All tables."""
    found: dict[str, Any] = {"removals": _removals(given), "refits": _refits(given), "large": _large(given)}
    if given.peers:
        found |= {"agreement": _agreement(given), "speed": _speed(given)}
    record("trees", given, found)


def _data(task: str, train: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = _LOADERS[task](return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))[: train + _QUERY]
    x, y = x[order], y[order].astype(np.float64)
    return x, (y - y.mean()) / y.std() if task == "regression" else y


def _agreement(given: Options) -> list[dict[str, Any]]:
    rows = []
    for task in ("binary",) if given.reduced else _LOADERS:
        x, y = _data(task, _TRAIN)
        for rate in (1.0, 0.1):
            for method in _AGREEING:
                work = {"task": task, "rounds": 10, "leaves": 6, "rate": rate}
                job = Job(
                    method,
                    work,
                    (x[:_TRAIN], y[:_TRAIN]),
                    (x[_TRAIN:], y[_TRAIN:]),
                    threads=given.threads,
                    repeats=1,
                )
                ours, theirs = run("trees", job, None), run("tree_influence", job, given.peers)
                rows.append({"task": task, "rate": rate, "method": method, **_apart(ours, theirs)})
    show(
        "agreement with the authors' code, LightGBM, 120 x 20",
        ("task", "rate", "method", "largest score", "largest difference", "correlation"),
        [tuple(row.values()) for row in rows],
    )
    return rows


def _apart(ours: Answer, theirs: Answer) -> dict[str, float]:
    return {
        "largest": float(np.abs(theirs.scores).max()),
        "apart": float(np.abs(ours.scores - theirs.scores).max()),
        "correlation": float(np.corrcoef(ours.scores.ravel(), theirs.scores.ravel())[0, 1]),
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
        **_apart(ours, theirs),
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
    for method in ("boostin", "leaf_inf_sp", "tree_sim", "leaf_influence"):
        job = Job(
            method, work, (x[:train], y[:train]), (x[train:], y[train:]), threads=given.threads, repeats=1
        )
        answer = run("trees", job, None)
        size = {"train": train, "query": query, "trees": rounds}
        rows.append({"method": method, **size, "seconds": answer.median, "peak_bytes": answer.peak_bytes})
    show(
        f"{train:,} x {query:,}, {rounds} trees",
        ("method", "seconds", "peak MB"),
        [(r["method"], r["seconds"], r["peak_bytes"] / 2**20) for r in rows],
    )
    return rows


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


def _learner(library: str, task: str) -> sy.learners.Boosted:
    import catboost
    import lightgbm
    import sklearn.ensemble
    import xgboost

    kind = "Regressor" if task == "regression" else "Classifier"
    if library == "lightgbm":
        model = getattr(lightgbm, f"LGBM{kind}")(n_estimators=20, num_leaves=6, n_jobs=1, verbosity=-1)
    elif library == "xgboost":
        model = getattr(xgboost, f"XGB{kind}")(n_estimators=20, max_depth=3, learning_rate=0.1, n_jobs=1)
    elif library == "catboost":
        usual = {"iterations": 20, "depth": 3, "learning_rate": 0.1, "verbose": False, "thread_count": 1}
        usual |= {"leaf_estimation_iterations": 1, "allow_writing_files": False, "bootstrap_type": "No"}
        model = getattr(catboost, f"CatBoost{kind}")(**usual, random_strength=0, boosting_type="Plain")
    elif library == "hist":
        model = getattr(sklearn.ensemble, f"HistGradientBoosting{kind}")(max_iter=20, max_leaf_nodes=6)
    else:
        model = getattr(sklearn.ensemble, f"GradientBoosting{kind}")(n_estimators=20, max_depth=3)
    return sy.learners.Boosted(model)


def _removals(given: Options) -> list[dict[str, Any]]:
    """Spearman correlation with leave-one-out and LDS over random halves, by real training."""
    rows = []
    train = 60 if given.reduced else _TRAIN
    libraries = ("lightgbm",) if given.reduced else ("lightgbm", "xgboost", "catboost", "hist", "sklearn")
    for library in libraries:
        for task in ("binary",) if given.reduced else ("regression", "binary"):
            x, y = _data(task, train)
            y = y if task == "regression" else y.astype(np.int64)
            sides = [
                sy.read({"input": x[part], "label": y[part]}) for part in (slice(train), slice(train, None))
            ]
            problem = sy.Problem(_learner(library, task), *sides)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for method in _METHODS:
                    if method == "knn_shapley" and task == "regression":
                        continue
                    scores = by_name(method)(problem)
                    loo = sy.verify.loo(problem, scores)
                    lds = sy.verify.lds(problem, scores, subsets=40)
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
