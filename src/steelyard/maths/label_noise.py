"""Which labels look wrong: margins, forgetting, votes of neighbours, confident counts, and mean ranks."""

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.errors import ShapeError

_SHARPNESS = 2.0  # power by which a neighbour's own neighbourhood decides what it is taken for
_FLOOR = 1e-3  # so that no label is impossible


def own_and_other(
    values: Float[np.ndarray, "example class"], labels: Int[np.ndarray, " example"]
) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"]]:
    """The value of every example's own label, and the highest among the other classes.

    The difference of both is a margin: of logits, of log-probabilities (the same number) or of probabilities.

    Raises:
        ShapeError: If there is only one class.

    Example:
        >>> own, other = own_and_other(np.array([[0.7, 0.2, 0.1]]), np.array([1]))
        >>> (own - other).round(3)
        array([-0.5])
    """
    if values.shape[1] < 2:
        raise ShapeError("there is one class, so no other to compare with.", fix="give two classes or more.")
    rows = np.arange(len(values))
    own = values[rows, labels]
    others = values.copy()
    others[rows, labels] = -np.inf
    return own, others.max(axis=1)


def forgetting_events(correct: Bool[np.ndarray, "epoch example"]) -> Int[np.ndarray, " example"]:
    """How often an example went from right to wrong; the number of epochs where it was never right.

    Source: Toneva et al. (2019), "An Empirical Study of Example Forgetting during Deep Neural Network Learning",
    section 3, where examples never learned count as forgotten infinitely often. Deviation: once per epoch instead of
    once per minibatch that holds the example.

    Example:
        >>> forgetting_events(np.array([[True, False], [False, False], [True, False]]))
        array([1, 3])
    """
    events = (correct[:-1] & ~correct[1:]).sum(axis=0)
    return np.where(correct.any(axis=0), events, len(correct)).astype(np.int64)


def learned_at(correct: Bool[np.ndarray, "epoch example"], *, run: int) -> Int[np.ndarray, " example"]:
    """First epoch, from 1, of ``run`` right ones in a row; epochs + 1 where there is none.

    Source: Yuan et al. (2023), "Late Stopping: Avoiding Confidently Learning from Mislabeled Examples": an example is
    learned when it is predicted right in k consecutive epochs, and mislabelled ones are learned late.

    Example:
        >>> learned_at(np.array([[True], [False], [True], [True]]), run=2)
        array([3])
    """
    sums = np.concatenate([np.zeros((1, correct.shape[1])), np.cumsum(correct, axis=0)])
    whole = (
        sums[run:] - sums[:-run] == run
        if len(correct) >= run
        else np.zeros((0, correct.shape[1]), dtype=bool)
    )
    found = whole.any(axis=0) if len(whole) else np.zeros(correct.shape[1], dtype=bool)
    first = np.argmax(whole, axis=0) + 1 if len(whole) else np.zeros(correct.shape[1])
    return np.where(found, first, len(correct) + 1).astype(np.int64)


def votes(
    neighbours: Int[np.ndarray, "example k"], labels: Int[np.ndarray, " example"], classes: int
) -> Float[np.ndarray, "example class"]:
    """Share of each label among the neighbours of every example."""
    return np.eye(classes)[labels[neighbours]].mean(axis=1)


def second_votes(
    neighbours: Int[np.ndarray, "example k"], labels: Int[np.ndarray, " example"], classes: int
) -> Float[np.ndarray, "example class"]:
    """Votes of the neighbours, each for what its own neighbours and not for what its own label say.

    A neighbour with a wrong label votes with the class of its surroundings, so that noise is averaged over about k²
    labels where plain votes see k. The example's own label takes no part: where it is among the neighbours of a
    neighbour, it is taken out there.

    Cost: examples x k x k look-ups. The first votes are squared, so that a clear majority counts nearly fully.

    Returns:
        Shares that sum to 1.
    """
    total = np.zeros((len(labels), classes))
    counts = votes(neighbours, labels, classes) * neighbours.shape[1]
    rows = np.arange(len(labels))
    for place in range(neighbours.shape[1]):
        near = neighbours[:, place]
        theirs = counts[near]
        # An example that votes for its neighbour takes its own vote back.
        theirs[rows, labels] -= (neighbours[near] == rows[:, None]).any(axis=1)
        shares = theirs / np.maximum(theirs.sum(axis=1, keepdims=True), 1.0)
        sharp = (shares + _FLOOR) ** _SHARPNESS
        total += sharp / sharp.sum(axis=1, keepdims=True)
    return total / neighbours.shape[1]


def confident_joint(
    probabilities: Float[np.ndarray, "example class"], labels: Int[np.ndarray, " example"]
) -> Float[np.ndarray, "given true"]:
    """Estimated number of examples with each given label and each true one, from out-of-sample probabilities.

    An example counts for class j if its probability of j is at least the mean probability of j among the examples
    labelled j; for the most probable such class if there are several. Rows are then scaled to the number of examples
    with that label.

    Source: Northcutt, Jiang & Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels",
    section 3.1: thresholds, counts and calibration.
    """
    classes = probabilities.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=classes)
    thresholds = np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -np.inf)
    counted = np.isfinite(reached).any(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[counted], reached[counted].argmax(axis=1)), 1.0)
    rows = joint.sum(axis=1)
    joint[rows == 0, np.flatnonzero(rows == 0)] = 1.0
    return joint / joint.sum(axis=1, keepdims=True) * sizes[:, None]


def mean_ranks(suspicions: Float[np.ndarray, "score example"]) -> Float[np.ndarray, " example"]:
    """Mean over scores of the rank of every example, scaled to 0 (least suspect) ... 1; ties share theirs.

    Ranks and not values, because the scores have no common scale.
    """
    from scipy.stats import rankdata

    return (rankdata(suspicions, axis=1) - 1).mean(axis=0) / max(1, suspicions.shape[1] - 1)
