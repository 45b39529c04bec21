"""The learner of boosted trees: LightGBM, XGBoost, CatBoost and scikit-learn's gradient boosting."""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import CapabilityError, FitError, ModelError, SettingError, ShapeError
from steelyard.learners import (
    boosted_checks,
    boosted_files,
    boosted_measures,
    boosted_state,
    boosted_together,
)
from steelyard.learners.boosted_columns import Coding, coding_of
from steelyard.learners.boosted_fitted import BoostedFitted, Library, Rows, Training
from steelyard.learners.boosted_kinds import kind_of
from steelyard.learners.boosted_measures import Asked
from steelyard.records import Examples, Measurement
from steelyard.run.seeds import stream
from steelyard.trees.forest import Forest
from steelyard.trees.objectives import Custom


class Boosted:
    """Boosted trees of any of four libraries, explained as they are or trained here.

    Its loss is the training loss in the library's own scale: half the squared error, log loss in nats, and so on
    (``trees/objectives.py``). Columns of text are categories. Fits use one thread and the given seed, and so repeat.

    Cost: of a fit, the library's; of leaves, one pass of the rows through the trees.

    Args:
        model: A LightGBM or XGBoost ``Booster`` or a file of one (``.txt``, ``.json``, ``.ubj``); a CatBoost model or
            its ``.cbm`` file; or an estimator: ``LGBMClassifier``, ``XGBRegressor``, ``CatBoostClassifier``,
            ``GradientBoosting…``, ``HistGradientBoosting…`` and their like.
        measurement: What is asked about queries: ``"loss"``, ``"margin"`` (log-odds of the correct class), ``"lead"``
            (its lead over the best other class in nats), ``"log_probability"``, ``"accuracy"``, or a pair of a
            function (raw scores ``[query, output]``, labels) -> ``[query]`` and its ``Measurement``.
        trained: Whether an estimator is already fitted on the training examples and itself to be explained. Boosters
            and files always are.
        parameters: Training parameters for new fits, where the model does not hold them: XGBoost's files do not.
        objective: The user's own objective, where the model was trained by one.

    Raises:
        ModelError: If the model is of another kind, not fitted, or of a file that cannot be read.
        SettingError: If the measurement has no meaning for it.

    Example:
        >>> from sklearn.ensemble import HistGradientBoostingClassifier
        >>> Boosted(HistGradientBoostingClassifier(max_iter=20), measurement="margin").measurement.unit
        'logits'
    """

    def __init__(
        self,
        model: Any,
        *,
        measurement: Asked = "loss",
        trained: bool = False,
        parameters: Mapping[str, Any] | None = None,
        objective: Custom | None = None,
    ) -> None:
        from_file = isinstance(model, str | Path)
        self.model: Any = boosted_files.opened(Path(model)) if from_file else model
        self._kind = _known_kind(self.model)
        self._parameters, self._custom = parameters, objective
        self._asked: Asked = measurement
        # A booster is always trained; there is nothing else that it could stand for.
        self.trained = trained or type(self.model).__name__ == "Booster" or from_file
        library = self._library
        if self.trained:
            boosted_checks.check_trained(self.model)
        self._training: Training = library.training(self.model, parameters, objective)
        self._classes = library.outputs(self.model)
        self._measurement = boosted_measures.resolve(
            measurement, classes=self._classes[0], custom=objective is not None
        )
        self._coding: Coding | None = None
        self._cannot_refit = from_file and self._kind == "xgboost" and parameters is None

    def __repr__(self) -> str:
        name = f"{type(self.model).__module__.partition('.')[0]}.{type(self.model).__name__}"
        return f"Boosted({name}, measurement={self._measurement.name!r}, trained={self.trained})"

    @property
    def measurement(self) -> Measurement:
        """What :meth:`measure` returns: name, unit, direction."""
        return self._measurement

    @property
    def _library(self) -> Library:
        module: Any = importlib.import_module(f"steelyard.learners.boosted_{self._kind}")
        return module

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        """Look for whatever would make results wrong, before any work.

        Raises:
            DataError: Labels that are missing or unseen in training, infinite features, categories that the model or
                the training examples do not have.
            ModelError: If a trained model reads other columns, or the columns in another order.
            ShapeError: If widths disagree.
        """
        boosted_checks.check_labels(train, query, classes=self._classes[0])
        coding = self._coding_of(train) if self.trained else coding_of(train)
        whose = "the model" if self.trained else f"training ({train.source})"
        for examples in (train, query):
            boosted_checks.check_features(coding, examples)
            coding.check_known(examples, whose)
        if self.trained:
            boosted_checks.class_values(self._classes[1], train.labels())
        return ()

    def fit(
        self, examples: Examples, weights: Float[np.ndarray, " example"] | None = None, seed: int = 0
    ) -> BoostedFitted:
        """Train afresh, on one thread, for as many rounds as the model has and without early stopping.

        Raises:
            FitError: If the library refuses, or a class has no example left.
            CapabilityError: If a file does not hold the training parameters.
            SettingError: If a weight is negative.
        """
        if self._cannot_refit:
            raise CapabilityError(
                "an XGBoost file does not hold its training parameters, so the model cannot be trained again.",
                fix="give them: Boosted(path, parameters={'eta': 0.1, 'max_depth': 6}), or on the command line "
                "--parameter eta=0.1 --parameter max_depth=6.",
            )
        weights = _weights(examples, weights)
        present = np.flatnonzero(weights)
        kept = examples if len(present) == len(weights) else examples.take(present)
        rows = self._rows(kept, weights[present])
        model = self._library.train(self._training, rows, stream(seed, "boosted") % 2**31)
        return self._described(model, rows, seed)

    def together(self, examples: Examples) -> int:
        """How many fits at once; 1 unless fits by the library's own ``train`` repeat the estimator's to the last bit.

        Cost: three fits.
        """
        described = self.fit(examples)
        weights = np.ones(len(examples))
        weights[0] = 0.0
        quick = self._quick(described, examples, (weights[None], [1]), examples)
        same = quick is not None and np.array_equal(
            quick[0], self.measure(self.fit(examples, weights, seed=1), examples)
        )
        return boosted_together.MOST if same else 1

    def together_note(self, examples: Examples) -> str:
        """Nothing: the fits are those that :meth:`fit` makes."""
        return ""

    def measure_together(
        self,
        examples: Examples,
        weightings: Float[np.ndarray, "fit example"],
        seeds: Sequence[int],
        queries: Examples,
    ) -> Float[np.ndarray, "fit query"]:
        """Measurement of every query after every fit, each from scratch; see ``learners/boosted_together.py``."""
        found = self._quick(self.fit(examples), examples, (weightings, seeds), queries)
        return np.full((len(seeds), len(queries)), np.nan) if found is None else found

    def _quick(
        self,
        described: BoostedFitted,
        examples: Examples,
        fits: tuple[np.ndarray, Sequence[int]],
        queries: Examples,
    ) -> np.ndarray | None:
        classes = 0 if described.classes is None else len(described.classes)
        plain = boosted_together.plain_training(self._library, self._training, classes)
        if plain is None:
            return None
        return boosted_together.measured(
            described, plain, examples, fits, self._rows, lambda fitted: self.measure(fitted, queries)
        )

    def explained(self, examples: Examples, seed: int = 0) -> BoostedFitted:
        """The user's own model if it came trained, else a fit; held against the examples either way.

        Raises:
            ModelError: If the layout's predictions are not the library's, or the model was not trained on these
                examples: its leaves held others.
        """
        if self.trained:
            model = self._library.native(self.model)
            coding = self._coding_of(examples)
            rows = self._rows(examples, examples.weights(), coding, self._classes[1])
            fitted = self._described(model, rows, seed)
        else:
            fitted = self.fit(examples, seed=seed)
        notes = boosted_checks.check_layout(fitted, examples, self.leaf_weights(fitted, examples))
        return replace(fitted, notes=notes)

    def measure(self, fitted: BoostedFitted, queries: Examples) -> Float[np.ndarray, " query"]:
        """The measurement of every query, from the library's own raw scores."""
        return self.answers(fitted, queries, fitted.raw(fitted.coding.table(queries)))

    def loss(self, fitted: BoostedFitted, examples: Examples) -> Float[np.ndarray, " example"]:
        """Training loss of every example, without regularisation, unweighted."""
        raw = fitted.raw(fitted.coding.table(examples))
        return boosted_measures.measured(fitted.objective, raw, self.targets(fitted, examples), "loss")

    def probabilities(self, fitted: BoostedFitted, examples: Examples) -> Float[np.ndarray, "example class"]:
        """Class probabilities, columns in the order of the sorted label values.

        Raises:
            CapabilityError: For regressions.
        """
        if fitted.classes is None:
            raise CapabilityError("this model predicts no classes.", fix="use measurement='loss'.")
        return fitted.objective.prediction(fitted.raw(fitted.coding.table(examples)))

    def classes(self, fitted: BoostedFitted) -> np.ndarray:
        """Label values in the order of :meth:`probabilities`' columns."""
        return np.arange(0) if fitted.classes is None else fitted.classes

    def forest(self, fitted: BoostedFitted) -> Forest:
        """The trees as arrays."""
        return fitted.forest

    def leaves(self, fitted: BoostedFitted, examples: Examples) -> Int[np.ndarray, "example tree"]:
        """Leaf of every example in every tree, numbered within the tree."""
        return fitted.numbers(fitted.coding.table(examples))

    def targets(self, fitted: BoostedFitted, examples: Examples) -> Float[np.ndarray, " example"]:
        """Labels as the objective reads them: numbers, or codes of classes.

        Raises:
            FitError: If a label is a class that the fit has not seen.
        """
        return boosted_checks.codes_of(examples.labels(), fitted.classes)

    def leaf_weights(self, fitted: BoostedFitted, examples: Examples) -> Float[np.ndarray, " example"]:
        """Weight of every example's loss: its column ``weight`` times what the library gives its class."""
        weights = examples.weights()
        if fitted.model is None and fitted.classes is None:
            return weights
        codes = self.targets(fitted, examples)
        rows = Rows(
            np.zeros((len(codes), 0)), codes, examples.labels(), weights, fitted.coding, fitted.classes
        )
        model = self.model if fitted.model is None else fitted.model
        factors = self._library.class_weights(model, fitted.training, rows)
        return weights if factors is None else weights * factors[codes.astype(np.int64)]

    def answers(
        self, fitted: BoostedFitted, queries: Examples, raw: Float[np.ndarray, "query output"]
    ) -> Float[np.ndarray, " query"]:
        """What :meth:`measure` would say if the queries had these raw scores."""
        return boosted_measures.measured(fitted.objective, raw, self.targets(fitted, queries), self._asked)

    def sensitivity(
        self, fitted: BoostedFitted, queries: Examples, raw: Float[np.ndarray, "query output"]
    ) -> Float[np.ndarray, "query output"]:
        """Derivative of every query's measurement by its raw scores, at these.

        Raises:
            CapabilityError: For accuracy, which has none.
        """
        return boosted_measures.slopes(fitted.objective, raw, self.targets(fitted, queries), self._asked)

    def leaf_notes(self, fitted: BoostedFitted) -> Sequence[str]:
        """What is worth knowing about this model's leaves."""
        return fitted.notes

    def dump(self, fitted: BoostedFitted) -> Mapping[str, np.ndarray]:
        """The model in its library's own format, or as the arrays of the layout; never a pickle."""
        return boosted_state.dumped(fitted)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> BoostedFitted:
        """The inverse of :meth:`dump`."""
        return boosted_state.restored(arrays, self._library, self._training)

    def measuring(self, measurement: str) -> "Boosted":
        """The same learner with another measurement, by name.

        Raises:
            SettingError: If it has no meaning for the model.
        """
        named: Any = measurement
        return self._copy(self.model, named, trained=self.trained)

    def explaining(self, fitted: BoostedFitted) -> "Boosted":
        """The same learner, whose explained model is this one.

        Raises:
            CapabilityError: If only the layout was kept.
        """
        if fitted.model is None:
            raise CapabilityError(
                "a scikit-learn model from a run folder cannot be explained.", fix="use the fit itself."
            )
        copy = self._copy(fitted.model, self._asked, trained=True)
        copy._coding = fitted.coding
        return copy

    def settings(self) -> Mapping[str, Any]:
        """Settings as plain values, for provenance."""
        training = self._training
        parameters = training.parameters if training.estimator is None else training.estimator.get_params()
        return {
            "learner": "Boosted",
            "library": self._kind,
            "training": {name: str(value) for name, value in sorted(parameters.items())},
            "rounds": training.rounds,
            "measurement": self._measurement.name,
            "trained": self.trained,
        }

    def fingerprint(self) -> str:
        """Checksum of parameters and measurement, and of the trees if the model came trained."""
        native = self._library.native(self.model) if self.trained else None
        content = b"" if native is None else boosted_state.content_of(native, self._library)
        return boosted_state.digest(json.dumps(dict(self.settings()), sort_keys=True), content)

    def _copy(self, model: Any, asked: Asked, *, trained: bool) -> "Boosted":
        copy = Boosted(
            model, measurement=asked, trained=trained, parameters=self._parameters, objective=self._custom
        )
        copy._training, copy._cannot_refit, copy._coding = self._training, self._cannot_refit, self._coding
        return copy

    def _rows(self, examples: Examples, weights: np.ndarray, coding: Any = None, known: Any = None) -> Rows:
        coding = coding_of(examples) if coding is None else coding
        labels = examples.labels()
        if known is None:
            known = self._training_classes()
        classes = boosted_checks.class_values(known, labels) if self._classes[0] else None
        codes = boosted_checks.codes_of(labels, classes)
        plain = None if bool((weights == 1.0).all()) else weights
        return Rows(coding.table(examples), codes, labels, plain, coding, classes)

    def _coding_of(self, examples: Examples) -> Coding:
        """How the examples become the trained model's features: as it was told, or as the model itself says."""
        return self._library.coding(self.model, examples) if self._coding is None else self._coding

    def _training_classes(self) -> np.ndarray | int | None:
        """Classes that a fit must have: those of a trained model."""
        return self._classes[1]

    def _described(self, model: Any, rows: Rows, seed: int) -> BoostedFitted:
        library = self._library
        classes = 0 if rows.classes is None else len(rows.classes)
        objective = library.objective(model, self._training, classes)
        factors = library.class_weights(model, self._training, rows)
        weights = rows.ones() if factors is None else rows.ones() * factors[rows.codes.astype(np.int64)]
        return BoostedFitted(
            model=model,
            library=library,
            training=self._training,
            objective=objective,
            coding=rows.coding,
            classes=rows.classes,
            seed=seed,
            start=library.start(model, objective, rows, weights),
            mean_weight=float(weights.mean()),
        )


def _known_kind(model: Any) -> str:
    kind = kind_of(model)
    if kind is None:
        raise ModelError(
            f"{type(model).__module__}.{type(model).__qualname__} is no model of boosted trees.",
            fix="give a LightGBM or XGBoost Booster or estimator, a CatBoost model, or a scikit-learn GradientBoosting "
            "or HistGradientBoosting estimator.",
        )
    return kind


def _weights(examples: Examples, weights: np.ndarray | None) -> np.ndarray:
    own = examples.weights()
    given = np.ones(len(own)) if weights is None else np.asarray(weights, dtype=np.float64)
    if given.shape != own.shape:
        raise ShapeError(f"{given.shape} weights for {len(own)} examples.", fix="give one per example.")
    if not bool(np.all(np.isfinite(given) & (given >= 0))):
        raise SettingError(
            "a weight is negative, NaN or infinite.", fix="weights are 0 (absent) or positive."
        )
    if not (given * own).any():
        raise FitError("all weights are 0, so there is nothing to fit.", fix="leave at least one example in.")
    return given * own
