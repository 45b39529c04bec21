"""Projected gradients of a problem: one row of numbers per example, in parts that are known by name."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float

from steelyard.collect.curvature import kronecker_arrays
from steelyard.collect.gradients import Fitted, present_examples
from steelyard.errors import CapabilityError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factors import Factors
from steelyard.gradients.features import FeatureMap, Layout, Transform, feature_map, principal_bases
from steelyard.gradients.fisher import Fisher, HasOutputs, fisher_gradients
from steelyard.gradients.moments import AdamState, adam_direction, in_blocks, inverse_roots, squares
from steelyard.gradients.signs import Projection
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run.seeds import stream

Of = Literal["loss", "measurement"]


@dataclass(frozen=True, eq=False)
class Features:
    """Projected gradients at one fitted model.

    Attributes:
        fitted: The model and its gradients.
        map: Projectors and layout.
        key: Says all that the features depend on beside model and example; short.
        transform: Changes full gradients before they are projected.
    """

    fitted: Fitted
    map: FeatureMap
    key: str
    transform: Transform | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts, in the order of their columns."""
        return tuple(part.name for part in self.map.parts)

    @property
    def columns(self) -> tuple[slice, ...]:
        """Where the parts are."""
        return tuple(part.columns for part in self.map.parts)

    def __call__(self, examples: Examples, of: Of) -> Float[np.ndarray, "example feature"]:
        """Features of examples: of their loss, or of their measurement without a sign.

        Cost: one forward and backward pass, and the projections.
        """
        engine = cast(TorchGradients, self.fitted.gradients)
        self.fitted.run.spend(gradients=len(examples))
        # Adam's direction is about training gradients; queries are taken as they are.
        transform = self.transform if of == "loss" else None
        pieces = [self.map(found, transform) for found in engine.capture(examples, of)]
        return torch.cat(pieces).numpy()

    def grams(self) -> tuple[np.ndarray, ...]:
        """``[k, k]`` ``P^T P`` per part: what an l2 penalty on the parameters is on the features."""
        return tuple(part.gram().cpu().numpy() for part in self.map.parts)


def network(problem: Problem, fitted: Fitted, *, method: str) -> TorchGradients:
    """The engine at a fitted network.

    Raises:
        CapabilityError: If the model is not a network.
    """
    if isinstance(fitted.gradients, TorchGradients):
        return fitted.gradients
    raise CapabilityError(
        f"{method} needs the layers of a network, which {type(problem.learner).__name__} does not have.",
        fix="use gauss_newton (exact for linear models) or trak.",
    )


def first_factors(engine: TorchGradients, examples: Examples) -> dict[str, Factors]:
    """Factors of one example: names, shapes and number types of all blocks."""
    (found,) = engine.capture(examples.take(slice(0, 1)), "loss")
    return found


