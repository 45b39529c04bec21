"""Which examples have a wrong label? Every method on scikit-learn's digits with 20 % of the labels changed.

    python -m benchmarks.mislabel --peers

All 1,797 digits; labels are changed to any other class (symmetric) or to the next (asymmetric, y to y + 1), in five
draws each. A perceptron 64-128-10 is trained on the noisy labels. AUROC and average precision of each method's
suspicion, mean over the draws with a Student interval at 95 %. No setting was chosen on these draws: the combined score
ranks three witnesses equally, and defaults were looked at on other draws (seeds from 100).

Beside us stands cleanlab's self-confidence and normalised margin on the same out-of-sample probabilities as ours, where
it can be imported (``pip install cleanlab`` into the environment that runs this).
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks.measure import Options, options, record, show
from steelyard.collect.folds import held_out_probabilities
from steelyard.maths.power import paired
from steelyard.maths.ranks import auc
from steelyard.run import in_memory

SHARE = 0.2
KINDS = ("symmetric", "asymmetric")
BEST = "label_consensus"


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    examples: int = 1797
    draws: int = 5
    epochs: int = 30


FULL = Size()
REDUCED = Size(examples=300, draws=2, epochs=5)


@dataclass(frozen=True, eq=False)
class Noisy:
    """One draw of noise.

    Attributes:
        problem: A learner, and the digits with the noisy labels.
        wrong: ``bool[" train"]`` Whose label was changed.
    """

    problem: sy.Problem
    wrong: np.ndarray


def noisy(kind: str, draw: int, size: Size = FULL) -> Noisy:
    """Digits with changed labels, and a perceptron to train on them."""
    import torch
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    inputs, labels = (
        (inputs[: size.examples] / 16).astype(np.float32),
        labels[: size.examples].astype(np.int64),
    )
    generator = np.random.default_rng(draw)
    chosen = generator.choice(len(labels), round(SHARE * len(labels)), replace=False)
    shift = 1 if kind == "asymmetric" else generator.integers(1, 10, len(chosen))
    given = labels.copy()
    given[chosen] = (given[chosen] + shift) % 10
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10))
    recipe = sy.learners.SGD(lr=0.1, momentum=0.9, epochs=size.epochs, batch_size=64, weight_decay=1e-4)
    learner = sy.learners.Torch(net, recipe=recipe)
    problem = sy.Problem(learner, train=(inputs, given), query=(inputs[:1], given[:1]), seed=draw)
    return Noisy(problem, np.isin(np.arange(len(labels)), chosen))


def methods() -> dict[str, Callable[[sy.Problem], sy.Scores]]:
    """What is compared, by the name it has in the table."""
    score = sy.score
    return {
        "loss": score.Loss(),
        "self_influence": score.SelfInfluence(),
        "aum": score.AUM(),
        "el2n": score.EL2N(),
        "grand": score.GraNd(),
        "forgetting": score.Forgetting(),
        "forgetting (learned)": score.Forgetting(count="learned"),
        "cartography (confidence)": score.Cartography(),
        "cartography (variability)": score.Cartography("variability"),
        "cartography (loss)": score.Cartography("loss"),
        "self_confidence (probability)": score.SelfConfidence("probability"),
        "self_confidence (margin)": score.SelfConfidence("margin"),
        "self_confidence (entropy)": score.SelfConfidence("entropy"),
        "knn_label (one hop)": score.KNNLabel(hops=1),
        "knn_label": score.KNNLabel(),
        BEST: score.LabelConsensus(),
    }


def measured(given: Noisy) -> dict[str, dict[str, float]]:
    """AUROC, average precision and seconds of every method on one draw."""
    from sklearn.metrics import average_precision_score

    found: dict[str, dict[str, float]] = {}
    for name, method in methods().items():
        start = time.perf_counter()
        harm = method(given.problem).harm()
        found[name] = {"auroc": auc(harm, given.wrong).value, "seconds": time.perf_counter() - start}
        found[name]["ap"] = float(average_precision_score(given.wrong, harm))
    for name, harm in cleanlab(given.problem).items():
        found[name] = {"auroc": auc(harm, given.wrong).value, "seconds": float("nan")}
        found[name]["ap"] = float(average_precision_score(given.wrong, harm))
    return found


def cleanlab(problem: sy.Problem) -> dict[str, np.ndarray]:
    """Suspicion by cleanlab from our out-of-sample probabilities; nothing where it is not installed."""
    if importlib.util.find_spec("cleanlab") is None:
        return {}
    rank: Any = importlib.import_module("cleanlab.rank")
    probabilities = held_out_probabilities(problem, in_memory())
    return {
        f"cleanlab {name}": -rank.get_label_quality_scores(problem.train.labels(), probabilities, method=name)
        for name in ("self_confidence", "normalized_margin")
    }


def summary(draws: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Mean over the draws of every number, with an interval of the AUROC."""
    found: dict[str, dict[str, Any]] = {}
    for name in draws[0]:
        areas = np.array([draw[name]["auroc"] for draw in draws])
        interval = paired(areas)
        found[name] = {
            "auroc": interval.estimate,
            "interval": [interval.low, min(1.0, interval.high)],
            "draws": areas.tolist(),
            "ap": float(np.mean([draw[name]["ap"] for draw in draws])),
            "seconds": float(np.median([draw[name]["seconds"] for draw in draws])),
        }
    return found


def main(given: Options) -> None:
    """Print both tables, and which method is best."""
    size = REDUCED if given.reduced else FULL
    results: dict[str, Any] = {}
    for kind in KINDS:
        results[kind] = summary([measured(noisy(kind, draw, size)) for draw in range(size.draws)])
        lines = [
            (
                name,
                f"{row['auroc']:.4f}",
                "{:.4f} to {:.4f}".format(*row["interval"]),
                f"{row['ap']:.3f}",
                row["seconds"],
            )
            for name, row in sorted(results[kind].items(), key=lambda item: -item[1]["auroc"])
        ]
        show(
            f"digits, {SHARE:.0%} {kind} noise, {size.draws} draws",
            ("method", "AUROC", "95 %", "AP", "seconds"),
            lines,
        )
        print(f"best: {lines[0][0]}")
    record("mislabel", given, results)


if __name__ == "__main__":
    main(options(__doc__))
