"""Attribution through training on digits: replay on deterministic runs, SOURCE on short and two-stage ones.

Deterministic: one small perceptron, one seed; what replay, SOURCE, TracIn and EK-FAC predict for trainings with some
examples down-weighted is compared with those trainings. In the first designs batches stay as they are (absent examples
weigh 1e-9) which is what a derivative in a weight is about; in the last one examples are really removed, so that later
ones move to other batches. Not converged: three epochs. Two stages: upright digits after digits turned by 90 degrees,
queries of both kinds. There the truth is a mean over seeds that no explained model uses, on random halves.

    python -m benchmarks.through_training        about four minutes on one thread; fits are kept in benchmarks/.cache
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

import steelyard as sy
from benchmarks.digits import Truth
from benchmarks.measure import CACHE, Options, options, record, show

WIDTHS = (64, 32, 10)
ABSENT = 1e-9  # so light that it is absent, but keeps its place in its batch


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    train: int = 500
    query: int = 80
    subsets: int = 60
    seeds: int = 5
    epochs: int = 12


FULL = Size()
REDUCED = Size(train=80, query=10, subsets=6, seeds=2, epochs=2)


def data(size: Size, *, turned: bool) -> tuple[sy.Examples, sy.Examples]:
    """Digits, with half of them turned by 90 degrees where asked; column ``turned`` says which."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: size.train + size.query]
    images = (pixels[order].reshape(-1, 8, 8) / 16).astype(np.float32)
    labels, chosen = labels[order].astype(np.int64), np.arange(len(order)) % 2 * int(turned)
    images[chosen == 1] = np.rot90(images[chosen == 1], axes=(1, 2))
    ids = np.array([f"digit {i}" for i in order])
    rows = {"input": images.reshape(len(order), 64), "label": labels, "turned": chosen, "id": ids}
    train, query = ({k: v[s] for k, v in rows.items()} for s in (slice(size.train), slice(size.train, None)))
    return sy.data.read(train, features=["input"]), sy.data.read(query, features=["input"])


