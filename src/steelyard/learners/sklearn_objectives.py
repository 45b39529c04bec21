"""Training objectives of scikit-learn's linear models: their derivatives and exact Hessians, in float64.

One internal format: a linear model is a matrix W with one row per output and one column per feature, plus a
last column for the intercept, which reads a constant. Parameters are the rows of W one after another. With x
the example's features (and the constant) and s the derivative of its loss in the outputs W x, its gradient is
the outer product of s and x, so that dot products of gradients are ``(s_i . s_q) (x_i . x_q)`` and never need
full gradients.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy import sparse
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners.sklearn_measures import is_softmax, numbers, signs

Of = Literal["loss", "measurement"]
Inputs = np.ndarray | sparse.csr_array

_LARGEST = 20_000
LINEAR = (LinearRegression, Ridge, LogisticRegression, LinearSVC)
"""Exactly these classes can have gradients; subclasses (LogisticRegressionCV) minimise something else."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A fitted linear model, whatever its class.

    Its training objective, whose minimum the fit is: sum of weight times loss over the examples, plus half
    the sum of penalty times squared parameter.

    Attributes:
        kind: The loss: squared error, log loss of a sigmoid, log loss of a softmax, squared hinge.
        weights: W.
        penalty: Penalty of every parameter; 0 for an intercept that is not penalised.
        constant: What the intercept column reads; None without an intercept.
        classes: Label values in order; None for regression.
    """

    kind: Literal["squared", "logistic", "softmax", "squared_hinge"]
    weights: Float[np.ndarray, "output column"]
    penalty: Float[np.ndarray, "output column"]
    constant: float | None
    classes: np.ndarray | None

    def columns(self, inputs: Any) -> Inputs:
        """Features as the weights read them, the constant last; sparse features stay sparse."""
        if sparse.issparse(inputs):
            table = sparse.csr_array(inputs, dtype=np.float64)
            if self.constant is None:
                return table
            constant = sparse.csr_array(np.full((len(table.indptr) - 1, 1), self.constant))
            return sparse.csr_array(sparse.hstack([table, constant]))
        table = np.asarray(inputs, dtype=np.float64)
        if self.constant is None:
            return table
        return np.concatenate([table, np.full((len(table), 1), self.constant)], axis=1)

    def slopes(
        self, columns: Inputs, labels: np.ndarray, of: Of, measurement: str | None
    ) -> Float[np.ndarray, "n output"]:
        """Derivative of every example's loss or measurement in the outputs.

        Raises:
            DataError: If a label is none of the classes.
            SettingError: If the measurement has no derivative.
        """
        outputs = np.asarray(columns @ self.weights.T)
        if of == "loss" or measurement == "loss":
            return self._loss_slopes(outputs, labels)
        if measurement == "log_probability":
            return -self._loss_slopes(outputs, labels)
        if measurement == "margin":
            return self._margin_slopes(outputs, labels)
        raise SettingError(
            f"measurement {measurement or 'of your own'!r} has no derivative here.",
            fix="use measurement='loss', 'margin' or 'log_probability', or leave_one_out, which needs no "
            "gradient.",
        )

    def bends(self, columns: Inputs, labels: np.ndarray) -> Float[np.ndarray, "n output output"]:
        """Second derivative of every example's loss in the outputs."""
        outputs = np.asarray(columns @ self.weights.T)
        width = outputs.shape[1]
        if self.kind == "squared":
            return np.broadcast_to(2.0 * np.eye(width), (len(outputs), width, width))
        if self.kind == "logistic":
            p = expit(outputs)
            return (p * (1.0 - p))[:, :, None]
        if self.kind == "softmax":
            p = softmax(outputs, axis=1)
            return p[:, :, None] * np.eye(width) - p[:, :, None] * p[:, None, :]
        active = 2.0 * (self._signs(labels) * outputs < 1.0)
        return active[:, :, None] * np.eye(width)

    def _loss_slopes(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.kind == "squared":
            return 2.0 * (outputs - numbers(labels))
        if self.kind == "logistic":
            return expit(outputs) - (self._signs(labels) > 0)
        if self.kind == "softmax":
            return softmax(outputs, axis=1) - self._one_hot(labels)
        signed = self._signs(labels)
        return -2.0 * signed * np.maximum(0.0, 1.0 - signed * outputs)

    def _margin_slopes(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if self.kind == "squared":
            raise SettingError("a margin needs classes.", fix="use measurement='loss' for regressors.")
        if outputs.shape[1] == 1:
            return self._signs(labels)
        own = self._one_hot(labels)
        others = np.where(own > 0, -np.inf, outputs)
        if self.kind == "softmax":
            return own - np.exp(log_softmax(others, axis=1))
        return own - (np.arange(outputs.shape[1]) == others.argmax(axis=1)[:, None])

    def _signs(self, labels: np.ndarray) -> np.ndarray:
        return signs(labels, self._known(labels))

    def _one_hot(self, labels: np.ndarray) -> np.ndarray:
        return (labels[:, None] == self._known(labels)[None, :]).astype(np.float64)

    def _known(self, labels: np.ndarray) -> np.ndarray:
        classes = self.classes if self.classes is not None else np.zeros(0)
        unknown = ~np.isin(labels, classes)
        if unknown.any():
            raise DataError(
                f"label {labels[unknown][0]!r} is none of the classes that the model was fitted on "
                f"({classes}).",
                fix="leave out examples of classes that the training examples do not have.",
            )
        return classes


def refusal(estimator: Any) -> str | None:
    """Why a fitted estimator has no gradients here, or None where it has."""
    if type(estimator) not in LINEAR:
        return "which only LinearRegression, Ridge, LogisticRegression and LinearSVC offer"
    params = estimator.get_params(deep=False)
    if params.get("class_weight") is not None:
        return "which are of unweighted losses: leave class_weight out and give weights per example"
    if params.get("positive"):
        return "and a minimum under positive=True has no Hessian"
    if isinstance(estimator, LogisticRegression):
        # Up to scikit-learn 1.7 the penalty is named; since 1.8 l1_ratio alone decides.
        penalty, ratio = params.get("penalty", "deprecated"), params["l1_ratio"] or 0.0
        if penalty == "l1" or (penalty in ("elasticnet", "deprecated") and ratio > 0.0):
            return "and an l1 penalty has no Hessian"
        return None if is_softmax(estimator) else "which a one-versus-rest scheme does not define"
    if isinstance(estimator, LinearSVC):
        smooth = (
            params["loss"] == "squared_hinge" and params["penalty"] == "l2" and params["multi_class"] == "ovr"
        )
        return (
            None
            if smooth
            else "which LinearSVC has for loss='squared_hinge', penalty='l2', multi_class='ovr' only"
        )
    return None


def as_linear(estimator: Any) -> Linear:
    """The fitted estimator as one matrix with its penalty.

    Raises:
        CapabilityError: If its training objective has no exact Hessian here; the message says why.
    """
    why = refusal(estimator)
    if why is not None:
        raise CapabilityError(
            f"{type(estimator).__name__}: this method needs per-example gradients, {why}.",
            fix="use leave_one_out or knn_shapley, which need none.",
        )
    if isinstance(estimator, LogisticRegression):
        return _logistic(estimator)
    if isinstance(estimator, LinearSVC):
        return _support_vectors(estimator)
    return _leastsquared_lengths(estimator)


def _logistic(model: LogisticRegression) -> Linear:
    params = model.get_params(deep=False)
    strength = 0.0 if params.get("penalty") is None else 1.0 / params["C"]
    liblinear = params["solver"] == "liblinear"
    scaling = float(params["intercept_scaling"]) if liblinear else 1.0
    weights, constant = _with_intercept(model, scaling if params["fit_intercept"] else None)
    penalty = _penalties(weights, strength, free_intercept=constant is not None and not liblinear)
    kind = "logistic" if len(model.classes_) == 2 else "softmax"
    return Linear(kind, weights, penalty, constant, np.asarray(model.classes_))


def _support_vectors(model: LinearSVC) -> Linear:
    params = model.get_params(deep=False)
    scaling = float(params["intercept_scaling"]) if params["fit_intercept"] else None
    weights, constant = _with_intercept(model, scaling)
    penalty = _penalties(weights, 1.0 / params["C"], free_intercept=False)
    return Linear("squared_hinge", weights, penalty, constant, np.asarray(model.classes_))


def _leastsquared_lengths(model: LinearRegression | Ridge) -> Linear:
    params = model.get_params(deep=False)
    weights, constant = _with_intercept(model, 1.0 if params["fit_intercept"] else None)
    alpha = np.broadcast_to(np.asarray(params.get("alpha", 0.0), dtype=np.float64), (len(weights),))
    # The objective is scikit-learn's own, |y - Xw|² + alpha |w|²: half of twice alpha.
    penalty = 2.0 * alpha[:, None] * _penalties(weights, 1.0, free_intercept=constant is not None)
    return Linear("squared", weights, penalty, constant, None)


def _with_intercept(model: Any, constant: float | None) -> tuple[np.ndarray, float | None]:
    weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    if constant is None:
        return weights, None
    intercept = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), (len(weights),))
    return np.concatenate([weights, intercept[:, None] / constant], axis=1), constant


