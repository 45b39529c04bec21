"""Ground truth on text: what training a small language model on half of the passages does to held-out passages.

600 passages of Python's own reference and 40 queries, a transformer of two layers and some 48,000 parameters trained
from scratch by Adam, 40 random half subsets with 2 seeds each. The fits are kept in ``benchmarks/.cache``.

    python -m benchmarks.passages        makes the ground truth and prints how reproducible it is
"""

import hashlib

import numpy as np

import steelyard as sy
from benchmarks.digits import Size, Truth, kept_truth
from benchmarks.measure import Options, options, record, show

LENGTH = 64
WORDS = 512


FULL = Size(train=600, query=40, subsets=40, seeds=2, epochs=6)
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
    return kept_truth("passages", problem(size), size, _retrain)


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
