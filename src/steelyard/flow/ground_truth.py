"""Tasks on data that every machine has, with the recipe of a bank of refits for each: truth to measure scores by.

A bank is rebuilt from its recipe in minutes, without a network: :data:`TASKS` names the model, the data, the subsets
and the seeds, and the same version of Steelyard makes the same fits of them.
"""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steelyard.data import read
from steelyard.problem import Problem
from steelyard.records import Examples

FLIPPED = 0.05
_FEWEST = 18  # passages of a topic to learn from
_LENGTH = 64
_WORDS = 512


@dataclass(frozen=True)
class GroundTruth:
    """A task, and how its bank is made: random halves of the training examples, for verification.

    Attributes:
        about: What it is, in a line.
        build: Gives the problem.
        subsets: Halves, besides the full set.
        seeds: Training seeds of each.
        seconds: Roughly what the bank takes on two cores.
    """

    about: str
    build: Callable[[], Problem]
    subsets: int
    seeds: int
    seconds: int

    @property
    def fits(self) -> int:
        """In all, those of the full set included."""
        return (self.subsets + 1) * self.seeds


def digits_network(seed: int = 0) -> Problem:
    """Scans of handwritten digits, 5 % of them with a wrong label, and a network of 5,018 parameters.

    Args:
        seed: Of the split, the flipped labels and the model.
    """
    from steelyard.data.sources import digits
    from steelyard.learners import SGD, Torch
    from steelyard.learners.small import perceptron

    data = digits(train=1000, query=150, flip=FLIPPED, seed=seed)
    learner = Torch(perceptron(64, 48, 32, 10), recipe=SGD(lr=0.05, momentum=0.9, epochs=20, batch_size=64))
    return Problem(learner, data.train, data.query, seed=seed)


def digits_logistic() -> Problem:
    """The same scans and labels, and logistic regression, whose training has no seed."""
    from sklearn.linear_model import LogisticRegression

    from steelyard.data.sources import digits
    from steelyard.learners import Sklearn

    data = digits(train=1000, query=150, flip=FLIPPED)
    return Problem(Sklearn(LogisticRegression(C=0.1, tol=1e-6, max_iter=5000)), data.train, data.query)


def topics_logistic() -> Problem:
    """Passages of Python's own reference, told apart by topic with words and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from steelyard.data.sources import python_docs
    from steelyard.learners import Sklearn

    data = python_docs(400, query=120)
    topics, counts = np.unique(data.train.column("topic")[:].astype(str), return_counts=True)
    common = topics[counts >= _FEWEST]

    def side(examples: Examples, every: int) -> Examples:
        rows = np.flatnonzero(np.isin(examples.column("topic")[:].astype(str), common))[::every]
        chosen = examples.take(rows)
        columns = {"id": chosen.ids, "text": chosen.column("text")[:], "label": chosen.column("topic")[:]}
        return read(columns, text="text", label="label", id="id")

    learner = Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0)))
    return Problem(learner, side(data.train, 2), side(data.query, 1))


def passages(seed: int = 0) -> Problem:
    """600 passages of Python's own reference, 40 to ask about, and a transformer of some 48,000 parameters.

    Args:
        seed: Of the split and the model.
    """
    from steelyard.data.sources import python_docs
    from steelyard.learners import Adam, Torch
    from steelyard.learners.small import LanguageModel, Vocabulary, next_word_loss

    data = python_docs(300, train=600, query=40, seed=seed)
    vocabulary = Vocabulary.of(data.train.column("text")[:], size=_WORDS)

    def tokens(examples: Examples) -> Examples:
        numbers = vocabulary.encode(examples.column("text")[:], length=_LENGTH)
        digest = hashlib.sha256(examples.checksum.encode() + np.ascontiguousarray(numbers).tobytes())
        return examples.with_column("tokens", numbers, digest.hexdigest())

    learner = Torch(
        functools.partial(LanguageModel, len(vocabulary.words), length=_LENGTH, width=32, heads=4),
        loss=next_word_loss(),
        recipe=Adam(lr=0.01, epochs=6, batch_size=32),
    )
    return Problem(learner, tokens(data.train), tokens(data.query), seed=seed)


TASKS = {
    "digits-network": GroundTruth(
        "network 64-48-32-10 on 1,000 digits, 5 % of the labels wrong", digits_network, 64, 5, 10
    ),
    "digits-logistic": GroundTruth("logistic regression on the same digits", digits_logistic, 256, 1, 10),
    "topics-logistic": GroundTruth(
        "logistic regression on words: topics of Python's reference", topics_logistic, 128, 1, 60
    ),
    "passages": GroundTruth(
        "small transformer from scratch on 600 passages of Python's reference", passages, 64, 1, 150
    ),
}
"""Name, as MODEL on the command line, to the task and its recipe."""