def _penalties(weights: np.ndarray, strength: float, *, free_intercept: bool) -> np.ndarray:
    penalty = np.full(weights.shape, strength)
    if free_intercept:
        penalty[:, -1] = 0.0
    return penalty


def hessian(
    model: Linear,
    inputs: Any,
    labels: Shaped[np.ndarray, "example *target"],
    weights: Float[np.ndarray, " example"] | None = None,
) -> Float[np.ndarray, "param param"]:
    """Exact Hessian of the summed, weighted training objective with its penalty.

    A softmax does not change when the same number is added to all its logits, so without a penalty the objective
    is flat there. Each such direction gets the mean curvature of its column in place of 0: no gradient has a
    part along it, so products with the inverse are those of the pseudo-inverse, and the matrix can be inverted.
    The squared hinge is piecewise quadratic: only examples inside the margin count.

    Cost: outputs² / 2 matrix products of columns x examples x columns; memory parameters² · 8 bytes.

    Args:
        model: The fitted model.
        inputs: Features, as its pipeline's transformers give them.
        labels: Labels or targets.
        weights: Weight of every example's loss; 1 if None.

    Raises:
        CapabilityError: If the model has more than 20,000 parameters.
    """
    if model.weights.size > _LARGEST:
        raise CapabilityError(
            f"the Hessian of {model.weights.size:,} parameters takes "
            f"{model.weights.size**2 * 8 / 2**30:,.0f} GiB.",
            fix="use fewer features (for instance TruncatedSVD), or a method without a Hessian such as "
            "grad_dot.",
        )
    columns = model.columns(inputs)
    bends = model.bends(columns, labels)
    if weights is not None:
        bends = bends * np.asarray(weights, dtype=np.float64)[:, None, None]
    outputs, width = model.weights.shape
    total = np.zeros((outputs, width, outputs, width))
    for a in range(outputs):
        for b in range(a + 1):
            if not bends[:, a, b].any():
                continue
            block = columns.T @ _scaled(columns, bends[:, a, b])
            block = block.toarray() if sparse.issparse(block) else block
            total[a, :, b], total[b, :, a] = block, block
    if model.kind == "softmax":
        for column in np.flatnonzero((model.penalty == 0.0).all(axis=0)):
            total[:, column, :, column] += np.trace(total[:, column, :, column]) / outputs**2
    total = total.reshape(outputs * width, outputs * width)
    total[np.diag_indices_from(total)] += model.penalty.ravel()
    return total


def stationarity(
    model: Linear,
    inputs: Any,
    labels: Shaped[np.ndarray, "example *target"],
    weights: Float[np.ndarray, " example"] | None = None,
) -> float:
    """How far from the minimum: length of the objective's gradient over the sum of its terms' lengths."""
    columns = model.columns(inputs)
    slopes = model.slopes(columns, labels, "loss", "loss")
    if weights is not None:
        slopes = slopes * weights[:, None]
    pull = model.penalty * model.weights
    terms = float(np.sqrt(squared_lengths(slopes) * squared_lengths(columns)).sum() + np.linalg.norm(pull))
    return float(np.linalg.norm((columns.T @ slopes).T + pull)) / terms if terms > 0 else 0.0


def squared_lengths(columns: Any) -> Float[np.ndarray, " row"]:
    """Squared Euclidean length of every row, sparse or not."""
    if sparse.issparse(columns):
        return np.asarray(columns.multiply(columns).sum(axis=1)).ravel()
    return np.einsum("nf,nf->n", columns, columns)


def _scaled(columns: Inputs, factors: np.ndarray) -> Any:
    return sparse.diags_array(factors) @ columns if sparse.issparse(columns) else columns * factors[:, None]
