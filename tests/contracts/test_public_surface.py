"""The names that users rely on: DESIGN's one screen of public surface, and the rules for methods."""

import inspect
from dataclasses import fields, is_dataclass

import pytest

import steelyard as sy

NAMES = {
    "Problem", "Examples", "Scores", "Plan", "Evidence", "Report", "Measurement", "Provenance", "Cost", "Finding",
    "SteelyardError", "attribute", "clean", "value", "read", "open_run",
    "act", "data", "errors", "learners", "report", "run", "score", "verify",
}  # fmt: skip
FUNCTIONS = {
    "act": {"drop", "keep", "relabel", "select_for_target"},
    "verify": {"by_retraining", "lds", "removal_curve", "calibration", "mislabel_auc"},
    "report": {"html", "text"},
    "learners": {"Torch", "Sklearn", "SGD", "Adam", "AdamW"},
}
METHODS = {
    "random", "loss", "class_similarity", "embedding_cosine", "bm25", "leave_one_out", "grad_dot", "grad_cos", "tracin",
    "gauss_newton", "kfac", "ekfac", "trak", "self_influence", "knn_shapley", "data_shapley", "beta_shapley", "banzhaf",
    "class_wise_shapley", "least_core", "ame", "datamodels", "data_oob", "lava",
}  # fmt: skip


def test_the_public_names_are_there():
    assert set(sy.__all__) >= NAMES
    assert set(dir(sy)) >= NAMES
    for name in sy.__all__:
        assert getattr(sy, name) is not None


@pytest.mark.parametrize("module", sorted(FUNCTIONS))
def test_the_names_of_each_stage_are_there(module):
    for name in FUNCTIONS[module]:
        assert callable(getattr(getattr(sy, module), name)), f"sy.{module}.{name}"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sy.nonsense


def test_all_promised_methods_are_there():
    assert set(sy.score.METHODS) >= METHODS


@pytest.mark.parametrize("name", sorted(sy.score.METHODS))
def test_a_method_is_a_frozen_dataclass_that_describes_itself(name):
    kind = sy.score.method_class(name)
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert kind.__name__.lower().replace("_", "") == name.replace("_", "")
    assert getattr(sy.score, kind.__name__) is kind
    assert kind() == kind() and eval(repr(kind()), {kind.__name__: kind}) == kind()
    card = kind.card
    assert all(len(getattr(card, item.name)) > 3 for item in fields(card)), card
    assert inspect.getdoc(kind) and kind.__doc__ != f"{kind.__name__}()"
    assert list(inspect.signature(kind.__call__).parameters)[:3] == ["self", "problem", "run"]


@pytest.mark.parametrize("name", sorted(sy.score.METHODS))
def test_the_settings_of_a_method_are_keywords_with_defaults(name):
    for item in inspect.signature(sy.score.method_class(name)).parameters.values():
        assert item.default is not inspect.Parameter.empty, f"{name}.{item.name} has no default"
        assert item.kind is not inspect.Parameter.VAR_KEYWORD
