"""LightGBM's refits: what is read from the first round alone is what the whole model says."""

import numpy as np
import pytest

from steelyard.trees import lightgbm as layout
from tests.learners.boosted_cases import need

pytestmark = pytest.mark.trees
lightgbm = need("lightgbm")

from steelyard.learners import boosted_lightgbm  # noqa: E402 - it imports the library


@pytest.mark.parametrize("objective", ["regression", "binary", "multiclass"])
@pytest.mark.parametrize("stopped", [False, True])
def test_header_and_parameters_of_the_first_round_are_those_of_the_model(objective, stopped):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(80, 3)), np.arange(80) % (3 if objective == "multiclass" else 2)
    settings = {"objective": objective, "verbosity": -1, "num_threads": 1, "scale_pos_weight": 1.5}
    settings |= {"num_class": 3} if objective == "multiclass" else {}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 6)
    booster.best_iteration = 4 if stopped else -1
    facts, whole = boosted_lightgbm._facts(booster), layout.parsed(boosted_lightgbm._text(booster))
    sizes = "tree_sizes"
    assert {**facts.header, sizes: ""} == {**whole.header, sizes: ""}
    assert facts.parameters == whole.parameters
    assert len(facts.trees) < len(whole.trees)
