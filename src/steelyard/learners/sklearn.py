"""The scikit-learn learner: any classifier or regressor with ``fit``, alone or in a pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float
from scipy import sparse
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from steelyard.errors import CapabilityError, FitError, ModelError, SettingError
from steelyard.learners import sklearn_fit, sklearn_measures, sklearn_together
from steelyard.learners.last_layer import LastLayer
from steelyard.learners.sklearn_course import follow
from steelyard.learners.sklearn_inputs import Features, check_inputs, check_labels, resolve, table
from steelyard.learners.sklearn_linear import LinearGradients
from steelyard.learners.sklearn_measures import Custom, Named
from steelyard.learners.sklearn_objectives import LINEAR, as_linear, hessian, refusal, stationarity
from steelyard.learners.sklearn_repeatability import repeatability
from steelyard.learners.sklearn_sparse import penalised
from steelyard.records import Examples, Measurement

_FORMS = ("auto", "array", "text", "polars", "pandas")
_STATIONARY = 0.01
_LARGEST_EMBEDDING = 2 * 2**30


@dataclass(frozen=True, eq=False)
class SklearnFitted:
    """A fitted estimator.

    Attributes:
        estimator: Fitted; never the user's own object unless that came trained.
        seed: What its ``random_state`` parameters were drawn from.
        form: What its inputs look like.
        notes: What is worth knowing about this fit.
    """

    estimator: Any
    seed: int
    form: Features
    notes: tuple[str, ...] = ()


class Sklearn:
    """Trains and measures any scikit-learn classifier or regressor, and whatever speaks its protocol.

    Every fit is of a fresh ``clone``; the given estimator is never changed. All ``random_state`` parameters,
    also of inner estimators, are set from the fit's seed. An example of weight 0 is left out; weights of 1
    are no weights; others go to ``sample_weight``, or repeat rows where ``fit`` does not take it. Removing an
    example from an estimator that draws rows at random (forests, SGD) also changes its other draws.

    Linear models (``LinearRegression``, ``Ridge``, ``LogisticRegression``, ``LinearSVC`` with squared hinge)
    offer gradients and the exact Hessian; in a pipeline, its transformers count as fixed.

    Args:
        estimator: A classifier or regressor, or a pipeline that ends in one.
        measurement: What is asked about queries: ``"loss"`` (log loss in nats, hinge, squared error: see
            ``learners/sklearn_measures.py``), ``"margin"``, ``"lead"``, ``"log_probability"``, ``"accuracy"``,
            or a pair of a function (estimator, inputs, labels) -> [query] and its ``Measurement``.
        trained: Whether the estimator is already fitted on the training examples and itself to be explained.
        features: What the estimator reads: ``"array"``, ``"text"``, ``"polars"``, ``"pandas"``; chosen from
            the estimator and the columns if ``"auto"``.

    Raises:
        SettingError: If the estimator cannot be cloned or fitted, or the measurement has no meaning for it.
        ModelError: If it is said to be trained and is not.

    Example:
        >>> from sklearn.linear_model import LogisticRegression
        >>> Sklearn(LogisticRegression(C=0.1), measurement="margin").measurement.unit
        'logits'
    """

    def __init__(
        self,
        estimator: Any,
        *,
        measurement: Named | Custom = "loss",
        trained: bool = False,
        features: Features = "auto",
    ) -> None:
        if isinstance(estimator, type) or not isinstance(estimator, BaseEstimator):
            raise SettingError(
                f"Sklearn was given {estimator!r}, which is no scikit-learn estimator.",
                fix="give an instance with fit, get_params and set_params, such as LogisticRegression().",
            )
        if features not in _FORMS:
            raise SettingError(f"features={features!r} is not known.", fix=f"use one of {', '.join(_FORMS)}.")
        if trained:
            _check_trained(estimator)
        self.estimator: Any = estimator
        self.trained = trained
        self._asked: Named | Custom = measurement
        self._features: Features = features
        self._measurement = sklearn_measures.resolve_measurement(estimator, measurement)
        self._shortcuts: WeakKeyDictionary[Examples, sklearn_together.Shortcut | None] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shortcuts": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shortcuts = WeakKeyDictionary()

    def __repr__(self) -> str:
        name = " ".join(repr(self.estimator).split())
        return f"Sklearn({name}, measurement={self._measurement.name!r}, trained={self.trained})"

    @property
    def measurement(self) -> Measurement:
        """What :meth:`measure` returns: name, unit, direction."""
        return self._measurement

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        """Look for whatever would make results wrong, before any work.

        Cost: a pass over the data, and two fits on at most 200 examples to see whether they agree (not for
            the
        linear models, which are deterministic).

        Returns:
            Notes about what was found and handled.

        Raises:
            DataError: NaN or infinity, labels that are missing, of one class only, or unseen in training.
            ShapeError: If widths disagree.
            ModelError: If a trained classifier has not seen the classes of the training examples.
        """
        form = resolve(self._features, self.estimator, train)
        check_inputs(self.estimator, train, query, form)
        check_labels(train, query, classes=is_classifier(self.estimator))
        if self.trained and is_classifier(self.estimator):
            unknown = np.setdiff1d(train.labels(), self.estimator.classes_)
            if len(unknown):
                raise ModelError(
                    f"the trained {type(self.estimator).__name__} knows {len(self.estimator.classes_)} "
                    "classes, "
                    f"but not {unknown[0]!r}, a label of the training examples ({train.source}).",
                    fix="give the examples that the estimator was trained on.",
                )
        return repeatability(self, self.estimator, train, query)

    def fit(
        self, examples: Examples, weights: Float[np.ndarray, " example"] | None = None, seed: int = 0
    ) -> SklearnFitted:
        """Fit a fresh copy of the estimator.

        Args:
            examples: Training examples.
            weights: Weight of every example, times its column ``weight`` if it has one; 0 is absent.
            seed: Where every ``random_state`` comes from.

        Raises:
            FitError: If scikit-learn refuses, with its message.
            SettingError: If weights are fractional and the estimator takes none.
        """
        weights = sklearn_fit.combined_weights(examples, weights, self.estimator)
        if weights is not None:
            takes = sklearn_fit.weight_parameter(self.estimator) is not None
            rows = np.flatnonzero(weights) if takes else sklearn_fit.repeated(weights)
            examples = examples.take(rows)
            weights = weights[rows] if takes and bool((weights[rows] != 1.0).any()) else None
        form = resolve(self._features, self.estimator, examples)
        copy = sklearn_fit.seeded(self.estimator, seed)
        estimator = sklearn_fit.fit(copy, table(examples, form), examples.labels(), weights)
        return SklearnFitted(estimator, seed, form)

    def follow(
        self,
        examples: Examples,
        watch: Callable[[int, SklearnFitted], None],
        weights: Float[np.ndarray, " example"] | None = None,
        seed: int = 0,
    ) -> SklearnFitted:
        """Train pass by pass or tree by tree, and show the estimator after each: see ``learners/sklearn_course.py``.

        Raises:
            CapabilityError: If the estimator cannot be trained in stages, or weights are neither 0 nor 1.
        """
        weights = sklearn_fit.combined_weights(examples, weights, self.estimator)
        if weights is not None:
            if not bool(np.isin(weights, (0.0, 1.0)).all()):
                raise CapabilityError(
                    "a training with weights cannot be followed.", fix="use self_confidence or knn_label."
                )
            examples = examples.take(np.flatnonzero(weights))
        form = resolve(self._features, self.estimator, examples)
        copy, inputs = sklearn_fit.seeded(self.estimator, seed), table(examples, form)

        def show(number: int, estimator: Any) -> None:
            watch(number, SklearnFitted(estimator, seed, form))

        return SklearnFitted(follow(copy, inputs, examples.labels(), show), seed, form)

    def explained(self, examples: Examples, seed: int = 0) -> SklearnFitted:
        """The user's own estimator if it came trained, else a fit of a copy.

        For linear models the gradient of the training objective is checked to be near zero: otherwise the fit
        stopped early, or the estimator was trained on other examples, which its notes say.
        """
        if self.trained:
            fitted = SklearnFitted(self.estimator, seed, resolve(self._features, self.estimator, examples))
        else:
            fitted = self.fit(examples, seed=seed)
        return SklearnFitted(fitted.estimator, seed, fitted.form, self._optimality(fitted, examples))

    def measure(self, fitted: SklearnFitted, queries: Examples) -> Float[np.ndarray, " query"]:
        """The measurement of every query.

        Raises:
            FitError: If the fitted estimator cannot predict (fewer examples than neighbours, for instance).
        """
        return self._ask(sklearn_measures.measures, fitted, queries, self._asked)

    def loss(self, fitted: SklearnFitted, examples: Examples) -> Float[np.ndarray, " example"]:
        """Training loss of every example, without regularisation, unweighted."""
        return self._ask(sklearn_measures.measures, fitted, examples, "loss")

    def probabilities(self, fitted: SklearnFitted, examples: Examples) -> Float[np.ndarray, "example class"]:
        """Class probabilities, columns in the order of :meth:`classes`: the sorted label values.

        Raises:
            CapabilityError: If the estimator has none.
        """
        if not is_classifier(self.estimator) or not sklearn_measures.has_probabilities(fitted.estimator):
            raise CapabilityError(
                f"{type(self.estimator).__name__} does not offer class probabilities.",
                fix="wrap it in sklearn.calibration.CalibratedClassifierCV, or use another classifier.",
            )
        logs = sklearn_measures.log_probabilities(fitted.estimator, table(examples, fitted.form))
        return np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)

    def classes(self, fitted: SklearnFitted) -> np.ndarray:
        """``[" class"]`` Sorted label values that the fit has seen: the columns of probabilities."""
        return np.asarray(fitted.estimator.classes_)

    def embed(self, fitted: SklearnFitted, examples: Examples) -> Float[np.ndarray, "example feature"]:
        """What the last step reads: the features after the pipeline's transformers, or the inputs themselves.

        Raises:
            CapabilityError: If they are no numbers, or more than 2 GiB when written out.
        """
        _, features = _last_step(fitted.estimator, table(examples, fitted.form))
        width = features.shape[1] if len(features.shape) == 2 else 0
        if not width or 4 * features.shape[0] * width > _LARGEST_EMBEDDING:
            raise CapabilityError(
                f"{type(self.estimator).__name__} reads no table of usable size (shape {features.shape}).",
                fix="put TruncatedSVD or another dense transformer into the pipeline, or use bm25 for text.",
            )
        if sparse.issparse(features):
            return features.toarray().astype(np.float32)
        try:
            return np.asarray(features).astype(np.float32)
        except ValueError as error:
            raise CapabilityError(
                f"{type(self.estimator).__name__} reads columns that are no numbers: {error}.",
                fix="encode them in a pipeline, whose transformed features are then the embedding.",
            ) from error

    def gradients(self, fitted: SklearnFitted) -> LinearGradients:
        """The gradient engine at a fitted linear model.

        Raises:
            CapabilityError: For all other estimators.
        """
        last, _ = _last_step(fitted.estimator, None)
        notes = fitted.notes
        if isinstance(fitted.estimator, Pipeline):
            notes = (*notes, "gradients take the pipeline's transformers as fixed; refits fit them anew")
        named = None if isinstance(self._asked, tuple) else self._asked

        def inputs(examples: Examples) -> Any:
            return _last_step(fitted.estimator, table(examples, fitted.form))[1]

        return LinearGradients(as_linear(last), inputs, self._measurement, named, notes)

    def last_layer(self, fitted: SklearnFitted) -> LastLayer:
        """A fitted linear model as such; in a pipeline, on what its transformers give.

        Raises:
            CapabilityError: For all other estimators.
        """
        layer = penalised(_last_step(fitted.estimator, None)[0])

        def features(examples: Examples) -> Any:
            return layer.model.columns(_last_step(fitted.estimator, table(examples, fitted.form))[1])

        return replace(layer, features=features)

    def hessian(
        self,
        fitted: SklearnFitted,
        examples: Examples,
        weights: Float[np.ndarray, " example"] | None = None,
    ) -> Float[np.ndarray, "param param"]:
        """Exact Hessian of the summed weighted training loss plus its penalty.

        Args:
            fitted: Where to evaluate.
            examples: Training examples.
            weights: Weight of every example in the sum; its column ``weight``, else 1, if None.

        Returns:
            Parameters in the order of ``gradients``.

        Raises:
            CapabilityError: For estimators other than the linear models.
        """
        last, features = _last_step(fitted.estimator, table(examples, fitted.form))
        return hessian(
            as_linear(last), features, examples.labels(), examples.weights() if weights is None else weights
        )

    def together(self, examples: Examples) -> int:
        """How many fits on subsets of these examples are best made at once: see ``learners/sklearn_together.py``."""
        found = self._shortcut(examples)
        return 1 if found is None else found.most

    def together_note(self, examples: Examples) -> str:
        """How fits are made where there is a shorter way than scikit-learn's own; else empty."""
        found = self._shortcut(examples)
        return "" if found is None else found.note

    def measure_together(
        self,
        examples: Examples,
        weightings: Float[np.ndarray, "fit example"],
        seeds: Sequence[int],
        queries: Examples,
    ) -> Float[np.ndarray, "fit query"]:
        """What the queries measure after each fit; NaN where a fit is to be made by itself. No seed matters.

        Raises:
            CapabilityError: If there is no shorter way.
        """
        found = self._shortcut(examples)
        if found is None:
            raise CapabilityError(
                f"{type(self.estimator).__name__} offers no way to many fits at once.", fix="fit one by one."
            )
        inputs = table(queries, "array")
        return sklearn_together.measured(found, weightings, inputs, queries.labels(), self._asked)

    def measuring(self, measurement: str) -> "Sklearn":
        """The same learner with another measurement, by name.

        Raises:
            SettingError: If it has no meaning for the estimator.
        """
        named: Any = measurement
        return Sklearn(self.estimator, measurement=named, trained=self.trained, features=self._features)

    def explaining(self, fitted: SklearnFitted) -> "Sklearn":
        """The same learner, whose explained model is this one."""
        return Sklearn(fitted.estimator, measurement=self._asked, trained=True, features=self._features)

    def settings(self) -> Mapping[str, Any]:
        """Settings as plain values, for provenance."""
        return {
            "learner": "Sklearn",
            **sklearn_fit.describe(self.estimator),
            "measurement": self._measurement.name,
            "trained": self.trained,
            "features": self._features,
        }

    def fingerprint(self) -> str:
        """Checksum of class, parameters, measurement, and the fitted state if the estimator came trained."""
        facts = (self._measurement, self._features, self.trained)
        return sklearn_fit.digest(self.estimator, *facts, trained=self.trained)

    def _shortcut(self, examples: Examples) -> "sklearn_together.Shortcut | None":
        if examples not in self._shortcuts:
            self._shortcuts[examples] = self._found_shortcut(examples)
        return self._shortcuts[examples]

    def _found_shortcut(self, examples: Examples) -> "sklearn_together.Shortcut | None":
        arrays = resolve(self._features, self.estimator, examples) == "array"
        if not arrays or not sklearn_together.possible(self.estimator, self._asked):
            return None
        try:
            fitted = self.fit(examples).estimator
        except (FitError, SettingError):
            return None  # nor will others be made together: each tells by itself why it fails
        return sklearn_together.shortcut(
            fitted, table(examples, "array"), examples.labels(), examples.weights()
        )

    def _ask(
        self, question: Any, fitted: SklearnFitted, examples: Examples, asked: Named | Custom
    ) -> np.ndarray:
        inputs = table(examples, fitted.form)
        try:
            return question(fitted.estimator, inputs, examples.labels(), asked)
        except sklearn_fit.FAILURES as error:
            raise FitError(
                f"the fitted {type(fitted.estimator).__name__} cannot predict: {error}",
                fix="read scikit-learn's message above; the fit may have had too few examples.",
            ) from error

    def _optimality(self, fitted: SklearnFitted, examples: Examples) -> tuple[str, ...]:
        last, _ = _last_step(fitted.estimator, None)
        model = as_linear(last) if type(last) in LINEAR and refusal(last) is None else None
        if model is None:
            return ()
        _, features = _last_step(fitted.estimator, table(examples, fitted.form))
        rest = stationarity(model, features, examples.labels(), examples.weights())
        if rest <= _STATIONARY:
            return ()
        why = (
            "it was trained on other examples or with weights, or stopped early"
            if self.trained
            else "it stopped early"
        )
        return (
            f"{type(last).__name__} is not at the minimum of its training objective ({rest:.1%} of the "
            f"gradient is left): {why}; influence assumes the minimum, so lower tol and raise max_iter",
        )


def _last_step(estimator: Any, inputs: Any) -> tuple[Any, Any]:
    """The final estimator inside pipelines, and what it reads; no transformation where inputs are None."""
    while isinstance(estimator, Pipeline):
        if inputs is not None and len(estimator.steps) > 1:
            inputs = estimator[:-1].transform(inputs)
        estimator = estimator.steps[-1][1]
    return estimator, inputs


def _check_trained(estimator: Any) -> None:
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        raise ModelError(
            f"trained=True, but this {type(estimator).__name__} is not fitted.",
            fix="fit it on the training examples first, or leave trained out to have it fitted here.",
        ) from error
