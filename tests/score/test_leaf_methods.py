"""Methods on leaves, on models of real libraries: leaves are made again as they are, derivatives follow them."""

import numpy as np
import pytest

import steelyard as sy
from steelyard.score import by_name
from tests.learners.boosted_cases import examples, learner

pytestmark = pytest.mark.trees


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost", "hist"])
@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_leaves_of_real_models_are_made_again(library: str, task: str) -> None:
    rows = examples(task, plain=library == "plain")
    train, query = rows.take(slice(0, 90)), rows.take(slice(200, 206))
    problem = sy.Problem(learner(library, task), train, query)
    refit = by_name("leaf_refit")(problem)
    # Single precision of raw scores in the hundreds, where the library keeps them so.
    assert refit.provenance.resolved["largest_raw_difference"] < 1e-5
    slope = by_name("leaf_influence")(problem)
    assert np.corrcoef(slope.values.ravel(), refit.values.ravel())[0, 1] > 0.95
    for name in ("boostin", "leaf_inf_sp"):
        found = by_name(name)(problem).values
        assert np.corrcoef(found.ravel(), refit.values.ravel())[0, 1] > 0.7
