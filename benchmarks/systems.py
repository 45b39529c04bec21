"""Systems built on influence: what each is worth against random at equal budget, and UnTrac against real training.

    python -m benchmarks.systems

First ``examples/compare.yaml`` as it stands: every system chooses, weighs or cleans digits with wrong labels and five
mixed sources of text, and the model is retrained with each plan. Then what UnTrac, UnTrac-Inv, and gradients summed
over a source say about five sources of text, against training without the source: Spearman's correlation over the
sources, for each source as the target in turn, mean over targets; with a Student interval at 95 % over draws of the
data. The target's own source is easy to tell, so that the correlation over the four others is shown as well. No
setting was chosen on these draws.
"""

import importlib
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks.measure import HERE, Options, options, record, show
from steelyard.cli.compare_file import read_comparison
from steelyard.flow.comparing import Terms, compare
from steelyard.maths.power import paired
from steelyard.maths.ranks import spearman
from steelyard.run import in_memory
from steelyard.score.untrac import by_source, sources
from steelyard.verify.design import gains, start

EXAMPLES = HERE.parent / "examples"
FIRST_DRAW = 100  # examples/compare.yaml uses draw 0


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    draws: int = 5
    each: int = 400
    asked: int = 300
    seeds: int = 3
    terms: Terms | None = None


FULL = Size()
REDUCED = Size(draws=2, each=60, asked=40, seeds=1, terms=Terms(seeds=1, controls=3))


def of_sources(problem: sy.Problem) -> dict[str, np.ndarray]:
    """Per method ``[source, query]``: how much worse a query is said to be without the source."""
    names, members = sources(problem, "source", method="benchmark")
    score = sy.score
    found = {
        "untrac (Adam)": score.UnTrac(column="source")(problem).values,
        "untrac (SGD)": score.UnTrac(column="source", optimiser="sgd", rate=0.1)(problem).values,
        "grad_dot": by_source(score.GradDot()(problem).values, members),
        "grad_cos": by_source(score.GradCos()(problem).values, members),
        "random": np.random.default_rng(problem.seed + len(names)).normal(
            size=(len(names), len(problem.query))
        ),
    }
    return {name: np.asarray(values) for name, values in found.items()}


def inverse(problem: sy.Problem, targets: np.ndarray) -> np.ndarray:
    """``[source, target]`` UnTrac-Inv with the queries of each target in turn."""
    names, members = sources(problem, "source", method="benchmark")
    found = np.empty((len(names), len(names)))
    for k, name in enumerate(names):
        asked = problem.query.take(np.flatnonzero(targets == name))
        values = sy.score.UnTracInv()(
            sy.Problem(problem.learner, problem.train, asked, seed=problem.seed)
        ).values
        found[:, k] = [values[rows, 0].mean() for rows in members]
    return found


def truth(problem: sy.Problem, seeds: int) -> np.ndarray:
    """``[source, query]`` How much worse a query really is after training without the source, mean over seeds."""
    _, members = sources(problem, "source", method="benchmark")
    weights = np.ones((len(members), len(problem.train)))
    for row, own in zip(weights, members, strict=True):
        row[own] = 0.0
    return -gains(start(problem, seeds, in_memory()), weights)[0].mean(axis=1)


def one_draw(draw: int, size: Size) -> dict[str, dict[str, float]]:
    """Correlations of every method with the truth on one draw of the data."""
    compare_tasks: Any = importlib.import_module("compare_tasks")
    problem = compare_tasks.text(size.each, size.asked, draw, tuple(compare_tasks.SOURCES))
    names, _ = sources(problem, "source", method="benchmark")
    targets = np.asarray(problem.query.column("source")[:]).astype(str)

    def per_target(values: np.ndarray) -> np.ndarray:
        return np.stack([values[:, targets == name].mean(axis=1) for name in names], axis=1)

    real = per_target(truth(problem, size.seeds))
    said = {name: per_target(values) for name, values in of_sources(problem).items()}
    said["untrac_inv"] = inverse(problem, targets)
    others = ~np.eye(len(names), dtype=bool)

    def without_own(values: np.ndarray) -> np.ndarray:
        return np.stack([values[others[:, k], k] for k in range(len(names))], axis=1)

    return {
        name: {
            "all": float(np.mean(spearman(values, real))),
            "others": float(np.mean(spearman(without_own(values), without_own(real)))),
        }
        for name, values in said.items()
    }


def untrac(size: Size) -> list[dict[str, Any]]:
    """Mean correlations over the draws with intervals, best first."""
    draws = [one_draw(FIRST_DRAW + k, size) for k in range(size.draws)]
    lines = []
    for name in draws[0]:
        line: dict[str, Any] = {"method": name}
        for what in ("all", "others"):
            found = paired(np.array([draw[name][what] for draw in draws]))
            line[what] = [found.estimate, max(-1.0, found.low), min(1.0, found.high)]
        lines.append(line)
    return sorted(lines, key=lambda line: -line["others"][0])


def main(given: Options) -> None:
    """Print both tables."""
    size = REDUCED if given.reduced else FULL
    sys.path.insert(0, str(EXAMPLES))
    began = time.perf_counter()
    asked = read_comparison(Path(EXAMPLES / "compare.yaml"))
    found = compare(asked.tasks, asked.systems, size.terms or asked.terms, title=asked.title)
    results: dict[str, Any] = {
        "terms": asdict(size.terms or asked.terms),
        "tasks": {name: dict(facts) for name, facts in found.tasks.items()},
        "rows": [asdict(row) | {"course": {}} for row in found.rows],
        "says": sy.report.comparison.in_words(found),
        "untrac": untrac(size),
    }
    for task in found.tasks:
        table = sy.report.comparison.by_task(found, task)
        show(table.caption, table.head, table.rows)
    print(f"\n{results['says']}")
    show(
        f"five sources of text, {size.draws} draws: Spearman with training without the source",
        ("method", "all sources", "95 %", "the four others", "95 %"),
        [
            (one["method"], one["all"][0], "{1:.2f} to {2:.2f}".format(*one["all"]), one["others"][0],
             "{1:.2f} to {2:.2f}".format(*one["others"]))
            for one in results["untrac"]
        ],
    )  # fmt: skip
    results["seconds"] = time.perf_counter() - began
    record("systems", given, results)


if __name__ == "__main__":
    main(options(__doc__))
