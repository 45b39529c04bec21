"""The scikit-learn learner: fitting, measuring, embedding, identity."""

import warnings
from inspect import unwrap

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import hinge_loss, log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from steelyard.data import read
from steelyard.errors import CapabilityError, DataError, FitError, ModelError, SettingError, ShapeError
from steelyard.learners.sklearn import Sklearn
from steelyard.learners.sklearn_measures import resolve_measurement
from steelyard.problem import HasCurvature, HasEmbeddings, HasGradients, HasPredictions, Learner
from steelyard.records import Examples, Measurement


def _blobs(rows: int = 90, classes: int = 3, seed: int = 0) -> Examples:
    x, y = make_classification(
        rows, 5, n_informative=4, n_redundant=0, n_classes=classes, n_clusters_per_class=1, random_state=seed
    )
    return read((x, y))


def _mixed() -> Examples:
    rng = np.random.default_rng(0)
    age, town = rng.uniform(20, 60, 60), rng.choice(["Ulm", "Bonn", "Kiel"], 60)
    label = np.where((age > 40) ^ (town == "Ulm"), "yes", "no")
    return read([{"age": a, "town": t, "label": y} for a, t, y in zip(age, town, label, strict=True)])


def _by_column(columns: object = ("town",), numbers: object = ("age",)) -> object:
    pick = columns if callable(columns) else list(columns)  # type: ignore[call-overload]
    count = numbers if callable(numbers) else list(numbers)  # type: ignore[call-overload]
    return ColumnTransformer([("town", OneHotEncoder(), pick), ("age", StandardScaler(), count)])


def test_it_satisfies_the_protocols() -> None:
    learner = Sklearn(LogisticRegression())
    for protocol in (Learner, HasPredictions, HasEmbeddings, HasGradients, HasCurvature):
        assert isinstance(learner, protocol)


