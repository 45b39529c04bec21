"""Losses and query measurements of boosted trees as functions of raw scores, with their derivatives."""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.records import Measurement
from steelyard.trees.objectives import Objective

Named = Literal["loss", "margin", "lead", "log_probability", "accuracy"]
Asked = Named | tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], Measurement]

_UNITS = {"margin": "logits", "lead": "nats", "log_probability": "nats", "accuracy": "accuracy"}
_STEP = 1e-5


def resolve(asked: Asked, *, classes: bool, custom: bool) -> Measurement:
    """Name, unit and direction of the measurement.

    Raises:
        SettingError: If there is none of that name, or it has no meaning for the model.
    """
    if isinstance(asked, tuple):
        return asked[1]
    if asked == "loss":
        unit = "custom loss" if custom else "nats" if classes else "training loss"
        return Measurement("loss", unit, lower_is_better=True)
    if asked not in _UNITS:
        raise SettingError(
            f"measurement={asked!r} is not known.",
            fix=f"use 'loss', {', '.join(map(repr, _UNITS))}, or a pair (function, Measurement).",
        )
    if not classes:
        raise SettingError(
            f"measurement={asked!r} needs classes, which this model does not predict.",
            fix="use measurement='loss' for regressions.",
        )
    return Measurement(asked, _UNITS[asked], lower_is_better=False)


def measured(
    objective: Objective,
    raw: Float[np.ndarray, "query output"],
    labels: Float[np.ndarray, " query"],
    asked: Asked,
) -> Float[np.ndarray, " query"]:
    """The measurement of every query.

    ``"margin"``: log-odds of the correct class. ``"lead"``: its log-probability minus that of the best other class.

    Raises:
        DataError: If the user's own function returns another number of values.
        CapabilityError: If a custom objective came without its loss.
    """
    if isinstance(asked, tuple):
        values = np.asarray(asked[0](raw, labels), dtype=np.float64)
        if values.shape != labels.shape:
            raise DataError(
                f"measurement {asked[1].name!r} returned shape {values.shape} for {len(labels)} queries.",
                fix="return one number per query.",
            )
        return values
    if asked == "loss":
        values = objective.loss(raw, labels)
        if objective.functions is not None and objective.functions.loss is None:
            raise CapabilityError(
                "the custom objective was given without its loss, which is to be measured.",
                fix="give it: Custom(gradient, hessian, loss), or a measurement of your own.",
            )
        return values
    logs = _log_probabilities(objective, raw)
    own = logs[np.arange(len(logs)), labels.astype(np.int64)]
    if asked == "log_probability":
        return own
    others = np.where(labels[:, None] == np.arange(logs.shape[1]), -np.inf, logs)
    if asked == "accuracy":
        return (own > others.max(axis=1)).astype(np.float64)
    return own - (others.max(axis=1) if asked == "lead" else np.asarray(logsumexp(others, axis=1)))


def slopes(
    objective: Objective,
    raw: Float[np.ndarray, "query output"],
    labels: Float[np.ndarray, " query"],
    asked: Asked,
) -> Float[np.ndarray, "query output"]:
    """Derivative of the measurement by the raw scores: exact for the loss, central differences for the others.

    Raises:
        CapabilityError: For accuracy, which has none.
    """
    if asked == "loss":
        return objective.gradient(raw, labels)
    if asked == "log_probability" and objective.kind == "softmax":
        return -objective.gradient(raw, labels)
    if asked == "accuracy":
        raise CapabilityError(
            "accuracy jumps, so it has no derivative that a method on leaves could follow.",
            fix="use measurement='margin' or 'loss', or leave_one_out.",
        )
    found = np.empty(raw.shape)
    for output in range(raw.shape[1]):
        step = np.zeros_like(raw)
        step[:, output] = _STEP * np.maximum(1.0, np.abs(raw[:, output]))
        above, below = (measured(objective, raw + sign * step, labels, asked) for sign in (1, -1))
        found[:, output] = (above - below) / (2 * step[:, output])
    return found


def _log_probabilities(objective: Objective, raw: np.ndarray) -> np.ndarray:
    if objective.kind == "softmax":
        return log_softmax(raw, axis=1)
    scores = objective.parameter * raw
    if raw.shape[1] == 1:
        return -np.logaddexp(0, np.concatenate([scores, -scores], axis=1))
    return log_softmax(-np.logaddexp(0, -scores), axis=1)  # one against the rest, shared out
