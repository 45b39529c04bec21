"""MODEL on the command line: what it may be, and errors that say the fix."""

import pytest

from steelyard.cli.model import DataOptions, load_problem
from steelyard.errors import DataError, ModelError, SettingError
from steelyard.problem import Problem

NO_DATA = DataOptions()


@pytest.mark.parametrize("name", ["build", "parts"])
def test_functions_that_bring_their_data(model, name):
    problem = load_problem(f"{model}:{name}", NO_DATA, seed=3, trust=False)
    assert isinstance(problem, Problem)
    assert (len(problem.train), len(problem.query), problem.seed) == (60, 8, 3)


@pytest.mark.parametrize("name", ["learner", "fitted"])
def test_functions_that_get_their_data_from_options(model, data, name):
    options = DataOptions(train=str(data[0]), query=str(data[1]), label="label", id="id")
    problem = load_problem(f"{model}:{name}", options, seed=0, trust=False)
    assert list(problem.query.ids[:2]) == ["query-0", "query-1"]
    assert problem.train.inputs == ("a", "b", "c")


def test_a_package_is_imported_by_its_name(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    problem = load_problem("model_for_cli:build", NO_DATA, seed=0, trust=False)
    assert len(problem.train) == 60


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{model}", "expected file.py:function"),
        ("{model}:biuld", "did you mean 'build'"),
        ("{model}:CONSTANT", "is a int, not a function"),
        ("{model}:nothing", "is no model that Steelyard knows"),
        ("{model}:pair", "a tuple of 2; expected"),
        ("no_such_file.py:build", "which is not a file"),
        ("no_such_package.module:build", "no module 'no_such_package'"),
        ("{model}:learner", "--train and --query is missing"),
    ],
)
def test_what_is_wrong_is_named(model, spec, message):
    place = spec.format(model=model)
    data = DataOptions(train="a", query="b") if "nothing" in spec else NO_DATA
    with pytest.raises((SettingError, ModelError, DataError), match=message):
        if "nothing" in spec:
            data = DataOptions(train=str(_small(model)), query=str(_small(model)))
        load_problem(place, data, seed=0, trust=False)


def _small(model):
    path = model.with_name("small.csv")
    path.write_text("a,label\n1,0\n2,1\n")
    return path


def test_data_is_not_given_twice(model, data):
    options = DataOptions(train=str(data[0]), query=str(data[1]))
    for name in ("build", "parts"):
        with pytest.raises((SettingError, ModelError), match="leave out --train|without --train"):
            load_problem(f"{model}:{name}", options, seed=0, trust=False)


def test_an_error_inside_the_model_file_keeps_its_own_kind(tmp_path):
    path = tmp_path / "broken_for_cli.py"
    path.write_text("import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load_problem(f"{path}:build", NO_DATA, seed=0, trust=False)


@pytest.fixture
def estimator():
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    return LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))


def test_skops_needs_trust_and_lists_its_types(tmp_path, data, estimator):
    io = pytest.importorskip("skops.io", reason="skops is not installed")
    path = tmp_path / "model.skops"
    io.dump(estimator, path)
    options = DataOptions(train=str(data[0]), query=str(data[1]), label="label", id="id")
    with pytest.raises(ModelError, match="--trust") as caught:
        load_problem(str(path), options, seed=0, trust=False)
    assert "does not know to be safe" in caught.value.problem
    assert len(load_problem(str(path), options, seed=0, trust=True).train) == 60


def test_joblib_needs_trust_and_says_why(tmp_path, data, estimator):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    path = tmp_path / "model.joblib"
    joblib.dump(estimator, path)
    options = DataOptions(train=str(data[0]), query=str(data[1]), label="label", id="id")
    with pytest.raises(ModelError, match="runs whatever code"):
        load_problem(str(path), options, seed=0, trust=False)
    assert len(load_problem(str(path), options, seed=0, trust=True).train) == 60


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="skops or joblib"):
        load_problem(str(path), NO_DATA, seed=0, trust=True)