CLASSIFIERS = [
    LogisticRegression(),
    LinearSVC(),
    SVC(),
    RidgeClassifier(),
    GaussianNB(),
    KNeighborsClassifier(),
    DecisionTreeClassifier(max_depth=3),
    RandomForestClassifier(n_estimators=5),
    HistGradientBoostingClassifier(max_iter=5),
    MLPClassifier((8,), max_iter=2000, learning_rate_init=0.03),
    CalibratedClassifierCV(LinearSVC(), cv=2),
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
    make_pipeline(StandardScaler(), LogisticRegression()),
]


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=lambda e: type(e).__name__)
def test_every_kind_of_classifier_fits_and_measures(estimator: BaseEstimator) -> None:
    train, before = _blobs(), repr(estimator.get_params())
    learner = Sklearn(estimator)
    learner.check(train, train)
    fitted = learner.fit(train, seed=3)
    loss, margin = (
        learner.loss(fitted, train),
        Sklearn(estimator, measurement="margin").measure(fitted, train),
    )
    assert loss.shape == margin.shape == (90,)
    assert np.isfinite(loss).all() and np.isfinite(margin).all() and (loss >= 0).all()
    right = Sklearn(estimator, measurement="accuracy").measure(fitted, train)
    assert right.mean() > 0.6
    for wrong in np.flatnonzero(right == 0):
        assert loss[wrong] > loss[right == 1].mean() and margin[wrong] < margin[right == 1].mean()
    assert repr(estimator.get_params()) == before
    assert not [name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")]


def test_losses_equal_those_of_scikit_learn() -> None:
    train = _blobs()
    x, y = np.asarray(train.input()[:]), train.labels()
    for estimator in (LogisticRegression(), GaussianNB(), DecisionTreeClassifier(max_depth=2)):
        learner = Sklearn(estimator)
        fitted = learner.fit(train)
        assert learner.loss(fitted, train).mean() == pytest.approx(
            log_loss(y, fitted.estimator.predict_proba(x))
        )
    for estimator in (SVC(), RidgeClassifier()):
        learner = Sklearn(estimator)
        fitted = learner.fit(train)
        assert learner.measurement.unit == "hinge"
        decision = fitted.estimator.decision_function(x)
        assert learner.loss(fitted, train).mean() == pytest.approx(hinge_loss(y, decision))
    learner = Sklearn(DecisionTreeRegressor(max_depth=2))
    fitted = learner.fit(train)
    assert learner.measurement.unit == "squared error"
    np.testing.assert_allclose(learner.loss(fitted, train), (fitted.estimator.predict(x) - y) ** 2)


def test_logistic_measurements_are_exact_far_from_the_boundary() -> None:
    x = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    learner = Sklearn(LogisticRegression(C=1e6), measurement="margin")
    train = read((x, np.array([0, 0, 1, 1])))
    fitted = learner.fit(train)
    far = read((np.array([[500.0], [500.0]]), np.array([1, 0])))
    logit = fitted.estimator.decision_function([[500.0]])[0]
    np.testing.assert_allclose(learner.measure(fitted, far), [logit, -logit])
    np.testing.assert_allclose(learner.loss(fitted, far), [0.0, logit], atol=1e-12)
    three = _blobs()
    fitted = learner.fit(three)
    decisions = fitted.estimator.decision_function(np.asarray(three.input()[:]))
    logs = log_softmax(decisions, axis=1)[np.arange(90), three.labels()]
    np.testing.assert_allclose(learner.measure(fitted, three), logs - np.log1p(-np.exp(logs)), rtol=1e-9)


def test_the_users_own_measurement_is_asked() -> None:
    def brier(estimator: object, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (1 - estimator.predict_proba(inputs)[np.arange(len(labels)), labels]) ** 2  # type: ignore[attr-defined]

    train, meaning = _blobs(), Measurement("brier", "squared probability", lower_is_better=True)
    learner = Sklearn(LogisticRegression(), measurement=(brier, meaning))
    fitted = learner.fit(train)
    assert learner.measurement == meaning
    expected = (1 - learner.probabilities(fitted, train)[np.arange(90), train.labels()]) ** 2
    np.testing.assert_allclose(learner.measure(fitted, train), expected)
    with pytest.raises(SettingError, match="no derivative"):
        learner.gradients(fitted).prepare(train)
    wrong = Sklearn(LogisticRegression(), measurement=(lambda e, x, y: np.zeros(3), meaning))
    with pytest.raises(DataError, match="one number per query"):
        wrong.measure(fitted, train)


def test_probabilities_follow_the_sorted_labels() -> None:
    train = _blobs()
    names = np.array(["pear", "apple", "fig"])[train.labels()]
    named = read({"input": np.asarray(train.input()[:]), "label": names})
    for estimator in (LogisticRegression(), RandomForestClassifier(n_estimators=7)):
        learner = Sklearn(estimator)
        fitted = learner.fit(named)
        np.testing.assert_array_equal(learner.classes(fitted), ["apple", "fig", "pear"])
        probabilities = learner.probabilities(fitted, named)
        expected = fitted.estimator.predict_proba(np.asarray(train.input()[:]))
        np.testing.assert_allclose(probabilities, expected, atol=1e-12)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    with pytest.raises(CapabilityError, match="CalibratedClassifierCV"):
        learner = Sklearn(LinearSVC())
        learner.probabilities(learner.fit(train), train)


def test_an_example_of_weight_zero_is_absent() -> None:
    train = _blobs()
    weights = np.ones(90)
    weights[[3, 50, 88]] = 0.0
    rest = train.take(np.flatnonzero(weights))
    for estimator in (LogisticRegression(), RandomForestClassifier(n_estimators=5), KNeighborsClassifier()):
        learner = Sklearn(estimator)
        one, two = learner.fit(train, weights, seed=1), learner.fit(rest, seed=1)
        np.testing.assert_array_equal(learner.measure(one, train), learner.measure(two, train))


def test_weights_reach_the_last_step_and_repeat_rows_elsewhere() -> None:
    train = _blobs()
    weights = np.random.default_rng(0).integers(0, 4, 90).astype(float)
    repeated = train.take(np.repeat(np.arange(90), weights.astype(int)))
    inner = make_pipeline(
        StandardScaler(with_mean=False, with_std=False), LogisticRegression(tol=1e-9, max_iter=999)
    )
    for estimator in (make_pipeline(inner), KNeighborsClassifier(), GaussianNB()):
        learner = Sklearn(estimator)
        one, two = learner.fit(train, weights), learner.fit(repeated)
        np.testing.assert_allclose(learner.measure(one, train), learner.measure(two, train), atol=1e-6)
    with pytest.raises(SettingError, match="KNeighborsClassifier.fit takes no sample_weight"):
        Sklearn(KNeighborsClassifier()).fit(train, weights + 0.5)


def test_a_weight_column_multiplies_the_weights_of_the_fit() -> None:
    train = _blobs()
    own, more = np.random.default_rng(0).uniform(0.5, 2.0, (2, 90))
    weighted = train.with_column("weight", own, "checksum")
    learner = Sklearn(LogisticRegression())
    for weights in (None, more):
        expected = learner.fit(train, own if weights is None else own * weights).estimator.coef_
        np.testing.assert_array_equal(learner.fit(weighted, weights).estimator.coef_, expected)
    fitted = learner.fit(weighted)
    np.testing.assert_array_equal(learner.hessian(fitted, weighted), learner.hessian(fitted, train, own))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights_are_refused(bad: float) -> None:
    train = _blobs()
    weights = np.ones(90)
    weights[4] = bad
    with pytest.raises(SettingError, match="negative, NaN or infinite"):
        Sklearn(LogisticRegression()).fit(train, weights)
    with pytest.raises(SettingError, match="all weights are 0"):
        Sklearn(LogisticRegression()).fit(train, np.zeros(90))
    with pytest.raises(ShapeError, match="90 examples"):
        Sklearn(LogisticRegression()).fit(train, np.ones(89))


def test_the_seed_reaches_every_random_state() -> None:
    train = _blobs()
    forest = make_pipeline(
        StandardScaler(), CalibratedClassifierCV(RandomForestClassifier(3, random_state=0), cv=2)
    )
    learner = Sklearn(forest)
    one, same, other = (learner.fit(train, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(learner.measure(one, train), learner.measure(same, train))
    assert (learner.measure(one, train) != learner.measure(other, train)).any()
    assert forest.get_params()["calibratedclassifiercv__estimator__random_state"] == 0


def test_random_fits_are_told_and_repeatable_ones_are_not() -> None:
    class Noisy(ClassifierMixin, BaseEstimator):
        def fit(self, inputs: np.ndarray, labels: np.ndarray) -> "Noisy":
            self.classes_ = np.unique(labels)
            self.share_ = np.random.default_rng().dirichlet(np.ones(len(self.classes_)))
            return self

        def predict_proba(self, inputs: np.ndarray) -> np.ndarray:
            return np.tile(self.share_, (len(inputs), 1))

    train = _blobs()
    (note,) = Sklearn(Noisy()).check(train, train)
    assert "differ by up to" in note and "nats" in note
    assert Sklearn(RandomForestClassifier(n_estimators=3)).check(train, train) == ()
    (note,) = Sklearn(KNeighborsClassifier(n_neighbors=85)).check(train.take(slice(0, 60)), train)
    assert "could not be tested" in note


def test_texts_images_frames_and_mixed_columns_are_read() -> None:
    texts = read([{"text": f"{word} and more words", "label": word} for word in ("salt", "oil", "tea") * 9])
    learner = Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression()))
    assert learner.check(texts, texts) == ()
    fitted = learner.fit(texts)
    assert Sklearn(learner.estimator, measurement="accuracy").measure(fitted, texts).mean() == 1.0
    assert learner.embed(fitted, texts).shape == (27, 6)
    digits = load_digits()
    images = read((digits.images[:100], digits.target[:100]))
    assert learner_embedding(LogisticRegression(max_iter=2000), images).shape == (100, 64)
    mixed = _mixed()
    for transformer in (_by_column(), _by_column(make_column_selector(dtype_exclude="number"))):
        learner = Sklearn(make_pipeline(transformer, DecisionTreeClassifier()), measurement="accuracy")
        assert learner.check(mixed, mixed) == ()
        fitted = learner.fit(mixed)
        assert learner.measure(fitted, mixed).mean() == 1.0
        assert learner.embed(fitted, mixed).shape == (60, 4)


def learner_embedding(estimator: BaseEstimator, examples: Examples) -> np.ndarray:
    learner = Sklearn(estimator)
    return learner.embed(learner.fit(examples), examples)


def test_sparse_features_stay_sparse_and_give_the_same_gradients() -> None:
    texts = read(
        [{"text": f"{word} and {i} more words", "label": word} for i, word in enumerate(("salt", "oil") * 9)]
    )
    learner = Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression()))
    fitted = learner.fit(texts)
    engine = learner.gradients(fitted)
    full = engine.dense(texts)
    np.testing.assert_allclose(engine.products(texts, engine.prepare(texts)), full @ full.T, atol=1e-14)
    metric = np.random.default_rng(0).standard_normal((engine.size, engine.size))
    side = engine.prepare(texts, metric)
    np.testing.assert_allclose(engine.products(texts, side), full @ metric @ full.T, atol=1e-13)
    np.testing.assert_allclose(engine.norms(texts), np.linalg.norm(full, axis=1))
    dense = make_pipeline(*[step for _, step in fitted.estimator.steps[:-1]], fitted.estimator.steps[-1][1])
    columns = dense[:-1].transform(np.asarray(texts.input()[:])).toarray()
    p = fitted.estimator.predict_proba(np.asarray(texts.input()[:]))[:, 1]
    wide = np.column_stack([columns, np.ones(18)])
    expected = wide.T @ (wide * (p * (1 - p))[:, None]) + np.diag([1.0] * columns.shape[1] + [0.0])
    np.testing.assert_allclose(learner.hessian(fitted, texts), expected, atol=1e-12)
    assert any("transformers as fixed" in note for note in engine.notes(texts))


