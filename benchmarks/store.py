"""Gradient store: bytes, rank agreement and time to ask, on 10,000 texts of a small language model.

    python -m benchmarks.store

A transformer with the layout of pythia-14m (six blocks of four matrices each, two embeddings and an output layer) at
width 128, trained for a moment on windows of 32 words of Python's own reference; 10,000 windows are stored at rank 16
and 10 held-out windows asked. Agreement is Spearman's correlation of the scores of all rows with those of the float32
store, per query. Speed is bytes of the store per second of the pass over it, beside NumPy's sum over the same mapped
bytes as 64-bit integers, which does nothing but read.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

import steelyard as sy
from benchmarks.measure import Options, median_seconds, options, record, show
from steelyard import flow
from steelyard.collect import store_search
from steelyard.collect.store import Number, Store, StoreSettings
from steelyard.maths.ranks import spearman

_LENGTH, _WORDS, _WIDTH, _BLOCKS, _QUERIES = 32, 1024, 128, 6, 10
_NUMBERS: tuple[Number, ...] = ("float32", "float16", "int8")


def main(given: Options) -> None:
    """Build one store per number type, compare them, time the questions."""
    count = 300 if given.reduced else 10_000
    problem = _problem(count)
    bare = _bare_seconds(problem)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        exact: np.ndarray | None = None
        for number in _NUMBERS:
            path = Path(folder) / number
            began = time.perf_counter()
            store = flow.build_index(problem, path, StoreSettings(dtype=number))
            built = time.perf_counter() - began
            asked = _asked(problem, path, store, given.repeats)
            exact = asked.pop("scores") if exact is None else exact
            found = asked.pop("scores", exact)
            agreement = spearman(exact.astype(np.float64), found.astype(np.float64))
            rows.append(
                {
                    "number": number,
                    "megabytes": store.nbytes / 1e6,
                    "bytes_per_example": store.nbytes / count,
                    "spearman_mean": float(agreement.mean()),
                    "spearman_least": float(agreement.min()),
                    "least_short_of_1": 1 - float(agreement.min()),
                    "top_10_shared": _shared(exact, found),
                    "build_seconds": built,
                    "build_in_bare_passes": built / bare,
                    **asked,
                }
            )
    head = list(rows[0])
    show(f"{count:,} texts at rank 16, {given.threads} threads", head, [list(row.values()) for row in rows])
    record("store", given, {"examples": count, "features": store.width, "bare_seconds": bare, "stores": rows})


def _problem(count: int) -> sy.Problem:
    import torch

    from steelyard.data.sources import python_docs
    from steelyard.learners import Torch
    from steelyard.learners.small import PADDING, LanguageModel, Vocabulary, next_word_loss

    data = python_docs(2000, query=1)
    texts = list(data.train.column("text")[:])
    vocabulary = Vocabulary.of(texts, size=_WORDS)
    lines = vocabulary.encode(texts, length=max(map(len, texts)))
    flat = lines[lines != PADDING]
    starts = np.linspace(0, len(flat) - _LENGTH, count + _QUERIES).astype(np.int64)
    windows = flat[starts[:, None] + np.arange(_LENGTH)]
    generator = np.random.default_rng(0)
    order = generator.permutation(len(windows))
    torch.manual_seed(0)
    net = LanguageModel(len(vocabulary.words), length=_LENGTH, width=_WIDTH, blocks=_BLOCKS)
    loss = next_word_loss()
    _train(net, torch.from_numpy(windows[order[_QUERIES:]]))
    learner = Torch(net.eval(), loss=loss, trained=True)
    train, query = (
        sy.read({"tokens": windows[rows], "id": np.array([f"w{row}" for row in rows])})
        for rows in (order[_QUERIES:], order[:_QUERIES])
    )
    return sy.Problem(learner, train, query)


def _train(net: "torch.nn.Module", windows: "torch.Tensor") -> None:  # noqa: F821 - loaded by the caller
    """150 steps of Adam: enough that gradients are those of a language model."""
    import torch

    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(150):
        batch = windows[(torch.arange(32) + 32 * step) % len(windows)]
        logits = net(batch[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def _bare_seconds(problem: sy.Problem) -> float:
    """One forward and backward pass over the training examples, as training makes it."""
    import torch

    model = problem.learner.load(problem.learner.explained(problem.train))
    parameters = [p for p in model.parameters() if p.requires_grad]
    began = time.perf_counter()
    for batch in problem.learner.batches(problem.train, 64):
        torch.autograd.grad(problem.learner.loss_function(model, batch).sum(), parameters)
    return time.perf_counter() - began


def _asked(problem: sy.Problem, path: Path, store: Store, repeats: int) -> dict:
    flow.query_index(problem, path)  # the second moment is made once in the life of a store
    answers = [flow.query_index(problem, path).facts["seconds"] for _ in range(max(3, repeats))]
    rng = np.random.default_rng(0)
    asked = rng.normal(size=(_QUERIES, store.width)).astype(np.float32)
    seconds = median_seconds(lambda: store_search.search(store, asked, 10), max(3, repeats))
    alone = median_seconds(lambda: store_search.search(store, asked[:1], 10), max(3, repeats))
    shards = [shard.data for shard in store.shards()]
    size = sum(data.nbytes for data in shards)

    def read() -> None:
        for data in shards:
            data.reshape(-1)[: data.size // 8 * 8].view(np.int64).sum()

    return {
        "scores": _scores(problem, store),
        "load_seconds": float(np.median([answer["load"] for answer in answers])),
        "query_gradients_seconds": float(np.median([answer["query_gradients"] for answer in answers])),
        "search_seconds": float(np.median([answer["search"] for answer in answers])),
        "gigabytes_per_second_10_queries": size / seconds / 1e9,
        "gigabytes_per_second_1_query": size / alone / 1e9,
        "gigabytes_per_second_numpy_sum": size / median_seconds(read, max(3, repeats)) / 1e9,
    }


def _scores(problem: sy.Problem, store: Store) -> np.ndarray:
    """``[row, query]`` Influence, from this store alone."""
    from steelyard.collect.store_build import open_model

    opened = open_model(problem, store.folder, store.manifest.settings, sy.run.in_memory())
    rows = opened.features(problem.query, "measurement").astype(np.float64)
    rows = store_search.curvature(store, opened.features.grams(), "auto").solve(rows)
    return np.concatenate([block for _, block in store_search.products(store, rows)])


def _shared(exact: np.ndarray, found: np.ndarray) -> float:
    """Share of the ten best rows per query that both name."""
    both = [
        len(set(np.argsort(-exact[:, q])[:10]) & set(np.argsort(-found[:, q])[:10]))
        for q in range(exact.shape[1])
    ]
    return float(np.mean(both)) / 10


if __name__ == "__main__":
    main(options(__doc__))
