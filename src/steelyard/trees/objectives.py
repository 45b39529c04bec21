"""What boosted trees minimise: loss, gradient and second derivatives by the raw scores, one value per example.

Weights are outside: an example of weight w counts w times. Losses are in the libraries' own scale (half squared error;
nats), so that ``gradient`` is the derivative of ``loss``. ``hessian`` is what the library's trees divide by, which is
not always the second derivative:

| objective | ``hessian`` |
|---|---|
| softmax, XGBoost | 2 p (1 - p) |
| softmax, LightGBM and scikit-learn's GradientBoosting | K / (K - 1) p (1 - p) |
| softmax, HistGradientBoosting | p (1 - p); CatBoost: the full matrix, see :meth:`Objective.jacobian` |
| Poisson, LightGBM and XGBoost | exp(raw + max_delta_step) |
| absolute, quantile, LightGBM's Huber | 1 |
| CatBoost's Huber (``flat_huber``) | 1 up to the threshold, 0 beyond |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logsumexp, softmax

Kind = Literal[
    "squared", "absolute", "huber", "flat_huber", "pseudo_huber", "quantile", "poisson", "gamma", "tweedie",
    "logistic", "softmax", "custom",
]  # fmt: skip
Function = Callable[[np.ndarray, np.ndarray], np.ndarray]

_SMALL = 1e-16
_STEP = 1e-4


@dataclass(frozen=True)
class Custom:
    """An objective given by functions of raw scores ``["row output"]`` and labels ``[" row"]``.

    Attributes:
        gradient: Derivative of the loss, ``["row output"]``.
        hessian: What trees divide by, ``["row output"]``.
        loss: ``[" row"]``; None where only the two above are known: such a loss cannot be measured.
    """

    gradient: Function
    hessian: Function
    loss: Function | None = None


@dataclass(frozen=True)
class Objective:
    """A loss of raw scores and labels, with the derivatives that boosting uses.

    Labels are numbers: targets; 0 and 1 (``logistic`` with one output); class codes 0 … K - 1 (``softmax``, and
    ``logistic`` with K outputs, which is one against the rest).

    Attributes:
        kind: Which loss.
        outputs: Number of raw scores per example.
        parameter: Huber's threshold, the quantile, Tweedie's power, the logistic slope; unused elsewhere.
        scale: Factor of ``hessian`` above the second derivative.
        functions: Those of a custom objective.
    """

    kind: Kind
    outputs: int = 1
    parameter: float = 1.0
    scale: float = 1.0
    functions: Custom | None = None

    @property
    def classes(self) -> int:
        """Number of classes; 0 for a regression."""
        if self.kind not in ("logistic", "softmax"):
            return 0
        return max(2, self.outputs)

    def loss(
        self, raw: Float[np.ndarray, "row output"], labels: Float[np.ndarray, " row"]
    ) -> Float[np.ndarray, " row"]:
        """Loss of every example, without regularisation, unweighted."""
        if self.kind == "softmax":
            return np.asarray(logsumexp(raw, axis=1)) - _own(raw, labels)
        if self.kind == "custom":
            if self.functions is None or self.functions.loss is None:
                return np.full(len(raw), np.nan)
            return np.asarray(self.functions.loss(raw, labels), dtype=np.float64)
        return _LOSSES[self.kind](raw, self._targets(labels), self.parameter).sum(axis=1)

    def gradient(
        self, raw: Float[np.ndarray, "row output"], labels: Float[np.ndarray, " row"]
    ) -> Float[np.ndarray, "row output"]:
        """Derivative of the loss by every raw score."""
        if self.kind == "softmax":
            return softmax(raw, axis=1) - self._targets(labels)
        if self.functions is not None:
            return _shaped(self.functions.gradient(raw, labels), raw)
        return _GRADIENTS[self.kind](raw, self._targets(labels), self.parameter)

    def hessian(
        self, raw: Float[np.ndarray, "row output"], labels: Float[np.ndarray, " row"]
    ) -> Float[np.ndarray, "row output"]:
        """What trees divide by: the second derivative by each raw score, times the library's factor."""
        if self.kind == "softmax":
            p = softmax(raw, axis=1)
            return np.maximum(self.scale * p * (1 - p), _SMALL)
        if self.functions is not None:
            return _shaped(self.functions.hessian(raw, labels), raw)
        return self.scale * _HESSIANS[self.kind](raw, self._targets(labels), self.parameter)

    def third(
        self, raw: Float[np.ndarray, "row output"], labels: Float[np.ndarray, " row"]
    ) -> Float[np.ndarray, "row output"]:
        """Derivative of ``hessian`` by its own raw score; central differences for a custom objective."""
        if self.kind == "softmax":
            p = softmax(raw, axis=1)
            return self.scale * p * (1 - p) * (1 - 2 * p)
        if self.functions is not None:
            step = _STEP * np.maximum(1.0, np.abs(raw))
            above, below = (self.hessian(raw + sign * step, labels) for sign in (1, -1))
            return (above - below) / (2 * step)
        return self.scale * _THIRDS[self.kind](raw, self._targets(labels), self.parameter)

    def jacobian(
        self, raw: Float[np.ndarray, "row output"], labels: Float[np.ndarray, " row"]
    ) -> Float[np.ndarray, "row output output"]:
        """Derivative of ``gradient`` by every raw score: the true second derivative, across outputs too.

        0 almost everywhere for the absolute and quantile losses. A custom objective's is its ``hessian``.
        """
        if self.kind == "softmax":
            p = softmax(raw, axis=1)
            return p[:, :, None] * (np.eye(self.outputs)[None] - p[:, None, :])
        if self.kind in ("absolute", "quantile"):
            own = np.zeros_like(raw)
        elif self.kind in ("huber", "flat_huber"):
            own = (np.abs(raw - labels[:, None]) <= self.parameter).astype(np.float64)
        elif self.functions is not None:
            own = self.hessian(raw, labels)
        else:
            own = self.hessian(raw, labels) / self.scale
        return own[:, :, None] * np.eye(self.outputs)[None]

    def prediction(self, raw: Float[np.ndarray, "row output"]) -> Float[np.ndarray, "row value"]:
        """Class probabilities, one column per class; else the predicted number, one column."""
        if self.kind == "softmax":
            return softmax(raw, axis=1)
        if self.kind == "logistic":
            p = expit(self.parameter * raw)
            return (
                np.concatenate([1 - p, p], axis=1) if self.outputs == 1 else p / p.sum(axis=1, keepdims=True)
            )
        return np.exp(raw) if self.kind in ("poisson", "gamma", "tweedie") else raw

    def _targets(self, labels: np.ndarray) -> np.ndarray:
        """``["row output"]`` One column per raw score; for several outputs 1 at the own class."""
        if self.outputs == 1:
            return labels[:, None]
        return (labels[:, None] == np.arange(self.outputs)[None, :]).astype(np.float64)


