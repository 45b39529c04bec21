"""Records: ids, shapes, saving, plans that can be undone, top-k without the matrix."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import DataError, NumericsError, ShapeError, SteelyardError
from steelyard.records import Cost, Evidence, Examples, Measurement, Plan, Provenance, Scores
from steelyard.records.top import extremes

LOSS = Measurement("loss", "nats", lower_is_better=True)


def examples(count: int = 6) -> Examples:
    ids = np.array([f"e{i}" for i in range(count)])
    columns = {"input": np.arange(count * 2.0).reshape(count, 2), "label": np.arange(count) % 3}
    return Examples(ids=ids, columns=columns, inputs=("input",), label="label", checksum="c0")


def scores(values: np.ndarray, **changes) -> Scores:
    train = np.array([f"e{i}" for i in range(len(values))])
    query = np.array([f"q{j}" for j in range(values.shape[1])])
    settings = {"method": "Fixed(a=1)", "unit": "nats", "measurement": LOSS, **changes}
    return Scores(values=values, train_ids=train, query_ids=query, **settings)


def test_columns_and_ids_must_agree() -> None:
    with pytest.raises(ShapeError, match="column 'input' has 2 rows, but there are 3 ids"):
        Examples(np.array(["a", "b", "c"]), {"input": np.zeros(2)}, ("input",), None, "c")
    with pytest.raises(DataError, match=r"no column 'text'; the columns are 'input', 'label'"):
        examples().column("text")


def test_positions_by_id_and_unknown_ids() -> None:
    found = examples().positions(np.array(["e4", "e0"]))
    np.testing.assert_array_equal(found, [4, 0])
    with pytest.raises(DataError, match="no example has the id 'zz'"):
        examples().positions(np.array(["e1", "zz"]))


def test_subsets_have_their_own_checksum() -> None:
    whole = examples()
    assert whole.take(slice(0, 3)).checksum != whole.take(slice(0, 4)).checksum
    assert whole.take(np.array([1, 2])).checksum == whole.take(slice(1, 3)).checksum
    np.testing.assert_array_equal(whole.take(np.array([5, 1])).labels(), [2, 1])


def test_weights_are_checked() -> None:
    np.testing.assert_array_equal(examples().weights(), np.ones(6))
    weighted = examples().with_column("weight", np.array([1, 2, 0, 1, 1, -1.0]), "c1")
    with pytest.raises(DataError, match=r"example 'e5' has weight -1"):
        weighted.weights()


def test_scores_name_axes_and_refuse_other_shapes() -> None:
    with pytest.raises(
        ShapeError, match=r"values have shape \(2, 3\), but there are 3 training ids and 2 query ids"
    ):
        Scores(np.zeros((2, 3)), np.array(["a", "b", "c"]), np.array(["q", "r"]), "M()", "nats", LOSS)


def test_scores_that_are_not_finite_name_the_pair() -> None:
    values = np.zeros((3, 2))
    values[2, 1] = np.nan
    with pytest.raises(NumericsError, match=r"training example 'e2' for query 'q1' is nan"):
        scores(values).check_finite()


def test_top_lists_proponents_then_opponents_per_query() -> None:
    values = np.array([[1.0, -4.0], [3.0, 2.0], [-2.0, 0.0]])
    frame = scores(values).top(2)
    rows = frame.rows()
    assert rows[0] == ("q0", "proponent", 1, "e1", 3.0)
    assert rows[2] == ("q0", "opponent", 1, "e2", -2.0)
    assert rows[6] == ("q1", "opponent", 1, "e0", -4.0)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    k=st.integers(1, 6),
    size=st.integers(1, 40),
    highest=st.booleans(),
)
def test_extremes_equal_a_full_sort(values: list[int], k: int, size: int, highest: bool) -> None:
    matrix = np.array([values, values[::-1]], dtype=float).T
    blocks = [(start, matrix[start : start + size]) for start in range(0, len(matrix), size)]
    found = extremes(blocks, k, highest=highest)
    for j in range(2):
        order = np.argsort(-matrix[:, j] if highest else matrix[:, j], kind="stable")[:k]
        np.testing.assert_array_equal(found.rows[:, j], order)
        np.testing.assert_array_equal(found.values[:, j], matrix[order, j])


def test_rank_scores_are_averaged_as_ranks() -> None:
    values = np.array([[1.0, 1000.0], [2.0, 0.0], [3.0, 1.0]])
    similarity = scores(values, unit="rank").per_example()
    np.testing.assert_allclose(similarity, [0.0, -0.5, 0.5])
    np.testing.assert_allclose(scores(values).per_example(), values.mean(1))


def test_harm_turns_the_suspect_end_up() -> None:
    one = scores(np.array([[1.0], [2.0]]), axis="example", suspect="high")
    np.testing.assert_array_equal(one.harm(), [1.0, 2.0])
    np.testing.assert_array_equal(scores(np.array([[1.0], [2.0]])).harm(), [-1.0, -2.0])


def test_scores_survive_saving(tmp_path) -> None:
    provenance = Provenance(given={"damping": "auto"}, seeds={"problem": 3}, cost=Cost(gradients=7.0, fits=2))
    before = scores(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), provenance=provenance)
    after = Scores.load(before.save(tmp_path / "s"))
    np.testing.assert_array_equal(after.values, before.values)
    assert isinstance(after.values, np.memmap)
    assert after.provenance == before.provenance
    assert "positive = removing" in json.loads((tmp_path / "s" / "scores.json").read_text())["direction"]
    with pytest.raises(DataError, match="holds no scores"):
        (tmp_path / "other").mkdir()
        before.save(tmp_path / "other")
    with pytest.raises(DataError, match="no scores here"):
        Scores.load(tmp_path / "other")


def test_plans_apply_and_revert(tmp_path) -> None:
    train = examples()
    drop = Plan("drop", np.array(["e1", "e4"]), ("bad", "worse"), train.checksum)
    applied = drop.apply(train)
    assert applied.ids.tolist() == ["e0", "e2", "e3", "e5"]
    assert drop.revert(applied, train) is train
    with pytest.raises(DataError, match="not the result of applying"):
        drop.revert(train, train)
    keep = Plan("keep", np.array(["e1"]), ("good",), train.checksum)
    assert keep.apply(train).ids.tolist() == ["e1"]
    weigh = Plan("weigh", np.array(["e1"]), ("heavy",), train.checksum, weights=np.array([2.5]))
    np.testing.assert_array_equal(weigh.apply(train).weights(), [1, 2.5, 1, 1, 1, 1])
    relabel = Plan(
        "relabel", np.array(["e0"]), ("flipped",), "c0", labels=np.array([2]), previous=np.array([0])
    )
    changed = relabel.apply(train)
    assert changed.labels()[0] == 2
    assert train.labels()[0] == 0
    back = relabel.inverse(train).apply(changed)
    np.testing.assert_array_equal(back.labels(), train.labels())
    loaded = Plan.load(relabel.save(tmp_path / "plan.jsonl"))
    assert loaded.apply(train).checksum == changed.checksum
    assert loaded.reasons == ("flipped",)


def test_plans_refuse_other_data_and_missing_parts() -> None:
    other = Plan("drop", np.array(["e1"]), ("bad",), "another")
    with pytest.raises(DataError, match="made for a training set with checksum another"):
        other.apply(examples())
    with pytest.raises(ShapeError, match="gives 0 reasons"):
        Plan("drop", np.array(["e1"]), (), "c0")
    with pytest.raises(ShapeError, match="needs labels"):
        Plan("relabel", np.array(["e1"]), ("r",), "c0")
    with pytest.raises(DataError, match="cannot be undone from its result"):
        Plan("drop", np.array(["e1"]), ("bad",), "c0").inverse(examples())


def test_evidence_survives_saving_and_speaks(tmp_path) -> None:
    before = Evidence(
        metric="lds", subject="EKFAC()", estimate=0.42, interval=(0.3, 0.5), level=0.95, unit="correlation",
        better="higher", control={"estimate": 0.01}, p_value=0.002, verdict="confirmed",
        power="Sees correlations above 0.1.", table={"query": ["q0"], "rho": [0.42]},
    )  # fmt: skip
    after = Evidence.load(before.save(tmp_path / "lds.json"))
    assert after == before
    assert before.summary().startswith(
        "lds of EKFAC(): 0.42 correlation [0.3, 0.5] at 95%; random control 0.01"
    )


def test_errors_carry_their_fix_through_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(DataError("line 3 is broken", fix="mend it")))
    assert isinstance(error, SteelyardError)
    assert str(error) == "line 3 is broken\n  fix: mend it"


def test_costs_add_up() -> None:
    total = Cost(gradients=2.0, fits=1, seconds=1.0, peak_bytes=5) + Cost(
        gradients=1.0, seconds=2.0, peak_bytes=3
    )
    assert total == Cost(gradients=3.0, fits=1, seconds=3.0, peak_bytes=5)
