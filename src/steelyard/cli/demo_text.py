"""The loop on text: a language model trained from scratch, and the passages that taught it."""

import hashlib

import numpy as np

from steelyard import flow, report, score, verify
from steelyard.data.sources import python_docs
from steelyard.learners import Adam, Torch
from steelyard.learners.small import LanguageModel, Vocabulary, next_word_loss
from steelyard.problem import Problem
from steelyard.records import Examples, Report
from steelyard.run import Run

_LENGTH = 64
_WORDS = 512


def demo_text(run: Run, *, seed: int = 0) -> Report:
    """Attribute what a language model says about held-out passages to the passages that it learned from.

    600 passages of Python's own reference, each on one of 79 topics that the model is not told, and 40 others
    to ask about. The topic is a natural ground truth: proponents should be about the same thing.

    Cost: 33 fits of a transformer of some 48,000 parameters.

    Args:
        run: Where everything is kept as it is finished.
        seed: Of the split and the model.
    """
    data = python_docs(300, train=600, query=40, seed=seed)
    vocabulary = Vocabulary.of(data.train.column("text")[:], size=_WORDS)
    learner = Torch(
        lambda: LanguageModel(len(vocabulary.words), length=_LENGTH, width=32, heads=4),
        loss=next_word_loss(),
        recipe=Adam(lr=0.01, epochs=6, batch_size=32),
    )
    problem = Problem(learner, _tokens(data.train, vocabulary), _tokens(data.query, vocabulary), seed=seed)
    asked = score.EKFAC()(problem, run)
    baselines = [score.by_name(name)(problem, run) for name in ("random", "loss", "grad_cos", "bm25")]
    pairs = [asked, *(scores for scores in baselines if scores.axis == "pair")]
    evidence = [
        *(verify.agreement(problem, scores, column="topic") for scores in pairs),
        *(verify.lds(problem, scores, subsets=32, run=run) for scores in pairs),
    ]
    return report.build(
        asked,
        *baselines,
        *evidence,
        train=problem.train,
        query=flow.with_predictions(problem, run),
        title="Python's reference: which passages taught a language model its topics",
    )


def _tokens(passages: Examples, vocabulary: Vocabulary) -> Examples:
    """The passages with a column of word numbers beside their text."""
    tokens = vocabulary.encode(passages.column("text")[:], length=_LENGTH)
    digest = hashlib.sha256(passages.checksum.encode() + np.ascontiguousarray(tokens).tobytes())
    return passages.with_column("tokens", tokens, digest.hexdigest())
