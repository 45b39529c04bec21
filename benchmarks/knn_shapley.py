"""kNN-Shapley: exact values per pair beside dattri and pyDVL, and a large problem in bounded memory.

    python -m benchmarks.knn_shapley --peers

The large problem is 100,000 training examples by 1,000 queries; nothing of size train x train exists in it,
and the table gives its peak memory beside the size of the score matrix itself.
"""

from dataclasses import replace

import numpy as np

from benchmarks.measure import Options, options, record, run, show
from benchmarks.runners.exchange import Answer, Job

_NEIGHBOURS = 5
_WIDTH = 32


def main(given: Options) -> None:
    """Both tables."""
    train, query = (200, 20) if given.reduced else (2000, 100)
    job = _job(train, query, given)
    ours = run("steelyard", job, None)
    answers = [ours]
    if given.peers:
        answers += [run(who, _as_peer(job), given.peers) for who in ("pydvl", "dattri")]
    pairs = train * query
    show(
        f"exact kNN-Shapley, k = {_NEIGHBOURS}, {train:,} x {query:,}, {given.threads} threads",
        ("who", "microseconds per pair", "x ours", "largest difference of the mean over queries"),
        [
            (a.software.partition(" (")[0], a.median / pairs * 1e6, a.median / ours.median, _apart(a, ours))
            for a in answers
        ],
    )
    many, some = (2000, 50) if given.reduced else (100_000, 1000)
    large = run("steelyard", _job(many, some, given, repeats=1), None)
    matrix = many * some * large.scores.dtype.itemsize
    facts = {
        "train": many,
        "query": some,
        "seconds": large.median,
        "peak_bytes": large.peak_bytes,
        "score_matrix_bytes": matrix,
        "train_by_train_bytes": many * many * 4,
    }
    show(
        "a large problem",
        ("train x query", "seconds", "microseconds per pair", "peak MB", "of which score matrix MB"),
        [
            (
                f"{many:,} x {some:,}",
                large.median,
                large.median / (many * some) * 1e6,
                large.peak_bytes / 2**20,
                matrix / 2**20,
            )
        ],
    )
    record(
        "knn_shapley",
        given,
        {
            "pairs": [
                {
                    "who": a.software,
                    "seconds": a.median,
                    "microseconds_per_pair": a.median / pairs * 1e6,
                    "apart": _apart(a, ours),
                }
                for a in answers
            ],
            "large": facts,
        },
    )


def _job(train: int, query: int, given: Options, *, repeats: int | None = None) -> Job:
    generator = np.random.default_rng(0)

    def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(0, 10, count)
        return (generator.normal(size=(count, _WIDTH)) + labels[:, None] / 4).astype(np.float32), labels

    work = {"neighbours": _NEIGHBOURS, "embedding": "inputs"}
    return Job(
        "knn_shapley", work, pair(train), pair(query), threads=given.threads, repeats=repeats or given.repeats
    )


def _as_peer(job: Job) -> Job:
    return replace(job, settings={"k": _NEIGHBOURS, "batch": 1000}, repeats=1)


def _apart(answer: Answer, ours: Answer) -> float:
    """Peers that give one value per training example average over the queries; so do we, to compare."""
    return float(np.abs(answer.scores.mean(axis=1) - ours.scores.mean(axis=1)).max())


if __name__ == "__main__":
    main(options(__doc__))
