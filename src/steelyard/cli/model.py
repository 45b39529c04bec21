"""MODEL on the command line: a function that returns a problem or its parts, a file of a model, a model's folder."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from steelyard.cli.language import LanguageOptions, language_problem, open_folder
from steelyard.cli.options import number_of, pairs
from steelyard.data import read
from steelyard.errors import DataError, ModelError, SettingError
from steelyard.flow import problem_of
from steelyard.flow.ground_truth import TASKS
from steelyard.flow.problems import is_language_model, learner_of
from steelyard.learners.boosted_kinds import SUFFIXES
from steelyard.problem import HasLeaves, Problem
from steelyard.score.settings import did_you_mean

_ESTIMATORS = (".skops", ".joblib", ".pkl", ".pickle")


@dataclass(frozen=True)
class DataOptions:
    """Where the data is and how its columns are called, as given on the command line.

    Attributes:
        train: Path of the training examples.
        query: Path of the queries.
        text: Name of the text column.
        label: Name of the label column.
        id: Name of the id column.
        features: Names of the feature columns, between commas.
        parameters: Training parameters of boosted trees, where their file does not hold them: ``NAME=VALUE``.
    """

    train: str | None = None
    query: str | None = None
    text: str | None = None
    label: str | None = None
    id: str | None = None
    features: str | None = None
    parameters: list[str] | None = None

    def read(self, path: str, *, missing: bool = False) -> Any:
        """The examples in one file, with the columns named."""
        features = None if self.features is None else [name.strip() for name in self.features.split(",")]
        return read(path, text=self.text, label=self.label, id=self.id, features=features, missing=missing)


def load_problem(
    model: str, data: DataOptions, *, seed: int, trust: bool, language: LanguageOptions | None = None
) -> Problem:
    """The problem that MODEL and the data options describe.

    Args:
        model: ``file.py:function``, ``package.module:function``, a scikit-learn file, or a language model's folder.
        data: Training examples and queries, where the function does not bring them.
        seed: Seed of the model that is explained, where it is trained here.
        trust: Whether a file that can run code when it is opened may be opened.
        language: How a language model is opened and asked.

    Raises:
        SettingError: If MODEL cannot be read as any of these, or data is given twice or not at all.
        ModelError: If the function returns something else, or the file needs ``--trust``.
    """
    options = language or LanguageOptions()
    folder = is_language_model(Path(model))
    found = _opened(model, data, options, trust=trust)
    given = data.train is not None or data.query is not None
    if isinstance(found, Problem):
        if given:
            raise SettingError(
                f"{model} returns a Problem, which has its data already.",
                fix="leave out --train and --query, or return the learner alone.",
            )
        return Problem(found.learner, found.train, found.query, seed=seed) if seed else found
    if isinstance(found, tuple):
        if len(found) != 3 or given:
            raise ModelError(
                f"{model} returns a tuple of {len(found)}"
                + (
                    ", and --train or --query is given too."
                    if given
                    else "; expected (learner, train, query)."
                ),
                fix="return (learner, train, query) without --train and --query, or return the learner.",
            )
        learner, train, query = found
        return problem_of(learner, train, query, seed=seed)
    if data.train is None or data.query is None:
        missing = " and ".join(f"--{name}" for name in ("train", "query") if getattr(data, name) is None)
        raise SettingError(
            f"{model} gives a model without data, and {missing} is missing.",
            fix="name the data: --train train.jsonl --query test.jsonl (JSONL, CSV, Parquet, Arrow, .npz).",
        )
    if folder:
        train, query = data.read(data.train), data.read(data.query)
        return language_problem(cast(Any, found), train, query, answer=options.answer, seed=seed)
    learner = learner_of(found)
    missing = isinstance(learner, HasLeaves)  # trees send missing values their own way
    train, query = (data.read(path, missing=missing) for path in (data.train, data.query))
    return problem_of(learner, train, query, seed=seed)


def _opened(model: str, data: DataOptions, options: LanguageOptions, *, trust: bool) -> Any:
    """What MODEL stands for, with the options that concern its kind; options of another kind are refused."""
    path = Path(model)
    folder, trees = is_language_model(path), path.suffix in SUFFIXES
    asked = replace(options, measurement=None) if trees else options
    if asked.given() and not folder:
        raise SettingError(
            f"{model} is no folder of a language model, and an option for one is given.",
            fix="leave out --adapter, --max-length, --dtype, --measurement, --answer and --recipe, or give the folder.",
        )
    if data.parameters and not trees:
        raise SettingError(
            f"{model} is no file of boosted trees, and --parameter is given.",
            fix="set parameters where the model is made.",
        )
    if trees:
        return _boosted(path, data, options.measurement)
    if folder:
        return open_folder(path, options, trust=trust)
    return _estimator(path, trust=trust) if path.suffix in _ESTIMATORS else _function(model)()


def _boosted(path: Path, data: DataOptions, measurement: str | None) -> Any:
    from steelyard.learners import Boosted

    given = {name: number_of(value) for name, value in pairs(data.parameters, "--parameter").items()}
    asked: Any = "loss" if measurement is None else measurement
    return Boosted(path, measurement=asked, parameters=given or None)


def _function(model: str) -> Callable[[], Any]:
    if model in TASKS:
        return TASKS[model].build
    place, colon, name = model.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise SettingError(
            f"MODEL is {model!r}: expected file.py:function or package.module:function"
            f"{did_you_mean(model, TASKS) if model and ':' not in model else '.'}",
            fix="name a function without arguments that returns a steelyard Problem, a learner, or "
            "(learner, train, query); or give a language model's folder, a file of boosted trees (.txt, .json, .ubj, "
            ".cbm), or a scikit-learn file (.skops, .joblib) with --trust.",
        )
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place, model)
    if name not in vars(module):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SettingError(
            f"{place} has no function {name!r}{did_you_mean(name, public)}",
            fix=f"define it there; it has {', '.join(sorted(public)) or 'no functions'}.",
        )
    function = vars(module)[name]
    if not callable(function):
        raise SettingError(
            f"{model} is a {type(function).__name__}, not a function.",
            fix=f"wrap it: def build(): return {name}",
        )
    return function


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise SettingError(
            f"MODEL names {path}, which is not a file.", fix="check the path before the colon."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SettingError(f"{path} cannot be imported.", fix="name a Python file that ends in .py.")
    # Like `python file.py`: its neighbours are importable, and so is it, which worker processes need.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _from_package(name: str, model: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise SettingError(
            f"MODEL names {model!r}, but there is no module {error.name!r}.",
            fix="give a path that ends in .py, or run where the package can be imported.",
        ) from error


def _estimator(path: Path, *, trust: bool) -> Any:
    if not path.is_file():
        raise DataError(f"MODEL names {path}, which is not a file.", fix="check the path.")
    if path.suffix == ".skops":
        return _from_skops(path, trust=trust)
    if not trust:
        raise ModelError(
            f"{path} is a pickle: opening it runs whatever code its author put in.",
            fix="add --trust if you made it yourself or trust who did; better, save it with skops.",
        )
    if path.suffix != ".joblib":
        raise ModelError(
            f"{path} is a plain pickle, which is not read.", fix="save the model with skops or joblib."
        )
    import joblib

    return joblib.load(path)


def _from_skops(path: Path, *, trust: bool) -> Any:
    try:
        from skops import io
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{path} needs skops, which is not installed.", fix="pip install 'steelyard[trust]'."
        ) from error
    unknown = io.get_untrusted_types(file=path)
    if not trust:
        listed = ", ".join(unknown) if unknown else "none beyond scikit-learn's and NumPy's own"
        raise ModelError(
            f"{path} is a model from a file: opening it builds objects that its author chose. Types that "
            f"skops does not know to be safe: {listed}.",
            fix="add --trust if you trust these types and who made the file.",
        )
    return io.load(path, trusted=unknown)
