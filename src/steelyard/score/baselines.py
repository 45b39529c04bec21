"""Baselines that every other method must beat: random, loss, class similarity, embedding cosine, BM25, TF-IDF."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt64

from steelyard.collect.embeddings import Embedder, Source, embedder
from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, DataError
from steelyard.maths.lexical import LexicalIndex, bm25, tfidf
from steelyard.problem import Problem
from steelyard.records import Cost, Examples, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples, score_pairs

_FORWARD = 1 / 3  # of a gradient: a backward pass costs about two forward passes


@dataclass(frozen=True)
class Random:
    """Independent uniform numbers in [-1, 1): what a method scores that knows nothing.

    Each number depends on the seed and the two ids alone, so that row order, shards and other examples do not
    matter. Exact copies have different ids and hence different numbers.

    Args:
        seed: Which numbers.
    """

    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="none: the control",
        needs="nothing",
        cost="none",
        good_for="seeing what chance gives, beside every other method",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """Only the order means something, and that nothing."""
        return "rank"

    def prepare(self, problem: Problem, run: Run) -> UInt64[np.ndarray, " query"]:
        """One 64-bit key per query."""
        return _keys(problem.query.ids, f"{self.seed}/query")

    def score(
        self, problem: Problem, state: UInt64[np.ndarray, " query"], rows: slice
    ) -> Float32[np.ndarray, "row query"]:
        """Mixed keys of these rows and all queries as numbers."""
        mixed = _mix(_keys(problem.train.ids[rows], f"{self.seed}/train")[:, None] + state[None, :])
        return ((mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23)) - np.float32(1.0)


@dataclass(frozen=True)
class Loss:
    """Training loss of each example at the explained model: high for mislabelled and hard examples.

    In the unit of the training loss, without regularisation and weights. One column; high values are suspect.
    """

    card: ClassVar[MethodCard] = MethodCard(
        paper="none: the usual first look",
        needs="nothing",
        cost="n forward passes",
        good_for="mislabelled examples that the model has not memorised",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example by itself."""
        return score_examples(self, problem, run, about="self", suspect="high")

    def unit(self, problem: Problem) -> str:
        """That of the training loss."""
        measurement = problem.learner.measurement
        return measurement.unit if measurement.name == "loss" else "nats"

    def predict(self, problem: Problem) -> Cost:
        """One forward pass per training example."""
        return Cost(gradients=_FORWARD * len(problem.train))

    def prepare(self, problem: Problem, run: Run) -> tuple[Any, Run]:
        """The explained model, and whose meter counts."""
        return explained(problem, run), run

    def score(self, problem: Problem, state: tuple[Any, Run], rows: slice) -> Float64[np.ndarray, "row 1"]:
        """Losses of these rows."""
        fitted, run = state
        part = problem.train.take(rows)
        run.spend(gradients=_FORWARD * len(part))
        return np.asarray(problem.learner.loss(fitted, part), dtype=np.float64)[:, None]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of both sides in one form.

    Attributes:
        train: Class numbers, or regression targets.
        query: The same for the queries.
        classes: Whether they are classes.
    """

    train: np.ndarray
    query: np.ndarray
    classes: bool


@dataclass(frozen=True)
class ClassSimilarity:
    """1 where training example and query have the same label, else 0; targets: minus their distance.

    Labels are regression targets if they are floating-point numbers that are not all whole.

    Source: Hanawa et al. (2021), "Evaluation of Similarity-based Explanations": the identical class test, which
    this baseline passes by construction.
    """

    card: ClassVar[MethodCard] = MethodCard(
        paper="Hanawa et al. 2021, Evaluation of Similarity-based Explanations",
        needs="labels",
        cost="none",
        good_for="seeing how much of a method's success is the label alone",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def prepare(self, problem: Problem, run: Run) -> Labels:
        """Labels of both sides as comparable numbers."""
        return comparable_labels(problem.train, problem.query)

    def score(self, problem: Problem, state: Labels, rows: slice) -> Float32[np.ndarray, "row query"]:
        """Agreement of these rows with every query."""
        if state.classes:
            return (state.train[rows, None] == state.query[None, :]).astype(np.float32)
        from scipy.spatial.distance import cdist

        return -cdist(state.train[rows], state.query).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Directions:
    """Queries as unit vectors, and what embeds training examples.

    Attributes:
        embed: Examples to vectors.
        query: Unit vectors of the queries.
        run: Whose meter counts.
    """

    embed: Embedder
    query: Float[np.ndarray, "query feature"]
    run: Run


@dataclass(frozen=True)
class EmbeddingCosine:
    """Cosine between the embeddings of query and training example; 0 where one has no length.

    Args:
        embedding: ``"learner"``: what the explained model's last layer reads. ``"inputs"``: the input numbers.
            ``"auto"``: the learner's where it has them.

    Source: Hanawa et al. (2021), "Evaluation of Similarity-based Explanations", cosine of last hidden layers.
    """

    embedding: Source = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Hanawa et al. 2021, Evaluation of Similarity-based Explanations",
        needs="embeddings or numeric inputs",
        cost="n + q forward passes",
        good_for="look-alikes in the model's eyes; the baseline for networks",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """One forward pass per example and query."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Directions:
        """Unit vectors of the queries."""
        embed = embedder(problem, run, source=self.embedding, method="EmbeddingCosine")
        run.spend(gradients=_FORWARD * len(problem.query))
        return Directions(embed, unit_rows(embed(problem.query)), run)

    def resolved(self, state: Directions) -> Mapping[str, str]:
        """Where the vectors came from."""
        return {"embedding": state.embed.of}

    def score(self, problem: Problem, state: Directions, rows: slice) -> Float32[np.ndarray, "row query"]:
        """Cosines of these rows."""
        part = problem.train.take(rows)
        state.run.spend(gradients=_FORWARD * len(part))
        return (unit_rows(state.embed(part)) @ state.query.T).astype(np.float32)


