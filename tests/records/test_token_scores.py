"""Scores taken apart, as records: they sum to scores, and come back from disk as they were."""

import numpy as np
import pytest

from steelyard.errors import DataError, ShapeError
from steelyard.records import Measurement, Provenance
from steelyard.records.token_scores import PartScores, TokenScores

LOSS = Measurement("loss", "nats", lower_is_better=True)
HOSTILE = "<script>alert('\u202e')</script>\ud83d\ude00 \x1b[31m"


def token_scores(**changes) -> TokenScores:
    given = {
        "train_ids": np.array(["a", "b"]),
        "query_ids": np.array(["q", "q"]),
        "offsets": np.array([0, 3, 3]),
        "values": np.array([1.0, -2.0, 0.25]),
        "spans": np.array([[0, 2], [2, 7], [7, 7]]),
        "rest": np.array([0.5, -1.0]),
        "texts": {"a": HOSTILE.encode("utf-16", "surrogatepass").decode("utf-16"), "b": ""},
        "method": "GradDot()",
        "unit": "rank",
        "measurement": LOSS,
        "provenance": Provenance(notes=("one",)),
    }
    return TokenScores(**{**given, **changes})


def part_scores(**changes) -> PartScores:
    given = {
        "by": "layer",
        "train_ids": np.array(["a", "b"]),
        "query_ids": np.array(["q", "r"]),
        "parts": ("layers.0", "layers.1"),
        "values": np.array([[1.0, 2.0], [3.0, -4.0]]),
        "rest": np.array([0.25, 0.0]),
        "method": "EKFAC()",
        "unit": "nats",
        "measurement": LOSS,
    }
    return PartScores(**{**given, **changes})


def test_parts_and_rest_sum_to_the_scores():
    assert token_scores().scores().tolist() == [-0.25, -1.0]
    assert part_scores().scores().tolist() == [3.25, -1.0]


def test_tokens_of_a_pair_are_found_by_its_ids():
    found = token_scores().of("a", "q")
    assert found is not None and found[0].tolist() == [1.0, -2.0, 0.25] and found[1].tolist()[1] == [2, 7]
    assert token_scores().of("a", "r") is None


@pytest.mark.parametrize("scores", [token_scores(), part_scores()], ids=["tokens", "parts"])
def test_what_is_saved_comes_back(scores, tmp_path):
    again = type(scores).load(scores.save(tmp_path / "kept"))
    for name in vars(scores):
        one, other = getattr(scores, name), getattr(again, name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name


# Values and spans of other lengths are refused by jaxtyping before, where it runs.
@pytest.mark.parametrize("changes", [{"rest": np.zeros(3)}, {"offsets": np.array([0, 3])}])
def test_arrays_that_disagree_are_refused(changes):
    with pytest.raises(ShapeError, match="one value and span per token"):
        token_scores(**changes)


def test_one_row_per_pair_and_one_column_per_part():
    with pytest.raises(ShapeError, match="one column per part"):
        part_scores(parts=("layers.0",))


def test_a_folder_without_them_or_with_others_says_so(tmp_path):
    with pytest.raises(DataError, match="missing"):
        TokenScores.load(tmp_path / "nothing")
    part_scores().save(tmp_path / "parts")
    with pytest.raises(DataError, match="not token scores"):
        TokenScores.load(tmp_path / "parts")