def test_missing_numbers_pass_only_where_the_estimator_takes_them() -> None:
    train = _blobs()
    values = np.asarray(train.input()[:]).copy()
    values[7, 2] = np.nan
    holes = train.with_column("input", values, "holes")
    for estimator in (
        HistGradientBoostingClassifier(max_iter=3),
        make_pipeline(SimpleImputer(), GaussianNB()),
    ):
        learner = Sklearn(estimator)
        learner.check(holes, train)
        assert np.isfinite(learner.loss(learner.fit(holes), holes)).all()
    with pytest.raises(DataError, match=f"{holes.ids[7]}.*NaN"):
        Sklearn(LogisticRegression()).check(holes, train)
    values[7, 2] = np.inf
    with pytest.raises(DataError, match="infinity"):
        Sklearn(HistGradientBoostingClassifier()).check(train, holes)


def test_bad_labels_and_widths_are_refused_before_any_fit() -> None:
    train, learner = _blobs(), Sklearn(LogisticRegression())
    one = train.take(np.flatnonzero(train.labels() == 1))
    with pytest.raises(DataError, match="two classes"):
        learner.check(one, train)
    with pytest.raises(DataError, match="no training example has"):
        learner.check(train.take(np.flatnonzero(train.labels() != 2)), train)
    narrow = read((np.asarray(train.input()[:])[:, :3], train.labels()))
    with pytest.raises(ShapeError, match="training examples have 5, queries have 3"):
        learner.check(train, narrow)
    targets = train.with_column("label", np.where(np.arange(90) == 4, np.nan, 1.0), "nan")
    with pytest.raises(DataError, match=f"{targets.ids[4]}.*is nan"):
        Sklearn(Ridge()).check(targets, train)
    hot = train.with_column("label", np.eye(3)[train.labels()], "hot")
    with pytest.raises(DataError, match="one class per example"):
        learner.check(hot, hot)
    words = train.with_column("label", train.labels().astype(str), "words")
    with pytest.raises(DataError, match="give numbers"):
        Sklearn(Ridge()).loss(Sklearn(Ridge()).fit(train), words)