def problem(size: Size, recipe: object, *, turned: bool = False) -> sy.Problem:
    """A perceptron with tanh, which a derivative can follow."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(WIDTHS[0], WIDTHS[1]), torch.nn.Tanh(), torch.nn.Linear(WIDTHS[1], WIDTHS[2])
    )
    return sy.Problem(sy.learners.Torch(net, recipe=recipe), *data(size, turned=turned))  # type: ignore[arg-type]


def cached(name: str, facts: object, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from the cache, computed first if they are not there."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{digest}.npz"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **compute())
        part.rename(path)
    with np.load(path) as kept:
        return dict(kept)


def perturbed(asked: sy.Problem, size: Size, *, share: float, factor: float) -> dict[str, np.ndarray]:
    """Trainings of the explained seed, each with a random share of the examples at that factor of their weight."""

    def compute() -> dict[str, np.ndarray]:
        generator = np.random.default_rng(1)
        masks = np.zeros((size.subsets, len(asked.train)), dtype=bool)
        losses = np.zeros((size.subsets, 1, len(asked.query)))
        for subset in range(size.subsets):
            masks[subset, generator.permutation(masks.shape[1])[: round(share * masks.shape[1])]] = True
            fitted = asked.learner.fit(asked.train, np.where(masks[subset], factor, 1.0), asked.seed)
            losses[subset, 0] = asked.learner.measure(fitted, asked.query)
        return {"masks": ~masks, "losses": losses}

    return cached("through", [asdict(size), asked.checksums(), share, factor], compute)


def halves(asked: sy.Problem, size: Size) -> Truth:
    """Training on random halves under seeds that no explained model uses."""

    def compute() -> dict[str, np.ndarray]:
        generator = np.random.default_rng(2)
        masks = np.zeros((size.subsets, len(asked.train)), dtype=bool)
        losses = np.zeros((size.subsets, size.seeds, len(asked.query)))
        for subset in range(size.subsets):
            masks[subset, generator.permutation(masks.shape[1])[: masks.shape[1] // 2]] = True
            for seed in range(size.seeds):
                number = 10_000 + 100 * subset + seed
                fitted = asked.learner.fit(asked.train, masks[subset].astype(float), number)
                losses[subset, seed] = asked.learner.measure(fitted, asked.query)
        return {"masks": masks, "losses": losses}

    found = cached("halves", [asdict(size), asked.checksums()], compute)
    return Truth(asked, found["masks"], found["losses"], -found["losses"])


DESIGNS = {
    "5 % absent, batches kept": (0.05, ABSENT),
    "10 % absent, batches kept": (0.1, ABSENT),
    "half at half weight": (0.5, 0.5),
    "half absent, batches kept": (0.5, ABSENT),
    "10 % removed, batches move": (0.1, 0.0),
}


def deterministic(size: Size) -> dict[str, object]:
    """LDS of one deterministic training, by optimiser and design, and what replay costs."""
    learners = sy.learners
    common = {"epochs": size.epochs, "batch_size": 50, "checkpoints": 6}
    recipes = {
        "SGD, momentum": learners.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3, **common),
        "AdamW": learners.AdamW(lr=3e-3, weight_decay=1e-2, **common),
    }
    results: dict[str, object] = {}
    for name, recipe in recipes.items():
        asked = problem(size, recipe)
        methods = {
            "replay": sy.score.Replay(),
            "source": sy.score.SOURCE(),
            "tracin": sy.score.TracIn(),
            "ekfac": sy.score.EKFAC(),
        }
        scores = {method: scorer(asked) for method, scorer in methods.items()}
        rows = []
        for design, (share, factor) in DESIGNS.items():
            found = perturbed(asked, size, share=share, factor=factor)
            truth = Truth(asked, found["masks"], found["losses"], -found["losses"])
            rows.append((design, *(truth.lds(one.values) for one in scores.values())))
        show(f"{name}: LDS in one deterministic training", ("design", *scores), rows)
        resolved = scores["replay"].provenance.resolved
        results[name] = {
            "lds": {design: dict(zip(scores, values, strict=True)) for design, *values in rows},
            "metasmoothness": resolved["metasmoothness"],
            **cost(asked),
        }
    return results


def cost(asked: sy.Problem) -> dict[str, float]:
    """Seconds of one fit and of replay, and what one query adds to it in fits."""
    seconds = []
    for work in (
        lambda: asked.learner.fit(asked.train, seed=asked.seed),
        lambda: sy.score.Replay(check="none")(
            sy.Problem(asked.learner, asked.train, asked.query.take(slice(1)))
        ),
        lambda: sy.score.Replay(check="none")(asked),
    ):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    fit, one, whole = seconds
    found = {
        "seconds of a fit": fit,
        "seconds of replay": whole,
        "fits per replay of one query": one / fit,
        "fits per further query": (whole - one) / fit / (len(asked.query) - 1),
    }
    show("cost of replay", ("what", "value"), list(found.items()))
    return found


def unrolled(size: Size) -> dict[str, object]:
    """SOURCE beside EK-FAC where training did not converge, and where it went through two stages."""
    learners = sy.learners
    short = learners.SGD(lr=0.02, momentum=0.9, weight_decay=1e-4, epochs=3, batch_size=50, checkpoints=6)
    adam = learners.AdamW(lr=2e-3, weight_decay=1e-2, epochs=3, batch_size=50, checkpoints=6)
    long = learners.SGD(lr=0.05, momentum=0.9, epochs=size.epochs, batch_size=25, checkpoints=3)
    brief = learners.SGD(lr=0.02, momentum=0.9, epochs=max(1, size.epochs // 4), batch_size=25, checkpoints=3)
    first, second = (
        learners.Stage(recipe, column="turned", values=(turned,))
        for recipe, turned in ((long, 1), (brief, 0))
    )
    cases = {
        "not converged, SGD": problem(size, short),
        "not converged, AdamW": problem(size, adam),
        "two stages": problem(size, learners.Stages((first, second)), turned=True),
    }
    rows, results = [], {}
    for name, asked in cases.items():
        truth = halves(asked, size)
        methods = {"source": sy.score.SOURCE(), "ekfac": sy.score.EKFAC(), "tracin": sy.score.TracIn()}
        scores = {method: scorer(asked).values for method, scorer in methods.items()}
        lds = {method: truth.lds(values) for method, values in scores.items()}
        ahead, low, high = truth.ahead(scores["source"], scores["ekfac"])
        rows.append((name, *lds.values(), ahead, f"{low:.3f} to {high:.3f}", truth.ceiling()))
        results[name] = {"lds": lds, "source ahead of ekfac": [ahead, low, high], "ceiling": truth.ceiling()}
    head = ("training", "source", "ekfac", "tracin", "source ahead by", "95 % interval", "ceiling")
    show("LDS on random halves, mean over seeds", head, rows)
    return results


def main(given: Options) -> None:
    """Both experiments."""
    size = REDUCED if given.reduced else FULL
    record("through_training", given, {"deterministic": deterministic(size), "unrolled": unrolled(size)})


if __name__ == "__main__":
    main(options(__doc__))