def _own(raw: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return raw[np.arange(len(raw)), labels.astype(np.int64)]


def _shaped(values: np.ndarray, raw: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64).reshape(raw.shape)


Formula = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
# All of raw, target and parameter, entry by entry.
_LOSSES: dict[str, Formula] = {
    "squared": lambda s, y, a: 0.5 * np.square(s - y),
    "absolute": lambda s, y, a: np.abs(s - y),
    "huber": lambda s, y, a: np.where(
        np.abs(s - y) <= a, 0.5 * np.square(s - y), a * (np.abs(s - y) - 0.5 * a)
    ),
    "pseudo_huber": lambda s, y, a: a * a * (np.sqrt(1 + np.square((s - y) / a)) - 1),
    "quantile": lambda s, y, a: np.where(s >= y, (1 - a) * (s - y), a * (y - s)),
    "poisson": lambda s, y, a: np.exp(s) - y * s,
    "gamma": lambda s, y, a: y * np.exp(-s) + s,
    "tweedie": lambda s, y, a: np.exp((2 - a) * s) / (2 - a) - y * np.exp((1 - a) * s) / (1 - a),
    "logistic": lambda s, y, a: np.logaddexp(0, a * s) - y * a * s,
}
_LOSSES["flat_huber"] = _LOSSES["huber"]
_GRADIENTS: dict[str, Formula] = {
    "squared": lambda s, y, a: s - y,
    "absolute": lambda s, y, a: np.sign(s - y),
    "huber": lambda s, y, a: np.clip(s - y, -a, a),
    "pseudo_huber": lambda s, y, a: (s - y) / np.sqrt(1 + np.square((s - y) / a)),
    "quantile": lambda s, y, a: np.where(s >= y, 1 - a, -a),
    "poisson": lambda s, y, a: np.exp(s) - y,
    "gamma": lambda s, y, a: 1 - y * np.exp(-s),
    "tweedie": lambda s, y, a: np.exp((2 - a) * s) - y * np.exp((1 - a) * s),
    "logistic": lambda s, y, a: a * (expit(a * s) - y),
}
_GRADIENTS["flat_huber"] = _GRADIENTS["huber"]
_HESSIANS: dict[str, Formula] = {
    "squared": lambda s, y, a: np.ones_like(s),
    "absolute": lambda s, y, a: np.ones_like(s),
    "huber": lambda s, y, a: np.ones_like(s),
    "flat_huber": lambda s, y, a: (np.abs(s - y) <= a).astype(np.float64),
    "pseudo_huber": lambda s, y, a: (1 + np.square((s - y) / a)) ** -1.5,
    "quantile": lambda s, y, a: np.ones_like(s),
    "poisson": lambda s, y, a: np.exp(s),
    "gamma": lambda s, y, a: y * np.exp(-s),
    "tweedie": lambda s, y, a: (2 - a) * np.exp((2 - a) * s) - (1 - a) * y * np.exp((1 - a) * s),
    "logistic": lambda s, y, a: np.maximum(a * a * expit(a * s) * expit(-a * s), _SMALL),
}
_THIRDS: dict[str, Formula] = {
    "squared": lambda s, y, a: np.zeros_like(s),
    "absolute": lambda s, y, a: np.zeros_like(s),
    "huber": lambda s, y, a: np.zeros_like(s),
    "pseudo_huber": lambda s, y, a: -3 * (s - y) / a**2 * (1 + np.square((s - y) / a)) ** -2.5,
    "quantile": lambda s, y, a: np.zeros_like(s),
    "poisson": lambda s, y, a: np.exp(s),
    "gamma": lambda s, y, a: -y * np.exp(-s),
    "tweedie": lambda s, y, a: (2 - a) ** 2 * np.exp((2 - a) * s) - (1 - a) ** 2 * y * np.exp((1 - a) * s),
    "logistic": lambda s, y, a: a**3 * expit(a * s) * expit(-a * s) * (expit(-a * s) - expit(a * s)),
}
_THIRDS["flat_huber"] = _THIRDS["huber"]
