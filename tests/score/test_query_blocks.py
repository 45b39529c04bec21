"""Queries that do not fit into memory at once are taken block by block, with the same scores."""

import numpy as np
import pytest

from steelyard import score
from steelyard.collect import gradients
from tests.laws.test_methods import problem


@pytest.mark.parametrize("name", ["grad_dot", "grad_cos", "tracin", "gauss_newton", "kfac", "ekfac"])
def test_blocks_of_queries_give_the_same_scores(name: str, monkeypatch, tmp_path) -> None:
    from steelyard.run import open_run

    whole = score.by_name(name, {})(problem(name))
    p = problem(name)
    size = int(p.learner.settings()["parameters"])
    monkeypatch.setattr(gradients, "_QUERY_SIDE_NUMBERS", 3 * size)
    assert gradients.queries_within_memory(p) == 3 < len(p.query)
    with open_run(tmp_path / "run", {"a": 1}, show="quiet") as run:
        blocks = score.by_name(name, {})(p, run)
        np.testing.assert_allclose(blocks.values, whole.values, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(blocks.query_ids, whole.query_ids)
