"""Ground truth on text: what training a small language model on half of the passages does to held-out passages.

600 passages of Python's own reference and 40 queries, a transformer of two layers and some 48,000 parameters trained
from scratch by Adam, 40 random half subsets with 2 seeds each. The fits are kept in ``benchmarks/.cache``.

    python -m benchmarks.passages        makes the ground truth and prints how reproducible it is
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

import steelyard as sy
from benchmarks.digits import Truth
from benchmarks.measure import CACHE, Options, options, record, show

LENGTH = 64
WORDS = 512


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    train: int = 600
    query: int = 40
    subsets: int = 40
    seeds: int = 2
    epochs: int = 6


FULL = Size()
REDUCED = Size(train=60, query=6, subsets=6, seeds=2, epochs=2)


def problem(size: Size = FULL, *, checkpoints: int = 0) -> sy.Problem:
    """The problem that every method is asked about."""
    from steelyard.data.sources import python_docs
    from steelyard.learners import Adam, Torch
    from steelyard.learners.small import LanguageModel, Vocabulary, next_word_loss

    data = python_docs(300, train=size.train, query=size.query, seed=0)
    vocabulary = Vocabulary.of(data.train.column("text")[:], size=WORDS)
    learner = Torch(
        lambda: LanguageModel(len(vocabulary.words), length=LENGTH, width=32, heads=4),
        loss=next_word_loss(),
        recipe=Adam(lr=0.01, epochs=size.epochs, batch_size=32, checkpoints=checkpoints),
    )

    def tokens(passages: sy.Examples) -> sy.Examples:
        found = vocabulary.encode(passages.column("text")[:], length=LENGTH)
        digest = hashlib.sha256(passages.checksum.encode() + np.ascontiguousarray(found).tobytes())
        return passages.with_column("tokens", found, digest.hexdigest())

    return sy.Problem(learner, tokens(data.train), tokens(data.query))


def truth(size: Size = FULL) -> Truth:
    """The ground truth, from the cache if it is there; else ``subsets * seeds`` fits."""
    asked = problem(size)
    facts = json.dumps(
        [asdict(size), asked.checksums(), dict(asked.learner.settings())], sort_keys=True, default=str
    )
    path = CACHE / f"passages-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **_retrain(asked, size))
        part.rename(path)
    with np.load(path) as kept:
        return Truth(asked, kept["masks"], kept["losses"])


def _retrain(asked: sy.Problem, size: Size) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    masks = np.zeros((size.subsets, size.train), dtype=bool)
    losses = np.zeros((size.subsets, size.seeds, size.query))
    for subset in range(size.subsets):
        masks[subset, generator.permutation(size.train)[: size.train // 2]] = True
        for seed in range(size.seeds):
            # Seeds that no explained model uses.
            fitted = asked.learner.fit(asked.train, masks[subset].astype(float), 10_000 + 100 * subset + seed)
            losses[subset, seed] = asked.learner.measure(fitted, asked.query)
    return {"masks": masks, "losses": losses}


def main(given: Options) -> None:
    """Make the ground truth and print its ceiling."""
    size = REDUCED if given.reduced else FULL
    found = truth(size)
    fitted = found.problem.learner.explained(found.problem.train, 0)
    facts = {
        "mean query loss, all passages (nats)": float(
            found.problem.learner.measure(fitted, found.problem.query).mean()
        ),
        "mean query loss, half the passages (nats)": float(found.losses.mean()),
        "ceiling of LDS, loss": found.ceiling("loss"),
    }
    show(f"passages: {size}", ("what", "value"), list(facts.items()))
    record("passages", given, facts)


if __name__ == "__main__":
    main(options(__doc__))