def test_a_trained_estimator_is_explained_itself_and_checked() -> None:
    train = _blobs()
    x, y = np.asarray(train.input()[:]), train.labels()
    estimator = LogisticRegression(tol=1e-8, max_iter=1000).fit(x, y)
    learner = Sklearn(estimator, trained=True)
    fitted = learner.explained(train)
    assert fitted.estimator is estimator and fitted.notes == ()
    elsewhere = learner.explained(_blobs(seed=9))
    assert "not at the minimum" in elsewhere.notes[0] and "other examples" in elsewhere.notes[0]
    assert elsewhere.notes[0] in learner.gradients(elsewhere).notes(train)
    with pytest.raises(ModelError, match="not fitted"):
        Sklearn(LogisticRegression(), trained=True)
    two = Sklearn(LogisticRegression().fit(x[y < 2], y[y < 2]), trained=True)
    with pytest.raises(ModelError, match="knows 2 classes"):
        two.check(train, train)
    narrow = Sklearn(LogisticRegression().fit(x[:, :3], y), trained=True)
    with pytest.raises(ShapeError, match="the trained LogisticRegression have 3"):
        narrow.check(train, train)


def test_an_unfinished_fit_is_told() -> None:
    train = _blobs()
    learner = Sklearn(LogisticRegression(max_iter=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = learner.explained(train)
    assert "stopped early" in fitted.notes[0]


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianNB(),
        LogisticRegression(l1_ratio=1.0, solver="liblinear"),
        LogisticRegression(class_weight="balanced"),
        LinearSVC(loss="hinge"),
        LinearSVC(multi_class="crammer_singer"),
        LinearRegression(positive=True),
        RidgeClassifier(),
    ],
    ids=repr,
)
def test_estimators_without_smooth_objective_name_alternatives(estimator: BaseEstimator) -> None:
    train = _blobs(classes=2)
    learner = Sklearn(estimator)
    fitted = learner.explained(train)
    for ask in (lambda: learner.gradients(fitted), lambda: learner.hessian(fitted, train)):
        with pytest.raises(CapabilityError, match="leave_one_out or knn_shapley"):
            ask()


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="no scikit-learn estimator"):
        Sklearn(LogisticRegression)
    with pytest.raises(SettingError, match="neither a classifier nor a regressor"):
        Sklearn(KMeans())
    with pytest.raises(SettingError, match="needs classes"):
        Sklearn(Ridge(), measurement="margin")
    with pytest.raises(SettingError, match="needs predict_proba"):
        Sklearn(LinearSVC(), measurement="log_probability")
    with pytest.raises(SettingError, match="'f1' is not known"):
        unwrap(resolve_measurement)(LogisticRegression(), "f1")
    two = read([{"a": "x", "b": "y", "label": 0}, {"a": "z", "b": "y", "label": 1}])
    with pytest.raises(SettingError, match="reads one text"):
        Sklearn(make_pipeline(TfidfVectorizer(), LogisticRegression())).fit(two)


