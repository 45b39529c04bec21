"""Boosted trees: agreement with the authors' code, real removals, and time and memory of large jobs.

    python -m benchmarks.trees --peers

Both sides train the same LightGBM model before the clock runs. The authors' BoostIn has the leaf's value, learning
rate inside, where the derivative has the step before it; both agree at learning rate 1, and at .1 the table shows how
far they are apart.
"""

import warnings
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
    found: dict[str, Any] = {"removals": _removals(given), "large": _large(given)}
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
