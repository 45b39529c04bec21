"""The gradient store: what is kept is what was computed, however it was built; and nothing is answered wrongly."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import steelyard as sy
from steelyard import flow
from steelyard.collect import store_search
from steelyard.collect.store import (
    Store,
    StoreSettings,
    open_store,
    restored,
    rounded,
    shard_path,
    write_store_manifest,
)
from steelyard.errors import CapabilityError, DataError, NumericsError, RunError, SettingError, ShapeError
from steelyard.learners import SGD, Torch
from steelyard.maths.ranks import spearman
from steelyard.problem import Problem
from steelyard.score import GradCos, GradDot, LoGra

COUNT, QUERIES = 90, 6


def arrays(count: int = COUNT, *, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 12)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] ** 2 > 0.5).astype(np.int64)
    if count > 20:
        x[17], y[17] = x[4], y[4]
    return {"input": x, "label": y}


def net(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 2)
    )


def problem(train: dict | None = None, *, seed: int = 1, **settings) -> Problem:
    learner = Torch(net(seed), trained=True, **settings)
    given = arrays() if train is None else train
    return Problem(learner, sy.read(given), sy.read(arrays(QUERIES, seed=9)))


def contents(store: Store) -> np.ndarray:
    """All rows, restored."""
    return np.concatenate([rows.copy() for _, rows in store_search.pieces_of(store)])


def table(answer: flow.IndexAnswer) -> list[tuple]:
    return [row[:4] for row in answer.top.iter_rows()]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_rounding_is_undone_up_to_the_number_type(dtype: str) -> None:
    rng = np.random.default_rng(0)
    columns = (slice(0, 5), slice(5, 13), slice(13, 14))
    rows = rng.normal(size=(20, 14)).astype(np.float32) * np.repeat([1e-9, 1e4, 1.0], [5, 8, 1]).astype(
        np.float32
    )
    rows[3] = 0.0
    rows[4, :5] = 0.0
    data, scales = rounded(rows, columns, dtype)
    assert data.dtype == np.dtype(dtype)
    back = restored(data, scales, columns)
    for part in columns:
        largest = np.abs(rows[:, part]).max(axis=1, keepdims=True)
        step = {"float32": 0.0, "float16": 2.0**-11, "int8": 0.5 / 127}[dtype]
        assert (np.abs(back[:, part] - rows[:, part]) <= step * largest * 1.001).all()


def test_a_float32_store_scores_like_the_methods(tmp_path: Path) -> None:
    """Influence is LoGra's, products are grad-dot's at full rank, cosines grad-cos's."""
    weights = np.random.default_rng(3).choice([0.0, 0.5, 1.0, 2.0], COUNT)
    p = problem({**arrays(), "weight": weights})
    p = replace_query(p)
    for rank, method, score in (
        (4, LoGra(rank=4, init="random"), "influence"),
        (64, GradDot(), "dot"),
        (64, GradCos(), "cosine"),
    ):
        folder = tmp_path / f"{score}"
        flow.build_index(p, folder, StoreSettings(dimension=rank**2, dtype="float32"))
        expected = method(p)
        answer = flow.query_index(p, folder, top=COUNT, score=score)
        found = {(q, t): s for q, side, _, t, s in answer.top.iter_rows() if side == "proponent"}
        for i, name in enumerate(expected.train_ids):
            for j, query in enumerate(expected.query_ids):
                np.testing.assert_allclose(
                    found[query, name],
                    expected.values[i, j],
                    rtol=2e-3,
                    atol=2e-5 * np.abs(expected.values).max(),
                )


def replace_query(p: Problem) -> Problem:
    query = p.query.with_column("weight", np.ones(QUERIES), "w")
    return Problem(p.learner, p.train, query)


