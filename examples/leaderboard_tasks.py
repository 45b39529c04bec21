"""The tasks of ``examples/leaderboard.yaml``: real data that every machine has, and models that train in a blink."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from steelyard.data import read
from steelyard.data.sources import digits as handwritten
from steelyard.data.sources import python_docs
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.learners.small import perceptron
from steelyard.problem import Problem
from steelyard.records import Examples

FEWEST = 18  # passages of a topic to learn from


def digits() -> Problem:
    """Scans of digits and a small network; a tenth of the training labels is wrong, and ``flipped`` says which."""
    data = handwritten(train=400, query=60, flip=0.1)
    wrong = np.isin(data.train.ids, data.flipped).astype(np.int64)
    learner = Torch(perceptron(64, 32, 10), recipe=SGD(lr=0.05, momentum=0.9, epochs=15, batch_size=32))
    train = data.train.with_column("flipped", wrong, f"{data.train.checksum}|flipped")
    return Problem(learner, train, data.query)


def text() -> Problem:
    """Passages of Python's own reference, told apart by topic with words and logistic regression."""
    data = python_docs(400, query=120)
    topics, counts = np.unique(data.train.column("topic")[:].astype(str), return_counts=True)
    common = topics[counts >= FEWEST]

    def side(examples: Examples, every: int) -> Examples:
        rows = np.flatnonzero(np.isin(examples.column("topic")[:].astype(str), common))[::every]
        chosen = examples.take(rows)
        columns = {"id": chosen.ids, "text": chosen.column("text")[:], "label": chosen.column("topic")[:]}
        return read(columns, text="text", label="label", id="id")

    learner = Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression(C=10.0)))
    return Problem(learner, side(data.train, 2), side(data.query, 1))
