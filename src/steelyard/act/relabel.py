"""Plans that give suspicious training examples the label that the model believes in."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from steelyard.act.ranking import by_harm, provenance, reasons, size_of
from steelyard.errors import DataError, SettingError, ShapeError
from steelyard.records import Examples, Plan, Scores

PredictedBy = Literal[
    "models that did not see the example",
    "the model that learned it",
    "votes of the examples that influence it most",
]


def relabel(
    scores: Scores,
    train: Examples,
    *,
    probabilities: Float[np.ndarray, "train class"],
    predicted_by: PredictedBy,
    fraction: float | None = None,
    count: int | None = None,
) -> Plan:
    """Propose the predicted class for suspicious examples whose given label is another.

    Looks at the most harmful ``fraction`` or ``count`` of the training examples and proposes a new label
    where the most probable class is not the given one; the plan may therefore name fewer, or none. A model
    that has learned an example often repeats its wrong label, so that out-of-sample predictions propose more
    and better. Every reason says which were used.

    Args:
        scores: Per query or per example, in any unit.
        train: The training examples that were scored.
        probabilities: Class probabilities of every training example; columns in ascending order of label.
        predicted_by: Whose predictions they are.
        fraction: Share of the training examples to look at, above 0 and below 1.
        count: Or how many.

    Returns:
        A plan, most harmful first, with proposed and previous labels.

    Raises:
        SettingError: If not exactly one of ``fraction`` and ``count`` is given, or it is out of range.
        ShapeError: If the probabilities do not have one row per example and one column per class.
        DataError: If the scores are about other examples, or these have no labels.
    """
    if scores.train_checksum != train.checksum or len(scores.train_ids) != len(train):
        raise DataError(
            f"relabel: the scores were made for a training set with checksum {scores.train_checksum[:12]}, "
            f"{train.source} has {train.checksum[:12]}.",
            fix="give the training examples that were scored.",
        )
    size = size_of(len(train), fraction=fraction, count=count, action="relabel")
    labels = train.labels()
    classes = _classes(labels, probabilities)
    suspects = by_harm(scores)[:size]
    place = train.positions(scores.train_ids[suspects])
    best = np.argmax(probabilities[place], axis=1)
    differs = classes[best] != labels[place]
    suspects, place, best = suspects[differs], place[differs], best[differs]
    certain = probabilities[place, best]
    given = np.array(
        [probabilities[row, np.searchsorted(classes, labels[row])] for row in place], dtype=np.float64
    )
    claims = reasons(scores, suspects)
    settings = {"by": "relabel", "predicted_by": predicted_by, "fraction": fraction, "count": count}
    note = f"{len(place)} of the {size} most suspicious examples are predicted to be of another class"
    return Plan(
        action="relabel",
        ids=train.ids[place],
        reasons=tuple(
            f"{claim}; probability {low:.2f} of its label, {high:.2f} of the proposed one, by {predicted_by}"
            for claim, low, high in zip(claims, given, certain, strict=True)
        ),
        train_checksum=train.checksum,
        labels=classes[best],
        previous=labels[place],
        provenance=provenance(scores, settings, len(place)).with_notes(note),
    )


def _classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The label that each column stands for."""
    known = np.unique(labels)
    rows, columns = probabilities.shape
    if rows != len(labels):
        raise ShapeError(
            f"relabel: probabilities for {rows} examples, but there are {len(labels)}.",
            fix="give one row per training example, in the same order.",
        )
    if len(known) == columns:
        return known
    # A class without examples still has its column where labels are counted 0, 1, …
    if labels.dtype.kind in "iu" and len(known) and known[0] >= 0 and known[-1] < columns:
        return np.arange(columns, dtype=labels.dtype)
    if labels.dtype.kind == "f":
        raise SettingError(
            "relabel: these labels are not classes but numbers.", fix="use act.drop for regression targets."
        )
    raise ShapeError(
        f"relabel: probabilities of {columns} classes, but the labels are of {len(known)}.",
        fix="give one column per class, in ascending order of the labels.",
    )