def test_int8_agrees_with_float32_and_says_how_well(tmp_path: Path) -> None:
    p = problem()
    exact = flow.build_index(p, tmp_path / "f", StoreSettings(dimension=64, dtype="float32"))
    rows = contents(exact)
    for dtype, least in (("int8", 0.98), ("float16", 0.9999)):
        store = flow.build_index(p, tmp_path / dtype, StoreSettings(dimension=64, dtype=dtype))
        stored = contents(store)
        agreement = store.manifest.parts[0].agreement
        asked = rows[:: COUNT // 32][:32]
        found = spearman(rows @ asked.T, stored @ asked.T)
        np.testing.assert_allclose(agreement["spearman_mean"], found.mean(), atol=1e-3)
        np.testing.assert_allclose(agreement["spearman_least"], found.min(), atol=1e-3)
        assert found.min() > least
        assert store.nbytes < exact.nbytes


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_appending_is_building_at_once(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steelyard.collect.store_build._SHARD_ROWS", 16)
    settings = StoreSettings(dimension=36, dtype=dtype)
    given = arrays() | {"id": np.array([f"t{i}" for i in range(COUNT)])}
    pieces = [
        {name: values[rows] for name, values in given.items()} for rows in (slice(0, 37), slice(37, COUNT))
    ]
    whole = flow.build_index(problem(given), tmp_path / "whole", settings)
    flow.build_index(problem(pieces[0]), tmp_path / "grown", settings)
    with pytest.raises(RunError, match="--append"):
        flow.build_index(problem(pieces[1]), tmp_path / "grown", settings)
    grown = flow.build_index(problem(pieces[1]), tmp_path / "grown", settings, append=True)
    np.testing.assert_array_equal(grown.ids, whole.ids)
    step = 0 if dtype == "float32" else 1.01 / 127
    np.testing.assert_allclose(
        contents(grown), contents(whole), atol=1e-5 + step * np.abs(contents(whole)).max()
    )
    np.testing.assert_allclose(grown.lengths, whole.lengths, rtol=1e-4)
    ask = [flow.query_index(problem(given), tmp_path / name, top=3) for name in ("whole", "grown")]
    if dtype == "float32":
        assert table(ask[0]) == table(ask[1])
    # The same command again adds nothing, with or without the option.
    for append in (True, False):
        again = flow.build_index(problem(pieces[1]), tmp_path / "grown", settings, append=append)
        assert len(again) == COUNT


def test_the_second_moment_follows_what_is_appended(tmp_path: Path) -> None:
    settings = StoreSettings(dimension=16, dtype="float32")
    first, second = arrays(30), arrays(40, seed=5)
    for given in (first, second):
        flow.build_index(problem(given), tmp_path / "s", settings, append=True)
        flow.query_index(problem(given), tmp_path / "s", top=1)
    store = open_store(tmp_path / "s")
    rows, part = contents(store), store.manifest.columns[0]
    found = store_search.second_moments(store)[0]
    np.testing.assert_allclose(found, rows[:, part].T @ rows[:, part] / 70, rtol=1e-4, atol=1e-7)
    assert [path.name for path in (tmp_path / "s").glob("moments-*")] == ["moments-70.npy"]


def test_copies_keep_their_own_rows(tmp_path: Path) -> None:
    """Ids made from content: a copy within a file or in a later one is a row of its own."""
    given = arrays(24)
    store = flow.build_index(problem(given), tmp_path / "s", StoreSettings(dimension=16))
    assert len(set(store.ids)) == 24
    np.testing.assert_array_equal(contents(store)[4], contents(store)[17])
    later = {name: values[[4, 5, 17]] for name, values in given.items()}
    grown = flow.build_index(problem(later), tmp_path / "s", StoreSettings(dimension=16), append=True)
    assert len(grown) == len(set(grown.ids)) == 27
    base = str(store.ids[4])
    assert sorted(name for name in grown.ids if name.startswith(base)) == [
        base,
        *(f"{base}-{k}" for k in (1, 2, 3)),
    ]
    named = {**given, "id": np.array([f"t{i}" for i in range(24)])}
    flow.build_index(problem(named), tmp_path / "n", StoreSettings(dimension=16))
    again = {name: values[3:5] for name, values in named.items()}
    with pytest.raises(DataError, match="'t3'"):
        flow.build_index(problem(again), tmp_path / "n", StoreSettings(dimension=16), append=True)


def test_another_model_and_other_settings_are_refused(tmp_path: Path) -> None:
    settings = StoreSettings(dimension=16)
    flow.build_index(problem(), tmp_path / "s", settings)
    other = problem(seed=2)
    with pytest.raises(RunError, match="another model"):
        flow.query_index(other, tmp_path / "s")
    with pytest.raises(RunError, match="another model"):
        flow.build_index(other, tmp_path / "s", settings)
    with pytest.raises(RunError, match="another model"):
        flow.query_index(problem(measurement="margin"), tmp_path / "s")
    with pytest.raises(RunError, match="dtype='int8', not 'float16'"):
        flow.build_index(problem(), tmp_path / "s", replace(settings, dtype="float16"))


def test_a_model_that_is_trained_here_is_kept(tmp_path: Path) -> None:
    """Queries ask the very model that was stored, without the training examples and without a fit."""
    recipe = SGD(lr=0.1, epochs=2, batch_size=16, weight_decay=0.01)
    p = Problem(Torch(net(), recipe=recipe), sy.read(arrays()), sy.read(arrays(QUERIES, seed=9)))
    store = flow.build_index(p, tmp_path / "s", StoreSettings(dimension=16, dtype="float32"))
    assert store.manifest.l2 == 0.01
    run = sy.run.in_memory()
    alone = Problem(Torch(net(), recipe=recipe), p.query, p.query)
    answer = flow.query_index(alone, tmp_path / "s", top=COUNT, run=run)
    assert run.cost.fits == 0
    expected = LoGra(rank=4, init="random")(p)
    found = {(q, t): s for q, side, _, t, s in answer.top.iter_rows() if side == "proponent"}
    for i, name in enumerate(expected.train_ids):
        np.testing.assert_allclose(
            [found[query, name] for query in expected.query_ids],
            expected.values[i],
            rtol=2e-3,
            atol=2e-5 * np.abs(expected.values).max(),
        )


def test_text_labels_mean_the_same_later(tmp_path: Path) -> None:
    given = arrays()
    given["label"] = np.where(given["label"] == 1, "yes", "no")
    only = {name: values[given["label"] == "yes"][:3] for name, values in given.items()}
    p = Problem(Torch(net(), trained=True), sy.read(given), sy.read(only))
    flow.build_index(p, tmp_path / "s", StoreSettings(dimension=16, dtype="float32"))
    alone = Problem(Torch(net(), trained=True), sy.read(only), sy.read(only))
    both = [flow.query_index(q, tmp_path / "s", top=4) for q in (p, alone)]
    assert table(both[0]) == table(both[1])


def test_layers_are_chosen_and_features_limited(tmp_path: Path) -> None:
    p = problem()
    every = flow.build_index(p, tmp_path / "every", StoreSettings(dimension=64))
    assert every.manifest.names == ("0", "3", "5", "vectors")
    some = flow.build_index(p, tmp_path / "some", StoreSettings(dimension=64, modules=("[35]",)))
    assert some.manifest.names == ("3", "5")
    tight = flow.build_index(p, tmp_path / "tight", StoreSettings(dimension=64, features=100))
    assert tight.width <= 100 < every.width
    with pytest.raises(SettingError, match=r"'\*\.mlp\.\*'"):
        flow.build_index(p, tmp_path / "none", StoreSettings(modules=("*.mlp.*",)))
    with pytest.raises(SettingError, match="4 layers"):
        flow.build_index(p, tmp_path / "few", StoreSettings(features=3))


@pytest.mark.parametrize("cosine", [False, True])
def test_streamed_top_is_that_of_the_whole_matrix(
    tmp_path: Path, cosine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steelyard.collect.store_build._SHARD_ROWS", 13)
    store = flow.build_index(problem(), tmp_path / "s", StoreSettings(dimension=16))
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(5, store.width))
    scale = 1 / store.lengths if cosine else store.weights
    whole = contents(store) @ queries.T * scale[:, None]
    found = store_search.search(store, queries, 7, cosine=cosine)
    order = np.argsort(-whole, axis=0, kind="stable")
    np.testing.assert_array_equal(found.high.rows, order[:7])
    np.testing.assert_allclose(found.low.values, np.sort(whole, axis=0)[:7], rtol=1e-4, atol=1e-5)
    every = np.concatenate([block for _, block in store_search.products(store, queries, cosine=cosine)])
    np.testing.assert_allclose(every, whole, rtol=1e-4, atol=1e-5)


def test_many_queries_in_few_directions(tmp_path: Path) -> None:
    store = flow.build_index(problem(), tmp_path / "s", StoreSettings(dimension=16))
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(40, 3)) @ rng.normal(size=(3, store.width))
    queries += 1e-4 * rng.normal(size=queries.shape)
    few = store_search.low_rank(queries, 0.9999)
    assert few.basis.shape == (3, store.width)
    np.testing.assert_allclose(
        few.error, np.linalg.norm(queries - few.coefficients @ few.basis) / np.linalg.norm(queries), rtol=1e-2
    )
    exact, close = (
        np.concatenate([block for _, block in store_search.products(store, asked)])
        for asked in (queries, few)
    )
    assert np.abs(exact - close).max() < 1e-3 * np.abs(exact).max()
    whole = store_search.low_rank(queries, 1)
    np.testing.assert_allclose(whole.coefficients @ whole.basis, queries, rtol=1e-3, atol=1e-4)
    assert store_search.low_rank(np.zeros((4, 5)), 0.9).error == 0.0
    for share in (0.0, 1.5):
        with pytest.raises(SettingError, match="energy"):
            store_search.low_rank(queries, share)


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    store = flow.build_index(problem(), folder, StoreSettings(dimension=16))
    store.verify()
    path = shard_path(folder, 0, 0)
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(RunError, match="checksum"):
        open_store(folder).verify()
    path.unlink()
    with pytest.raises(RunError, match=path.name):
        open_store(folder)
    path.with_suffix(".npz").write_bytes(b"no archive")
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match="damaged"):
        open_store(folder)
    (folder / "store.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        open_store(folder)
    (folder / "store.json").write_text(json.dumps({"steelyard": "store", "format": 99}))
    with pytest.raises(RunError, match="format 99"):
        open_store(folder)
    (folder / "store.json").write_text("[]")
    with pytest.raises(RunError, match="not written by"):
        open_store(folder)
    with pytest.raises(RunError, match="not a gradient store"):
        open_store(tmp_path)


def test_what_cannot_be_built_or_asked(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    linear = Problem(sy.learners.Sklearn(LogisticRegression()), sy.read(arrays()), sy.read(arrays(3)))
    with pytest.raises(CapabilityError, match="network"):
        flow.build_index(linear, tmp_path / "s")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(RunError, match="not a gradient store"):
        flow.build_index(problem(), tmp_path / "full")
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    store = flow.build_index(problem(), tmp_path / "t", StoreSettings(dimension=16))
    with pytest.raises(ShapeError):
        store_search.search(store, np.ones((1, 3)), 1)
    with pytest.raises(NumericsError, match="not finite|is nan|is inf"):
        store_search.search(store, np.full((1, store.width), np.inf), 1)
    for wrong in ({"top": 0}, {"score": "magic"}, {"damping": -1.0}, {"energy": 2.0}):
        with pytest.raises(SettingError):
            flow.query_index(problem(), tmp_path / "t", **wrong)
    unfinished = replace(store.manifest, parts=(replace(store.manifest.parts[0], finished=False),))
    write_store_manifest(store.folder, unfinished)
    with pytest.raises(RunError, match="not finished: 1 of 1"):
        open_store(store.folder)


BUILD = """
import sys, numpy as np, torch
import steelyard as sy
from steelyard import flow
from steelyard.collect.store import StoreSettings
import steelyard.collect.store_build as build
from tests.collect.test_store import problem, arrays
torch.set_num_threads(1)
build._SHARD_ROWS = 8
flow.build_index(problem(arrays(400)), sys.argv[1], StoreSettings(dimension=36, dtype=sys.argv[2]))
"""


def start(folder: Path, dtype: str) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(folder), dtype], env={**os.environ, "PYTHONPATH": path}
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_killed_build_goes_on_with_the_same_bits(tmp_path: Path, dtype: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, dtype).wait() == 0
    for target in (3, 20, 41):
        process = start(killed, dtype)
        while process.poll() is None and sum(1 for _ in killed.glob("part-0000/shard-*.npy")) < target:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            with pytest.raises(RunError, match="not finished|not a gradient store"):
                open_store(killed)
    assert start(killed, dtype).wait() == 0
    for path in sorted(whole.glob("part-0000/*.npy")):
        assert path.read_bytes() == (killed / "part-0000" / path.name).read_bytes(), path.name
    before, after = (json.loads((folder / "store.json").read_text()) for folder in (whole, killed))
    assert before["parts"] == after["parts"]
