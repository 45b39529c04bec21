"""Methods on leaves, on models of real libraries: leaves are made again as they are, derivatives follow them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import steelyard as sy
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.knn import knn_shapley
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


def one_hot(numbers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.eye(size)[numbers[:, tree]] for tree, size in enumerate(sizes)], axis=1)


def test_neighbours_on_leaves_are_those_of_one_hot_leaves() -> None:
    rows = examples("multiclass")
    train, query = rows.take(slice(0, 60)), rows.take(slice(200, 206))
    boosted = learner("lightgbm", "multiclass")
    found = by_name("knn_shapley", {"embedding": "leaves", "neighbours": "3"})(
        sy.Problem(boosted, train, query)
    )
    fitted = boosted.explained(train)
    sizes = np.diff(boosted.forest(fitted).leaf_starts)
    sides = [one_hot(boosted.leaves(fitted, side), sizes) for side in (train, query)]
    wanted = knn_shapley(sides[0], train.labels(), sides[1], query.labels(), neighbours=3)
    assert np.allclose(found.values, np.concatenate([values for _, values in wanted], axis=1), atol=1e-6)
    assert found.provenance.resolved["embedding"].startswith("leaves")
    assert np.ptp(found.values) > 0.01


def test_neighbours_on_leaves_ask_for_trees() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 3)), np.arange(40) % 2
    problem = sy.Problem(sy.learners.Sklearn(LogisticRegression()), (x[:30], y[:30]), (x[30:], y[30:]))
    with pytest.raises(CapabilityError, match="leaves.*\n?.*embedding='inputs'"):
        by_name("knn_shapley", {"embedding": "leaves"})(problem)


def test_subsample_is_influence_by_subset_fits() -> None:
    assert by_name("subsample") == by_name("memorization", {"of": "queries"})
    assert by_name("subsample", {"fits": "9"}) == by_name("memorization", {"of": "queries", "fits": "9"})
    with pytest.raises(SettingError, match="subsample"):
        by_name("subsampl")
