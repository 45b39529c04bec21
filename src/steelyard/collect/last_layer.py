"""The last layer of the explained model, fitted to the minimum of a penalised objective by itself."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit, softmax

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, DataError
from steelyard.learners.last_layer import LastLayer
from steelyard.learners.sklearn_measures import numbers
from steelyard.learners.sklearn_objectives import Inputs, Linear
from steelyard.problem import HasLastLayer, Problem, require
from steelyard.records import Examples, Measurement
from steelyard.run import Run

Asked = Literal["label", "predicted"]
Targets = Literal["auto", "labels", "model"]
PRE_ACTIVATION = Measurement("pre-activation", "logits", lower_is_better=False)
PREDICTION = Measurement("prediction", "target units", lower_is_better=False)


@dataclass(frozen=True, eq=False)
class Read:
    """The explained model's last layer and what it reads from both sides.

    Attributes:
        layer: The layer.
        train: ``float["train column"]`` What it reads from the training examples.
        query: ``float["query column"]`` From the queries.
        asked: ``float["query output"]`` How the outputs make up the number that is explained: the own class's
            pre-activation; for one output the log-odds of the own class, or the prediction itself.
    """

    layer: LastLayer
    train: Inputs
    query: Inputs
    asked: Float[np.ndarray, "query output"]

    @property
    def measurement(self) -> Measurement:
        """What is explained."""
        return PREDICTION if self.layer.model.kind == "squared" else PRE_ACTIVATION


def read_last_layer(problem: Problem, run: Run, *, method: str, asked: Asked) -> Read:
    """The last layer of the explained model, and both sides as it reads them.

    Cost: a forward pass per example and query.

    Args:
        problem: Learner, training examples, queries.
        run: Where the explained model is kept.
        method: Who asks, for errors.
        asked: Whose pre-activation: that of each query's label, or of the class that the model predicts.

    Raises:
        CapabilityError: If the model has no last linear layer, or several numeric outputs.
    """
    learner = require(problem.learner, HasLastLayer, method=method, instead="ekfac, knn_shapley or boostin")
    layer: LastLayer = learner.last_layer(explained(problem, run))
    model = layer.model
    if model.kind == "squared" and len(model.weights) > 1:
        raise CapabilityError(
            f"{method} explains one number per query, but this model predicts {len(model.weights)}.",
            fix="fit one model per target.",
        )
    train, query = layer.features(problem.train), layer.features(problem.query)
    run.spend(gradients=(len(problem.train) + len(problem.query)) / 3)
    return Read(layer, train, query, _asked(model, query, problem.query, asked))


def _asked(model: Linear, columns: Inputs, queries: Examples, asked: Asked) -> np.ndarray:
    outputs = np.asarray(columns @ model.weights.T)
    if model.kind == "squared":
        return np.ones_like(outputs)
    if asked == "predicted":
        if outputs.shape[1] == 1:
            return np.where(outputs >= 0, 1.0, -1.0)
        return np.eye(outputs.shape[1])[outputs.argmax(axis=1)]
    labels = queries.labels()
    classes = np.asarray(model.classes)
    unknown = ~np.isin(labels, classes)
    if unknown.any():
        first = int(np.flatnonzero(unknown)[0])
        raise DataError(
            f"{queries.source}: query {str(queries.ids[first])!r} has label {labels[first]!r}, which is none of the "
            "model's classes.",
            fix="leave it out, or explain what is predicted: asked='predicted'.",
        )
    own = (labels[:, None] == classes[None, :]).astype(np.float64)
    return own[:, 1:] - own[:, :1] if outputs.shape[1] == 1 else own


@dataclass(frozen=True, eq=False)
class Optimum:
    """A last layer at the minimum of its penalised objective.

    Attributes:
        model: Weights at the minimum, and the penalties on the summed objective.
        slopes: Weight times derivative of every training example's loss in the outputs, there.
        l1: Penalties on the sizes of the weights, on the summed objective.
    """

    model: Linear
    slopes: Float[np.ndarray, "train output"]
    l1: Float[np.ndarray, "output column"]


def fit_last_layer(read: Read, train: Examples, *, targets: Targets, penalty: float) -> Optimum:
    """Fit the layer, from its own weights, to the minimum of weighted losses plus penalty.

    The objective is ``sum_i w_i loss_i + 1/2 sum penalty * weights^2 + sum l1 * |weights|``. With an l1 penalty
    the weights that are 0 stay so, and the others keep their signs: the given ones are near the minimum. Where the
    layer has a penalty of its own (scikit-learn's models) that one stays and ``penalty`` is not used.

    Args:
        read: The layer and the training side.
        train: Training examples: labels and weights.
        targets: What it is fitted to: ``"labels"``, or ``"model"``: what the given layer says itself. ``"auto"``:
            labels where the layer is all there is to train.
        penalty: On the squared weights, in the mean loss.

    Raises:
        CapabilityError: If nothing is penalised: a model without a penalty has no representers.
    """
    model, weights = read.layer.model, train.weights()
    l1 = np.zeros_like(model.penalty) if read.layer.l1 is None else read.layer.l1
    if read.layer.averaged:
        l1, model = l1 * weights.sum(), replace(model, penalty=model.penalty * weights.sum())
    if not read.layer.whole:
        model = replace(model, penalty=np.full_like(model.penalty, 2.0 * penalty * weights.sum()))
    if not ((model.penalty > 0) | (l1 > 0)).any():
        raise CapabilityError(
            "representers need a penalty on the weights, and this model has none.",
            fix="use Ridge instead of LinearRegression, or gauss_newton.",
        )
    soft = targets == "model" or (targets == "auto" and not read.layer.whole)
    wanted = _wanted(model, read.train, train.labels(), soft=soft)
    free = (l1 == 0) | (model.weights != 0)
    objective = _Objective(model, read.train, weights, wanted, l1 * np.sign(model.weights), free)
    found = minimize(
        objective.value_and_gradient,
        model.weights.ravel(),
        jac=True,
        hessp=objective.product,
        method="trust-ncg",
        options={"gtol": 1e-11 * max(1.0, float(weights.sum())), "maxiter": 500},
    )
    best = replace(model, weights=found.x.reshape(model.weights.shape))
    return Optimum(best, objective.slopes(best.weights), l1)


def _wanted(model: Linear, columns: Inputs, labels: np.ndarray, *, soft: bool) -> np.ndarray:
    outputs = np.asarray(columns @ model.weights.T)
    if model.kind == "squared_hinge":
        if soft:
            raise CapabilityError("a hinge has no soft targets.", fix="use targets='labels'.")
        return 2.0 * (labels[:, None] == np.asarray(model.classes)[None, :])[:, -outputs.shape[1] :] - 1.0
    if soft:
        return _means(model, outputs)
    if model.kind == "squared":
        return numbers(labels)
    own = (labels[:, None] == np.asarray(model.classes)[None, :]).astype(np.float64)
    return own[:, -outputs.shape[1] :]


def _means(model: Linear, outputs: np.ndarray) -> np.ndarray:
    if model.kind == "softmax":
        return softmax(outputs, axis=1)
    return expit(outputs) if model.kind == "logistic" else outputs


@dataclass(frozen=True, eq=False)
class _Objective:
    """The penalised objective as a function of flat weights."""

    model: Linear
    columns: Inputs
    weights: Float[np.ndarray, " train"]
    wanted: Float[np.ndarray, "train output"]
    tilt: Float[np.ndarray, "output column"]
    free: Bool[np.ndarray, "output column"]

    def slopes(self, parameters: np.ndarray) -> np.ndarray:
        """Weighted derivatives of the losses in the outputs."""
        outputs = self._outputs(parameters)
        if self.model.kind == "squared_hinge":
            found = -2.0 * self.wanted * np.maximum(0.0, 1.0 - self.wanted * outputs)
        else:
            factor = 2.0 if self.model.kind == "squared" else 1.0
            found = factor * (_means(self.model, outputs) - self.wanted)
        return found * self.weights[:, None]

    def value_and_gradient(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """Of the objective."""
        parameters = flat.reshape(self.model.weights.shape)
        outputs = self._outputs(parameters)
        pull = self.model.penalty * parameters
        gradient = np.asarray(self.columns.T @ self.slopes(parameters)).T + pull + self.tilt
        penalties = float(((0.5 * pull + self.tilt) * parameters).sum())
        return float(self.weights @ self._losses(outputs)) + penalties, (gradient * self.free).ravel()

    def product(self, flat: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Of the Hessian with a direction."""
        shape = self.model.weights.shape
        outputs = self._outputs(flat.reshape(shape))
        moved = np.asarray(self.columns @ direction.reshape(shape).T)
        if self.model.kind == "softmax":
            p = softmax(outputs, axis=1)
            bent = p * (moved - (p * moved).sum(axis=1, keepdims=True))
        elif self.model.kind == "logistic":
            bent = moved * expit(outputs) * expit(-outputs)
        elif self.model.kind == "squared":
            bent = 2.0 * moved
        else:
            bent = 2.0 * moved * (self.wanted * outputs < 1.0)
        total = np.asarray(self.columns.T @ (bent * self.weights[:, None])).T
        return ((total + self.model.penalty * direction.reshape(shape)) * self.free).ravel()

    def _outputs(self, parameters: np.ndarray) -> np.ndarray:
        return np.asarray(self.columns @ parameters.T)

    def _losses(self, outputs: np.ndarray) -> np.ndarray:
        if self.model.kind == "softmax":
            top = outputs.max(axis=1)
            total = top + np.log(np.exp(outputs - top[:, None]).sum(axis=1))
            return total - (self.wanted * outputs).sum(axis=1)
        if self.model.kind == "logistic":
            return (np.logaddexp(0.0, outputs) - self.wanted * outputs).sum(axis=1)
        if self.model.kind == "squared":
            return np.square(outputs - self.wanted).sum(axis=1)
        return np.square(np.maximum(0.0, 1.0 - self.wanted * outputs)).sum(axis=1)


def products(left: Inputs, right: Any) -> Float[np.ndarray, "left right"]:
    """``left @ right.T`` as an array, sparse or not."""
    return dense(left @ right.T)


def dense(columns: Any) -> np.ndarray:
    """Columns written out, sparse or not."""
    return columns.toarray() if sparse.issparse(columns) else np.asarray(columns)
