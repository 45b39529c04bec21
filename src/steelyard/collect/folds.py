"""Out-of-sample class probabilities: what models say about examples that they did not learn from."""

import functools

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import DataError, SettingError, ShapeError
from steelyard.problem import HasPredictions, HasVariants, Problem, require
from steelyard.run import Run, generator, stream
from steelyard.run.progress import Progress


def held_out_probabilities(
    problem: Problem, run: Run, *, folds: int = 5, repeats: int = 1
) -> Float[np.ndarray, "train class"]:
    """Class probabilities of every training example from a model that was trained without its fold.

    A model that has learned an example repeats its label, wrong or not; one that has not is a second opinion.
    Folds are drawn with equal shares of every label, by id, so that the order of the rows does not matter. Each fold is
    kept in the run folder as it is finished; more repeats go on from fewer.

    Cost: ``folds`` fits per repeat, each of the other folds' examples.

    Args:
        problem: Learner and labelled training examples.
        run: Where the folds are kept.
        folds: Number of parts; more parts mean models closer to the one trained on everything.
        repeats: How often, with other folds and other seeds; probabilities are averaged.

    Returns:
        Probabilities, columns in ascending order of the labels; rows sum to 1.

    Raises:
        CapabilityError: If the learner offers no class probabilities.
        SettingError: If ``folds`` is below 2 or above the number of training examples, or there is no repeat.
        DataError: If the labels are no classes, or a class has a single example.
        FitError: If a training fails.
    """
    learner = require(problem.learner, HasPredictions, method="held_out_probabilities", instead="act.drop")
    if not 2 <= folds <= len(problem.train):
        raise SettingError(
            f"held_out_probabilities: folds={folds} with {len(problem.train)} training examples.",
            fix="give at least 2 folds, and no more than there are examples.",
        )
    if repeats < 1:
        raise SettingError(f"held_out_probabilities: repeats={repeats}.", fix="give at least one repeat.")
    parts: list[np.ndarray] = []
    with run.progress("out-of-sample predictions", folds * repeats, unit="fits") as progress:
        for repeat in range(repeats):
            parts.append(_repeat(learner, problem, run, folds=folds, repeat=repeat, progress=progress))
    return np.mean(parts, axis=0)


def _repeat(
    learner: HasPredictions, problem: Problem, run: Run, *, folds: int, repeat: int, progress: Progress
) -> np.ndarray:
    fold = deal(problem, folds, repeat)
    about = f"{problem.mark()}-{folds}"
    about += f"-{repeat}" if repeat else ""
    parts: list[np.ndarray] = []
    for k in range(folds):
        key = f"folds/{about}/{k}"
        kept = run.has(key)
        compute = functools.partial(_predict, learner, problem, fold, k, repeat, run)
        parts.append(run.keep(key, compute)["probabilities"])
        progress.advance(kept=kept)
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise ShapeError(
            f"models of different folds give probabilities of {sorted(widths)} classes.",
            fix="use a learner that knows all classes beforehand, or fewer folds.",
        )
    found = np.empty((len(fold), widths.pop()))
    for k, part in enumerate(parts):
        found[fold == k] = part
    return found


def deal(problem: Problem, folds: int, repeat: int = 0) -> Int[np.ndarray, " train"]:
    """Fold of every training example: shuffled, then dealt out label by label.

    Raises:
        DataError: If the labels are no classes, or a class has a single example.
    """
    labels = problem.train.labels()
    if labels.dtype.kind == "f":
        raise DataError(
            f"{problem.train.source}: the labels are measured numbers: there are no classes to predict.",
            fix="use act.drop for regression; if they are classes, give them as whole numbers or text.",
        )
    names = ("folds",) if repeat == 0 else ("folds", repeat)
    by_id = np.argsort(problem.train.ids, kind="stable")
    order = by_id[generator(problem.seed, *names).permutation(len(labels))]
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    values, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"{problem.train.source}: the label {str(values[counts.argmin()])!r} has a single example, so that no "
            "model can learn it from the other folds.",
            fix="leave that class out, or add examples of it.",
        )
    return fold


def _predict(  # noqa: PLR0913 - one fold of one repeat of one problem
    learner: HasPredictions, problem: Problem, fold: np.ndarray, k: int, repeat: int, run: Run
) -> dict[str, np.ndarray]:
    rest = problem.train.take(np.flatnonzero(fold != k))
    names = ("folds", k) if repeat == 0 else ("folds", k, repeat)
    fitted = problem.learner.fit(rest, seed=stream(problem.seed, *names))
    run.spend(fits=1)
    held_out = problem.train.take(np.flatnonzero(fold == k))
    return {"probabilities": np.asarray(learner.probabilities(fitted, held_out), dtype=np.float64)}


def without_fold(problem: Problem, fold: Int[np.ndarray, " train"], k: int, run: Run) -> Problem:
    """A problem whose queries are the examples of one fold, and whose model was trained on all others.

    Cost: a fit.

    Raises:
        CapabilityError: If the learner cannot be asked about another model.
    """
    learner = require(problem.learner, HasVariants, method="without_fold", instead="self_confidence")
    rest = problem.train.take(np.flatnonzero(fold != k))
    fitted = problem.learner.fit(rest, seed=stream(problem.seed, "folds", k))
    run.spend(fits=1)
    held_out = problem.train.take(np.flatnonzero(fold == k))
    return Problem(learner.explaining(fitted), rest, held_out, seed=problem.seed)