def test_a_failing_fit_and_a_failing_prediction_are_fit_errors() -> None:
    train = _blobs()
    one = train.take(np.flatnonzero(train.labels() == 1))
    with pytest.raises(FitError, match="LogisticRegression.fit failed on"):
        Sklearn(LogisticRegression()).fit(one)
    learner = Sklearn(KNeighborsClassifier(50))
    with pytest.raises(FitError, match="cannot predict"):
        learner.measure(learner.fit(train.take(slice(0, 20))), train)
    mixed = _mixed()
    with pytest.raises(CapabilityError, match="no numbers"):
        learner_embedding(_StringReader(), mixed)


class _StringReader(ClassifierMixin, BaseEstimator):
    def fit(self, inputs: object, labels: np.ndarray) -> "_StringReader":
        self.classes_ = np.unique(labels)
        return self


def test_a_class_that_a_refit_lost_has_the_smallest_probability() -> None:
    train = _blobs()
    learner = Sklearn(GaussianNB())
    fitted = learner.fit(train.take(np.flatnonzero(train.labels() != 1)))
    lost = train.take(np.flatnonzero(train.labels() == 1))
    np.testing.assert_allclose(learner.loss(fitted, lost), -np.log(np.finfo(float).eps))
    margin = Sklearn(GaussianNB(), measurement="margin").measure(fitted, lost)
    np.testing.assert_allclose(margin, np.log(np.finfo(float).eps), rtol=1e-6)


def test_fingerprints_tell_settings_and_fitted_state_apart_and_nothing_else() -> None:
    train = _blobs()
    x, y = np.asarray(train.input()[:]), train.labels()

    def fingerprint(*args: object, **options: object) -> str:
        return Sklearn(*args, **options).fingerprint()  # type: ignore[arg-type]

    base = fingerprint(LogisticRegression())
    assert base == fingerprint(LogisticRegression())
    different = [
        fingerprint(LogisticRegression(C=2.0)),
        fingerprint(LogisticRegression(), measurement="margin"),
        fingerprint(LogisticRegression().fit(x, y), trained=True),
        fingerprint(LogisticRegression().fit(x[:50], y[:50]), trained=True),
        fingerprint(make_pipeline(StandardScaler(), LogisticRegression())),
        fingerprint(RandomForestClassifier(3, random_state=0).fit(x, y), trained=True),
        fingerprint(RandomForestClassifier(3, random_state=1).fit(x, y), trained=True),
    ]
    assert len({base, *different}) == len(different) + 1
    again = fingerprint(RandomForestClassifier(3, random_state=0).fit(x, y), trained=True)
    assert again == different[5]
    settings = Sklearn(make_pipeline(StandardScaler(), LogisticRegression())).settings()
    assert settings["params"]["logisticregression__C"] == 1.0
    assert "0x" not in repr(settings)


def test_fingerprints_are_the_same_in_another_process() -> None:
    import subprocess
    import sys

    code = """
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from steelyard.learners.sklearn import Sklearn
inputs = np.random.default_rng(0).random((30, 3))
forest = RandomForestClassifier(3, random_state=0)
pipeline = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), forest).fit(inputs, inputs[:, 0] > 0.5)
fingerprint = Sklearn(pipeline, trained=True).fingerprint()
"""
    here: dict[str, str] = {}
    exec(code, here)
    there = subprocess.run(
        [sys.executable, "-c", code + "print(fingerprint)"], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here["fingerprint"]