@dataclass(frozen=True)
class BM25:
    """Okapi BM25 with the query's text as query and training texts as documents.

    Args:
        k1: How soon repetitions of a word stop counting.
        b: How much long texts are discounted, 0 to 1.

    Source: Robertson & Zaragoza (2009), "The Probabilistic Relevance Framework: BM25 and Beyond"; formula,
    tokeniser and deviations in ``maths/lexical.py``.
    """

    k1: float = 1.2
    b: float = 0.75
    card: ClassVar[MethodCard] = MethodCard(
        paper="Robertson & Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond",
        needs="text",
        cost="one pass over the text",
        good_for="texts that share rare words; the baseline for language models, hard to beat",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def prepare(self, problem: Problem, run: Run) -> tuple[LexicalIndex, Any]:
        """The index over training texts, and the queries in its terms."""
        index = bm25(texts(problem.train, "BM25"), k1=self.k1, b=self.b)
        return index, index.queries(texts(problem.query, "BM25"))

    def score(
        self, problem: Problem, state: tuple[LexicalIndex, Any], rows: slice
    ) -> Float32[np.ndarray, "row query"]:
        """Relevance of these rows."""
        index, queries = state
        return index.similarities(queries, rows).astype(np.float32)


@dataclass(frozen=True)
class TFIDF:
    """Cosine of TF-IDF vectors of the texts.

    Source: Salton & Buckley (1988), "Term-weighting approaches in automatic text retrieval"; formula and tokeniser
    in ``maths/lexical.py``.
    """

    card: ClassVar[MethodCard] = MethodCard(
        paper="Salton & Buckley 1988, Term-weighting approaches in automatic text retrieval",
        needs="text",
        cost="one pass over the text",
        good_for="texts on the same subject, whatever their length",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def prepare(self, problem: Problem, run: Run) -> tuple[LexicalIndex, Any]:
        """The index over training texts, and the queries in its terms."""
        index = tfidf(texts(problem.train, "TFIDF"))
        return index, index.queries(texts(problem.query, "TFIDF"))

    def score(
        self, problem: Problem, state: tuple[LexicalIndex, Any], rows: slice
    ) -> Float32[np.ndarray, "row query"]:
        """Cosines of these rows."""
        index, queries = state
        return index.similarities(queries, rows).astype(np.float32)


def comparable_labels(train: Examples, query: Examples) -> Labels:
    """Labels of both sides, classes as numbers of one list, targets as rows of floats.

    Raises:
        DataError: If a side has no labels, or one has texts and the other numbers.
    """
    own, asked = train.labels(), query.labels()
    if (own.dtype.kind in "biuf") != (asked.dtype.kind in "biuf"):
        raise DataError(
            f"labels of training examples ({train.source}) have type {own.dtype}, those of queries "
            f"({query.source}) {asked.dtype}.",
            fix="give both the same kind of labels.",
        )
    if own.dtype.kind == "f" and bool((own != np.round(own)).any()):
        rows = (values.reshape(len(values), -1).astype(np.float64) for values in (own, asked))
        return Labels(*rows, classes=False)
    if own.ndim != 1 or asked.ndim != 1:
        raise DataError(
            f"{train.source}: labels have shape {own.shape}, expected one class per example.",
            fix="give class numbers or names, not one-hot rows or sequences.",
        )
    if own.dtype.kind == "O":
        own, asked = own.astype(str), asked.astype(str)
    _, codes = np.unique(np.concatenate([own, asked]), return_inverse=True)
    return Labels(codes[: len(own)], codes[len(own) :], classes=True)


def unit_rows(vectors: Float[np.ndarray, "example feature"]) -> Float64[np.ndarray, "example feature"]:
    """Vectors at length one, in float64; those without length stay zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    # Scaled first: squares of very large or very small numbers leave the range of floats.
    largest = np.max(np.abs(vectors), axis=1, initial=0.0, keepdims=True)
    scaled = vectors / np.where(largest > 0, largest, 1.0)
    return scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1.0)


def texts(examples: Examples, method: str) -> Iterator[str]:
    """One text per example: its input columns one after another, messages by their contents.

    Raises:
        CapabilityError: If an input is no text.
    """
    for batch in examples.batches(4096):
        columns = [np.asarray(batch.column(name)[:]) for name in batch.inputs]
        for position in range(len(batch)):
            parts = [_text(column[position]) for column in columns]
            if any(part is None for part in parts):
                name = batch.inputs[parts.index(None)]
                raise CapabilityError(
                    f"{method} needs text, but column {name!r} of example {str(batch.ids[position])!r} "
                    f"({examples.source}) holds none.",
                    fix="use embedding_cosine, or name the text column.",
                )
            yield "\n".join(part for part in parts if part is not None)


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _text(value["content"] if "content" in value else value.get("text"))
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        parts = [_text(part) for part in value]
        return None if not parts or None in parts else "\n".join(part for part in parts if part is not None)
    return None


def _keys(ids: np.ndarray, stream: str) -> np.ndarray:
    person = hashlib.blake2b(stream.encode(), digest_size=16).digest()
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8, person=person).digest() for name in ids)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _mix(keys: np.ndarray) -> np.ndarray:
    # SplitMix64 (Steele, Lea & Flood 2014): every bit of the key changes about half of the bits of the result.
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
