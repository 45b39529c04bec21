"""Problem: a learner, its training examples and the queries; and what a learner may be able to do.

A learner trains and answers for one kind of model. Everything beyond training and measuring is a capability: a
method asks for it by :func:`require`, and the error names what to use instead.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from steelyard.data import read
from steelyard.errors import CapabilityError, DataError
from steelyard.records import Examples, Measurement


@runtime_checkable
class Fitted(Protocol):
    """A trained model, as its own learner knows it. Other code only passes it back to that learner."""

    @property
    def seed(self) -> int:
        """The seed that it was trained under."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Trains a model and measures queries with it."""

    @property
    def measurement(self) -> Measurement:
        """What :meth:`measure` returns: name, unit, direction."""
        ...

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        """Look for whatever would make results wrong, before any work; notes about handled cases come back."""
        ...

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Any:
        """Train from the start. An example of weight 0 is absent: it changes nothing, not even the batch order."""
        ...

    def explained(self, examples: Examples, seed: int = 0) -> Any:
        """The model whose behaviour is asked about: the user's own if it came trained, else ``fit(examples)``."""
        ...

    def measure(self, fitted: Any, queries: Examples) -> np.ndarray:
        """``float64[" query"]`` The measurement of every query."""
        ...

    def loss(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``float64[" example"]`` Training loss of every example, without regularisation, unweighted."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Settings as plain values, for provenance."""
        ...

    def fingerprint(self) -> str:
        """Checksum of architecture, parameters as given, loss, measurement and recipe."""
        ...


@runtime_checkable
class HasPredictions(Protocol):
    """Offers class probabilities."""

    def probabilities(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``float64["example class"]``, one column per label value, in order."""
        ...


@runtime_checkable
class HasEmbeddings(Protocol):
    """Offers one vector per example."""

    def embed(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``float32["example feature"]`` What the last layer reads; the input itself for a linear model."""
        ...


@runtime_checkable
class HasLastLayer(Protocol):
    """Predicts by a linear layer on features."""

    def last_layer(self, fitted: Any) -> Any:
        """That layer at this model: a ``learners.last_layer.LastLayer``; CapabilityError where there is none."""
        ...


@runtime_checkable
class HasFactors(Protocol):
    """Predicts ratings from factors of users and items."""

    def predict(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``float64[" example"]`` Ratings; the fitted model is a ``learners.factorisation.FactorisationFitted``."""
        ...


@runtime_checkable
class HasCheckpoints(Protocol):
    """Keeps states from along the training."""

    def checkpoints(self, fitted: Any) -> Iterator[tuple[Any, float]]:
        """Fitted models along the training, each with the sum of learning rates since the one before."""
        ...


@runtime_checkable
class HasEpochs(Protocol):
    """Can be looked at after every epoch of its training."""

    def follow(
        self,
        examples: Examples,
        watch: Callable[[int, Any], None],
        weights: np.ndarray | None = None,
        seed: int = 0,
    ) -> Any:
        """Train as ``fit`` does, and call ``watch(epoch, fitted)`` after every epoch, counted from 1.

        What ``watch`` is given may be used during the call only. Epochs start at 1 again if a training does.
        CapabilityError where the training has no epochs that can be seen.
        """
        ...


@runtime_checkable
class HasShorterTraining(Protocol):
    """Can be trained for fewer epochs."""

    def shortened(self, share: float) -> Learner:
        """The same learner trained for that share of its epochs, at least one; CapabilityError if it has none."""
        ...


@runtime_checkable
class HasReweighing(Protocol):
    """Can ask for weights in every step of its training."""

    def reweighing(self, reweigh: Any) -> Learner:
        """The same learner with that hook: a ``learners.torch_course.Reweigh``; CapabilityError without a recipe."""
        ...


@runtime_checkable
class HasExtraClass(Protocol):
    """Can be given one class more than the labels have."""

    def with_extra_class(self, examples: Examples) -> tuple[Any, Any]:
        """A learner like this one with one more class, and the label that stands for it."""
        ...


@runtime_checkable
class HasMoments(Protocol):
    """Keeps what Adam learned about the gradients."""

    def moments(self, fitted: Any) -> Any:
        """The running means of gradients and of their squares: ``learners.torch_steps.Moments``.

        CapabilityError where the training was not by Adam or AdamW.
        """
        ...


@runtime_checkable
class HasLengths(Protocol):
    """Its examples are sequences of different lengths, so batches are bounded by tokens."""

    def lengths(self, examples: Examples) -> np.ndarray:
        """``int64[" example"]`` Tokens of every example, as the model reads it."""
        ...


@runtime_checkable
class HasTokens(Protocol):
    """Knows which characters each token of an example stands for."""

    def texts(self, examples: Examples) -> list[str]:
        """What the tokens of every example are made of."""
        ...

    def token_spans(self, examples: Examples) -> list[list[tuple[int, int]]]:
        """First character of every token and the one after its last, in :meth:`texts`."""
        ...


@runtime_checkable
class HasSpans(Protocol):
    """Knows the course of a training: which steps led from one kept state to the next, on which examples."""

    def spans(self, fitted: Any, examples: Examples) -> Any:
        """The training in order: a sequence of ``learners.torch_spans.Span``."""
        ...


@runtime_checkable
class HasReplay(Protocol):
    """Can go through a training again, step by step and back."""

    def replay(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Any:
        """The training that ``fit`` does with the same arguments: a ``gradients.replay.Training``."""
        ...


@runtime_checkable
class HasState(Protocol):
    """Can write a fitted model as arrays, so that a run folder can keep it."""

    def dump(self, fitted: Any) -> Mapping[str, np.ndarray]:
        """The fitted model as arrays."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """The inverse of :meth:`dump`."""
        ...


@runtime_checkable
class HasGradients(Protocol):
    """Offers per-example gradients, factored or not; see ``collect/gradients.py`` for what can be asked of them."""

    def gradients(self, fitted: Any) -> Any:
        """The gradient engine at this model: a ``collect.gradients.Gradients``."""
        ...


@runtime_checkable
class HasFitsTogether(Protocol):
    """Can make many fits at once, faster than one by one, equal to :meth:`Learner.fit` up to rounding."""

    def together(self, examples: Examples) -> int:
        """How many fits on subsets of these examples are best made at once; 1 where there is no such way."""
        ...

    def together_note(self, examples: Examples) -> str:
        """How fits are made and why so, for the record; empty if there is nothing to say."""
        ...

    def measure_together(
        self, examples: Examples, weightings: np.ndarray, seeds: Sequence[int], queries: Examples
    ) -> np.ndarray:
        """``float64["fit query"]`` The measurement of every query after each fit; a row of NaN if a fit failed.

        The numbers of a fit do not depend on which others are made with it.

        Args:
            examples: Training examples.
            weightings: ``float64["fit example"]`` As :meth:`Learner.fit` takes them.
            seeds: Seed of every fit.
            queries: What is measured.
        """
        ...


@runtime_checkable
class HasCurvature(Protocol):
    """Offers the exact curvature of the training objective, for models small enough to hold it."""

    def hessian(self, fitted: Any, examples: Examples, weights: np.ndarray | None = None) -> np.ndarray:
        """``float64["param param"]`` Of the *summed* weighted training loss plus its regularisation.

        The Gauss-Newton matrix for networks (positive semi-definite), the exact Hessian for linear models.
        """
        ...


@runtime_checkable
class HasLeaves(Protocol):
    """Its model is a sum of trees, whose leaves can be told; see ``collect/leaves.py`` for what is made of them."""

    def forest(self, fitted: Any) -> Any:
        """The trees as arrays: a ``trees.forest.Forest``.

        ModelError if the library's own predictions cannot be had from them.
        """
        ...

    def leaves(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``int32["example tree"]`` Leaf of every example in every tree, numbered within the tree."""
        ...

    def targets(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``float64[" example"]`` Labels as the objective reads them: numbers, or codes of classes."""
        ...

    def leaf_weights(self, fitted: Any, examples: Examples) -> np.ndarray:
        """``float64[" example"]`` Weight of every example's loss in the training, class weights included."""
        ...

    def sensitivity(self, fitted: Any, queries: Examples, raw: np.ndarray) -> np.ndarray:
        """``float64["query output"]`` Derivative of every query's measurement by its raw scores, at these."""
        ...

    def answers(self, fitted: Any, queries: Examples, raw: np.ndarray) -> np.ndarray:
        """``float64[" query"]`` What :meth:`Learner.measure` would say if the queries had these raw scores."""
        ...

    def leaf_notes(self, fitted: Any) -> Sequence[str]:
        """What is worth knowing about this model's leaves: rows drawn at random, for instance."""
        ...


@runtime_checkable
class HasVariants(Protocol):
    """Can ask another question about its models, and ask about another model."""

    def measuring(self, measurement: str) -> Learner:
        """The same learner with another measurement, such as ``"lead"``; SettingError if it has no meaning here."""
        ...

    def explaining(self, fitted: Any) -> Learner:
        """The same learner, whose explained model is this one."""
        ...


@runtime_checkable
class HasContinuation(Protocol):
    """Can train on from a model."""

    def continuing(self, fitted: Any) -> Learner:
        """The same learner, whose trainings begin at this model."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """A learner, the examples it learned from, and the queries asked about.

    Args:
        learner: Trains and measures; see ``sy.learners``.
        train: Training examples: ``Examples``, or anything that ``sy.data.read`` takes.
        query: Queries, likewise.
        seed: Seed of the model that is explained, where it is trained here.
        utility: Measure the queries by this instead of the learner's own measurement, such as ``"accuracy"``.

    Raises:
        DataError: If there are no training examples or no queries, or they have different columns.
        CapabilityError: If ``utility`` is given and the learner has one measurement only.

    Example:
        >>> import numpy as np, steelyard as sy
        >>> from sklearn.linear_model import Ridge
        >>> x, y = np.eye(3), np.array([1.0, 2.0, 3.0])
        >>> sy.Problem(sy.learners.Sklearn(Ridge()), train=(x, y), query=(x[:1], y[:1])).train
        Examples(3 from arrays, inputs=['input'], label='label', columns=['input', 'label'], checksum=...)
    """

    learner: Learner
    train: Examples
    query: Examples
    seed: int = 0

    def __init__(
        self, learner: Learner, train: Any, query: Any, *, seed: int = 0, utility: str | None = None
    ) -> None:
        """Read the data if it is not ``Examples`` yet, and check that both sides fit together."""
        if utility is not None:
            other = "the learner's own measurement"
            learner = require(learner, HasVariants, method=f"utility={utility!r}", instead=other).measuring(
                utility
            )
        object.__setattr__(self, "learner", learner)
        missing = isinstance(learner, HasLeaves)  # trees send missing values their own way
        object.__setattr__(self, "train", read(train, missing=missing))
        object.__setattr__(self, "query", read(query, missing=missing))
        object.__setattr__(self, "seed", seed)
        for role, examples in (("training", self.train), ("query", self.query)):
            if len(examples) == 0:
                raise DataError(f"{examples.source}: there are no {role} examples.", fix="give at least one.")
        if self.train.inputs != self.query.inputs:
            raise DataError(
                f"training examples ({self.train.source}) have inputs {list(self.train.inputs)}, queries "
                f"({self.query.source}) have {list(self.query.inputs)}.",
                fix="name the same columns for both.",
            )

    def checksums(self) -> dict[str, str]:
        """Checksums of training examples, queries and learner."""
        return {
            "train": self.train.checksum,
            "query": self.query.checksum,
            "learner": self.learner.fingerprint(),
        }

    def mark(self) -> str:
        """Names whatever the explained model depends on: training examples, learner, seed.

        Part of the key of everything that is kept about that model, so that a run folder can hold several.

        Cost: the learner's fingerprint.
        """
        facts = f"{self.train.checksum}|{self.learner.fingerprint()}|{self.seed}"
        return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()


_Capability = TypeVar("_Capability")

_PHRASES = {
    "HasPredictions": "class probabilities",
    "HasEmbeddings": "embeddings",
    "HasLastLayer": "a last linear layer",
    "HasCheckpoints": "training checkpoints",
    "HasEpochs": "a training that can be followed epoch by epoch",
    "HasShorterTraining": "a training that can be cut short",
    "HasReweighing": "a hook into the steps of its training",
    "HasExtraClass": "a class more than the labels have",
    "HasContinuation": "a training that goes on from a model",
    "HasMoments": "Adam's moments of gradients",
    "HasLengths": "lengths in tokens",
    "HasTokens": "the characters of every token",
    "HasSpans": "the course of a training",
    "HasReplay": "a training that can be replayed",
    "HasState": "a state that can be saved",
    "HasGradients": "per-example gradients",
    "HasCurvature": "exact curvature",
    "HasLeaves": "trees whose leaves can be told",
    "HasVariants": "other measurements and models to explain",
    "HasFitsTogether": "fits made together",
}


def require(learner: Learner, capability: type[_Capability], *, method: str, instead: str) -> _Capability:
    """The learner, known to offer the capability.

    Args:
        learner: The learner to ask.
        capability: One of the ``Has…`` protocols of this module.
        method: Who asks, for the error.
        instead: Methods that work without it, for the error.

    Raises:
        CapabilityError: If the learner does not offer it.
    """
    if isinstance(learner, capability):
        return learner
    raise CapabilityError(
        f"{method} needs {_PHRASES[capability.__name__]}, which {type(learner).__name__} does not offer.",
        fix=f"use {instead}.",
    )
