"""Surrogates in the loop: does a small pretraining go better on what MATES chooses, and what is saved?

    python -m benchmarks.surrogates

Three parts. *Loop*: a transformer of some 48,000 parameters learns Python's own reference from scratch in stages; the
first stage is random, every later one trains on a quarter of a pool, chosen by the model of the stage before for a few
reference passages. Two tasks: passages on strings among all topics, and a pool half of whose passages have their words
shuffled. All ways of choosing take equally many steps and share seeds, so that the held-out loss is compared with
random choice pair by pair (Student's interval over seeds). The oracle takes a step on every example of the pool.
*Store*: NN-CIFT learns what a gradient store of a share of the examples answers, and predicts the rest. *Groups*: the
relational term of Group-MATES beside the plain sum, on digits and on digits most of which are copies.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks.measure import Options, options, record, show
from steelyard import flow, score
from steelyard.maths.power import paired
from steelyard.maths.surrogate import agreement
from steelyard.problem import HasVariants, require
from steelyard.run import in_memory
from steelyard.score.nn_cift import NNCIFT

LENGTH, WORDS = 64, 512
TASKS = ("strings", "shuffled")
_STRINGS = ("string-methods", "formatstrings", "strings", "typesseq", "bltin-textseq", "string-concatenation")


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    pool: int = 400
    reference: int = 16
    test: int = 60
    stages: int = 4
    seeds: int = 4
    digits: int = 400


FULL = Size()
REDUCED = Size(pool=80, reference=3, test=6, stages=2, seeds=2, digits=120)

WAYS: dict[str, Callable[[], Any]] = {
    "random": lambda: score.Random(),
    "bm25": lambda: score.BM25(),
    "grad_dot": lambda: score.GradDot(),
    "ekfac": lambda: score.EKFAC(),
    "mates": lambda: score.MATES(share=0.2),
    "group_mates": lambda: score.GroupMATES(share=0.2, groups=12, size=8),
    "oracle": lambda: score.MATES(share=1.0),
}


@dataclass(frozen=True, eq=False)
class Loop:
    """A pool with a reference to choose by, and held-out passages to measure on."""

    problem: sy.Problem
    test: sy.Examples


def loop(task: str, seed: int, size: Size = FULL) -> Loop:
    """One draw of a task."""
    from steelyard.data.sources import python_docs
    from steelyard.learners import Adam, Torch
    from steelyard.learners.small import LanguageModel, Vocabulary, next_word_loss

    data = python_docs(300, seed=0).train
    draw = np.random.default_rng(seed)
    texts, topics = np.asarray(data.column("text")[:], dtype=object), np.asarray(data.column("topic")[:])
    wanted = np.isin(topics, _STRINGS) if task == "strings" else np.ones(len(topics), dtype=bool)
    asked = draw.permutation(np.flatnonzero(wanted))[: size.reference + size.test]
    rest = draw.permutation(np.setdiff1d(np.arange(len(topics)), asked))[: size.pool]
    if task == "shuffled":
        for row in rest[::2]:
            texts[row] = " ".join(draw.permutation(str(texts[row]).split()))
    vocabulary = Vocabulary.of([str(texts[row]) for row in rest], size=WORDS)

    def tokens(rows: np.ndarray) -> sy.Examples:
        given = [str(texts[row]) for row in rows]
        passages = sy.read(
            [{"id": f"p{row:05d}", "text": text} for row, text in zip(rows, given, strict=True)]
        )
        found = vocabulary.encode(given, length=LENGTH)
        digest = hashlib.sha256(passages.checksum.encode() + np.ascontiguousarray(found).tobytes())
        return passages.with_column("tokens", found, digest.hexdigest())

    learner = Torch(
        lambda: LanguageModel(len(vocabulary.words), length=LENGTH, width=32, heads=4),
        loss=next_word_loss(),
        recipe=Adam(lr=0.01, epochs=2, batch_size=16),
    )
    problem = sy.Problem(learner, tokens(rest), tokens(asked[: size.reference]), seed=seed)
    return Loop(problem, tokens(asked[size.reference :]))


def loops(task: str, size: Size) -> dict[str, dict[str, Any]]:
    """Held-out loss at the end by every way of choosing, beside random, with cost and agreement with the oracle."""
    ends: dict[str, list[float]] = {name: [] for name in WAYS}
    gradients: dict[str, list[float]] = {name: [] for name in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    told: dict[str, list[float]] = {name: [] for name in WAYS}
    count = size.pool // 4
    for seed in range(size.seeds):
        made = loop(task, seed, size)
        for name, way in WAYS.items():
            choose = flow.choose_by(way(), count=count, temperature=0.5)
            found = flow.train_in_stages(
                made.problem, choose, stages=size.stages, count=count, held_out=made.test, run=in_memory()
            )
            ends[name].append(float(found.measured[-1].mean()))
            gradients[name].append(found.choosing.gradients)
            seconds[name].append(found.choosing.seconds)
            told[name] += [value for facts in found.facts for value in _agreements(facts)]
    rows: dict[str, dict[str, Any]] = {}
    for name in WAYS:
        gain = paired(np.array(ends["random"]) - np.array(ends[name])) if name != "random" else None
        rows[name] = {
            "held-out loss": float(np.mean(ends[name])),
            "gain over random": None if gain is None else [gain.estimate, gain.low, gain.high],
            "beats random": None if gain is None else bool(gain.low > 0),
            "gradients": float(np.mean(gradients[name])),
            "seconds": float(np.median(seconds[name])),
            "agreement with the oracle": float(np.mean(told[name])) if told[name] else None,
        }
    return rows


def _agreements(facts: dict[str, Any]) -> list[float]:
    held = facts.get("held_out")
    parts = held if isinstance(held, list) else [held] if isinstance(held, dict) else []
    return [part["spearman_of_means"] for part in parts if part.get("spearman_of_means") is not None]


def digits(size: Size, *, copies: bool = False) -> sy.Problem:
    """A perceptron on digits; with ``copies`` each of a few digits stands there several times."""
    from sklearn.datasets import load_digits

    from steelyard.learners import Adam, Torch
    from steelyard.learners.small import perceptron

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    train = order[: size.digits]
    if copies:
        train = np.tile(order[: max(5, size.digits // 40)], 40)[: size.digits]
    query = order[-60:]
    data = sy.read({"input": (x[train] / 16).astype(np.float32), "label": y[train], "id": _names("t", train)})
    asked = sy.read(
        {"input": (x[query] / 16).astype(np.float32), "label": y[query], "id": _names("q", query)}
    )
    recipe = Adam(lr=0.003, epochs=8, batch_size=32)
    return sy.Problem(Torch(lambda: perceptron(64, 48, 10), recipe=recipe), data, asked)


def _names(kind: str, rows: np.ndarray) -> np.ndarray:
    return np.array([f"{kind}{place:04d}" for place in range(len(rows))])


def store(size: Size) -> dict[str, dict[str, Any]]:
    """NN-CIFT on answers of a gradient store that holds a share of the examples, against the store of all."""
    problem, rows = digits(size), {}
    whole, spent, took = _answers(problem)
    for share in (0.2, 0.4):
        by_id = np.random.default_rng(1).permutation(len(problem.train))
        kept, rest = np.split(by_id, [round(share * len(by_id))])
        part = sy.Problem(problem.learner, problem.train.take(kept), problem.query, seed=problem.seed)
        began = time.monotonic()
        run = in_memory()
        known, cost, _ = _answers(part)
        predicted = NNCIFT(share=share).stretched(problem, kept, known, run)
        told = agreement(predicted[rest], whole[rest])
        rows[f"{share:.0%} of the store"] = {
            "Spearman of unseen examples' means": told["spearman_of_means"],
            "Spearman per query": told["mean_spearman_per_query"],
            "gradients": cost + run.cost.gradients,
            "gradients of the whole": spent,
            "seconds": time.monotonic() - began,
            "seconds of the whole": took,
        }
    return rows


def _answers(problem: sy.Problem) -> tuple[np.ndarray, float, float]:
    from steelyard.collect.fits import explained

    fitted = explained(problem, in_memory())  # trained once for all, not part of what a store takes
    learner = require(problem.learner, HasVariants, method="store", instead="a network").explaining(fitted)
    asked = sy.Problem(learner, problem.train, problem.query, seed=problem.seed)
    run, began = in_memory(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        flow.build_index(asked, Path(folder) / "store", run=run)
        top = flow.query_index(asked, Path(folder) / "store", top=len(asked.train), run=run).top
    rows = top.filter(side="proponent")
    values = np.zeros((len(asked.train), len(asked.query)))
    at = (
        asked.train.positions(rows["train_id"].to_numpy()),
        asked.query.positions(rows["query_id"].to_numpy()),
    )
    values[at] = rows["score"].to_numpy()
    return values, run.cost.gradients, time.monotonic() - began


def groups(size: Size) -> dict[str, dict[str, Any]]:
    """Held-out agreement of the plain sum and of the relational model with gains of groups."""
    rows = {}
    for name, copies in (("digits", False), ("digits, 40 copies of each", True)):
        problem = digits(size, copies=copies)
        facts = score.GroupMATES(groups=60, size=8, rate=0.5)(problem).provenance.resolved
        rows[name] = {
            "Spearman of groups, plain sum": facts["held_out_groups_plain_sum"]["spearman_of_means"],
            "Spearman of groups, relational": facts["held_out_groups_relational"]["spearman_of_means"],
            "squared error, relational / plain": facts["held_out_groups_error_ratio"],
            "used": facts["relations_used"],
        }
    return rows


def main(given: Options) -> None:
    """Run the three parts and record them."""
    size = REDUCED if given.reduced else FULL
    found: dict[str, Any] = {}
    for task in TASKS:
        found[task] = loops(task, size)
        head = ("chosen by", "held-out loss", "gain over random", "agreement", "gradients", "seconds")
        keys = ("held-out loss", "gain over random", "agreement with the oracle", "gradients", "seconds")
        show(
            f"{task}: {size}",
            head,
            [(name, *(row[key] for key in keys)) for name, row in found[task].items()],
        )
    found["store"], found["groups"] = store(size), groups(size)
    for part in ("store", "groups"):
        head = ("what", *next(iter(found[part].values())))
        show(part, head, [(name, *row.values()) for name, row in found[part].items()])
    record("surrogates", given, found)


if __name__ == "__main__":
    main(options(__doc__))