def random_features(
    problem: Problem,
    fitted: Fitted,
    projection: Projection,
    *,
    method: str,
    modules: tuple[str, ...] = ("*",),
    scales: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> Features:
    """Gradients projected at random.

    Args:
        problem: Whose first training example shows names and shapes.
        fitted: Where gradients are taken.
        projection: Kind, size, seed.
        method: Who asks, for errors.
        modules: Patterns of the layers to use.
        scales: Numbers that the rows and columns of each block's gradient are multiplied by first.

    Raises:
        CapabilityError: If the model is not a network.
        SettingError: If no layer matches, or the projection does not fit into memory.
    """
    found = first_factors(network(problem, fitted, method=method), problem.train)
    layout = Layout(projection, modules, scales=scales or {})
    return Features(fitted, feature_map(found, layout), digest(projection, modules))


def principal_features(problem: Problem, fitted: Fitted, projection: Projection, *, method: str) -> Features:
    """Gradients in the top eigenvectors of each layer's input and output-gradient covariances.

    Cost: one gradient per training example for the covariances, which are shared with K-FAC in a run folder.

    Raises:
        CapabilityError: If the model is not a network.
    """
    engine = network(problem, fitted, method=method)
    blocks = kronecker_arrays(problem, fitted, fitted.run, kind="kfac", fisher="empirical").blocks
    found = first_factors(engine, problem.train)
    layout = Layout(projection, bases=principal_bases(blocks, found, projection))
    return Features(fitted, feature_map(found, layout), digest(projection, "pca"))


def adam_features(
    problem: Problem, fitted: Fitted, projection: Projection, state: AdamState, *, method: str
) -> Features:
    """Projections of the direction that Adam's next step would take, were each example's gradient that of the batch.

    Cost: full gradients of training examples are formed, in pieces of 64 MiB, because the direction is not linear.

    Raises:
        CapabilityError: If the model is not a network.
        ModelError: If the state lacks a parameter of the model or has it in another shape.
    """
    engine = network(problem, fitted, method=method)
    found = first_factors(engine, problem.train)
    coverage = engine.coverage(problem.train)
    first, second = (
        in_blocks(values, found, coverage, engine.model) for values in (state.first, state.second)
    )
    transform = adam_direction(state, first, second)
    return Features(
        fitted, feature_map(found, Layout(projection)), digest(projection, "adam", state.step), transform
    )


def digest(*facts: object) -> str:
    """A short name for settings."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def second_moments(
    problem: Problem,
    features: Features,
    *,
    fisher: Fisher = "empirical",
    of: Of = "loss",
    examples: Examples | None = None,
) -> tuple[np.ndarray, ...]:
    """Weighted mean of ``phi phi^T`` per part; kept in the run folder.

    Args:
        problem: Whose training examples are taken, if no others are given.
        features: What phi is.
        fisher: Which gradients, see ``gradients/fisher.py``; for other examples or measurements the data's own.
        of: Value whose gradients these are.
        examples: Instead of the training examples.

    Raises:
        CapabilityError: If the loss does not offer the Fisher asked for.
    """
    chosen = present_examples(problem) if examples is None else examples
    run = features.fitted.run

    def compute() -> dict[str, np.ndarray]:
        widths = [columns.stop - columns.start for columns in features.columns]
        total = [np.zeros((width, width)) for width in widths]
        with run.progress(f"second moments of {len(features.names)} parts", len(chosen)) as progress:
            for rows, weights, fresh in _rows(problem, features, fisher, of, chosen):
                weighted = rows * weights[:, None].astype(rows.dtype)
                for matrix, columns in zip(total, features.columns, strict=True):
                    matrix += weighted[:, columns].T @ rows[:, columns]
                progress.advance(len(rows) if fresh else 0)
        return {str(number): matrix / max(1, len(chosen)) for number, matrix in enumerate(total)}

    facts = digest(problem.mark(), fisher, of, None if examples is None else chosen.checksum)
    found = run.keep(f"features/{features.key}-{facts}", compute)
    return tuple(np.asarray(found[str(number)]) for number in range(len(features.names)))


def _rows(
    problem: Problem, features: Features, fisher: Fisher, of: Of, examples: Examples
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Features in float64, weights, and whether the examples come for the first time."""
    engine, weights, run = features.fitted.gradients, examples.weights(), features.fitted.run
    if of == "loss" and features.transform is None and isinstance(engine, TorchGradients):
        learner, seed = cast(HasOutputs, problem.learner), stream(problem.seed, "fisher")
        done = 0
        for batch in fisher_gradients(engine, learner, examples, kind=fisher, seed=seed):
            done += len(batch) if batch.first else 0
            run.spend(gradients=len(batch) * (1 if batch.first else 2 / 3))
            part = weights[done - len(batch) : done]
            yield features.map(batch.factors).numpy().astype(np.float64), part, batch.first
        return
    for start in range(0, len(examples), 1024):
        rows = slice(start, start + 1024)
        yield features(examples.take(rows), of).astype(np.float64), weights[rows], True


def training_scales(
    problem: Problem, fitted: Fitted, *, method: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """``1 / sqrt(V)`` by rows and columns, V the second moment of the training gradients; kept in the run folder.

    Cost: one gradient per training example.
    """
    engine, run = network(problem, fitted, method=method), fitted.run
    train = present_examples(problem)

    def batches() -> Iterator[tuple[Mapping[str, Factors], torch.Tensor]]:
        weights = torch.from_numpy(train.weights())
        done = 0
        with run.progress("second moments of gradients", len(train)) as progress:
            for found in engine.capture(train, "loss"):
                count = len(next(iter(found.values())))
                run.spend(gradients=count)
                yield found, weights[done : done + count] / len(train)
                done += count
                progress.advance(count)

    def compute() -> dict[str, np.ndarray]:
        return {
            f"{name}|{side}": values.numpy()
            for name, sums in squares(batches()).items()
            for side, values in zip(("rows", "columns"), sums, strict=True)
        }

    arrays = run.keep(f"features/squares-{problem.mark()}", compute)
    names = [key.removesuffix("|rows") for key in arrays if key.endswith("|rows")]
    return {
        name: inverse_roots((_tensor(arrays[f"{name}|rows"]), _tensor(arrays[f"{name}|columns"])))
        for name in names
    }


def optimiser_scales(
    problem: Problem, fitted: Fitted, second: Mapping[str, torch.Tensor], *, method: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The same from an optimiser's second moment, by its row and column sums.

    Raises:
        ModelError: If a parameter is missing or has another shape.
    """
    engine = network(problem, fitted, method=method)
    found = first_factors(engine, problem.train)
    arranged = in_blocks(second, found, engine.coverage(problem.train), engine.model)
    return {
        name: inverse_roots((matrix.double().sum(1), matrix.double().sum(0)))
        for name, matrix in arranged.items()
    }


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))
