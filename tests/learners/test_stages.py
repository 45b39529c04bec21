"""Trainings in stages: one recipe after the other, each on its own examples."""

import json

import numpy as np
import pytest
import torch

from steelyard.errors import DataError, FitError, SettingError
from steelyard.learners import SGD, AdamW, Stage, Stages, Torch
from steelyard.learners.recipes import recipe_settings
from tests.learners.test_torch_training import RECIPES, apart, assert_same
from tests.learners.torch_cases import blobs, mlp

PART = np.array(["web", "books", "code"])


def parted(count: int = 30):
    data = blobs(count)
    return data.with_column("part", PART[np.arange(count) % 3], f"parted-{count}")


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_one_stage_is_its_recipe_bit_by_bit(recipe):
    data, net = blobs(30), mlp()
    one, other = (Torch(net, recipe=r).fit(data, seed=3) for r in (recipe, Stages((recipe,))))
    assert_same(one.parameters, other.parameters)
    assert one.losses == other.losses


def test_two_stages_are_two_trainings_the_second_from_where_the_first_ended():
    data, net = parted(), mlp()
    first, second = SGD(lr=0.1, epochs=2, batch_size=8), SGD(lr=0.05, epochs=1, batch_size=None)
    stages = Stages((first, Stage(second, column="part", values=("books",))))
    fitted = Torch(net, recipe=stages).fit(data, seed=3)
    before = Torch(net, recipe=first).fit(data, seed=3)
    middle, end = fitted.checkpoints
    assert_same(middle.parameters, before.parameters)
    model = mlp()
    model.load_state_dict(before.parameters)
    own = data.take(np.flatnonzero(data.columns["part"] == "books"))
    # A full batch has no order, so the second stage by itself is the same but for rounding.
    after = Torch(model, recipe=second, start="given").fit(own, seed=3)
    assert_same(fitted.parameters, after.parameters, atol=1e-7)
    assert [(p.stage, p.step) for p in fitted.checkpoints] == [(0, 8), (1, 9)]
    assert middle.learning_rate == pytest.approx(0.8)
    assert end.learning_rate == pytest.approx(0.05)
    assert len(fitted.losses) == 3


def test_every_stage_begins_with_a_new_optimiser():
    data, net = blobs(30), mlp()
    adam = AdamW(lr=0.01, epochs=2, batch_size=8)
    twice = Torch(net, recipe=Stages((adam, adam))).fit(data, seed=3)
    assert twice.moments.step == 8
    long = Torch(net, recipe=AdamW(lr=0.01, epochs=4, batch_size=8)).fit(data, seed=3)
    assert long.moments.step == 16
    assert apart(twice.parameters, long.parameters) > 1e-5
    assert Torch(net, recipe=Stages((adam, RECIPES[0]))).fit(data).moments is None


def test_an_absent_example_changes_nothing_in_any_stage():
    data, stages = parted(), Stages((RECIPES[1], Stage(RECIPES[3], column="part", values=("web", "code"))))
    learner = Torch(mlp(), recipe=stages)
    weights = np.where(np.arange(30) % 4 == 0, 0.0, 1.0)
    one = learner.fit(data, weights=weights, seed=5)
    other = learner.fit(data.take(np.flatnonzero(weights)), seed=5)
    assert_same(one.parameters, other.parameters)


def test_stages_by_id_and_by_number():
    data = blobs(12).with_column("fold", np.arange(12) % 2, "folds")
    plain = SGD(lr=0.1, epochs=1, batch_size=None)
    by_id = Stage(plain, column="id", values=tuple(str(name) for name in data.ids[::2]))
    by_number = Stage(plain, column="fold", values=(0,))
    net = mlp()
    one, other = (Torch(net, recipe=Stages((plain, stage))).fit(data) for stage in (by_id, by_number))
    assert_same(one.parameters, other.parameters)


def test_spans_tell_steps_and_examples():
    data, net = parted(), mlp()
    first = SGD(lr=0.1, epochs=2, batch_size=8, checkpoints=2)
    learner = Torch(net, recipe=Stages((first, Stage(RECIPES[3], column="part", values=("code",)))))
    spans = learner.spans(learner.fit(data), data)
    assert [span.stage for span in spans] == [0, 0, 1]
    assert [len(span.rows) for span in spans] == [30, 30, 10]
    np.testing.assert_array_equal(spans[2].rows, np.flatnonzero(data.columns["part"] == "code"))
    assert spans[2].recipe == RECIPES[3]
    again = learner.spans(learner.restore(learner.dump(learner.fit(data))), data)
    assert [span.stage for span in again] == [0, 0, 1]
    assert torch.equal(again[1].fitted.parameters["0.weight"], spans[1].fitted.parameters["0.weight"])


def test_settings_are_plain_and_tell_stages_apart():
    stages = Stages((SGD(lr=0.1, epochs=2), Stage(AdamW(epochs=1), column="part", values=("web",))))
    settings = recipe_settings(stages)
    assert json.loads(json.dumps(settings))["stages"][1]["values"] == ["web"]
    assert [stage["recipe"] for stage in settings["stages"]] == ["SGD", "AdamW"]
    net = mlp()
    marks = {
        Torch(net, recipe=Stages((SGD(lr=0.1, epochs=2), Stage(AdamW(epochs=1), column="part", values=(v,)))))
        .fingerprint()
        for v in ("web", "code")
    }  # fmt: skip
    assert len(marks) == 2


def test_the_penalty_is_that_of_the_last_stage():
    decayed, data = SGD(lr=0.1, epochs=1, weight_decay=0.25), blobs(12)
    learner = Torch(mlp(), recipe=Stages((AdamW(epochs=1), decayed)))
    assert learner.regularisation(learner.fit(data)) == 0.25


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Stages(()), "no stage"),
        (lambda: Stage(RECIPES[0], column="part"), "values=\\(\\)"),
        (lambda: Stage(RECIPES[0], values=("web",)), "column=None"),
    ],
)
def test_stages_without_meaning_are_refused(make, says):
    with pytest.raises(SettingError, match=says):
        make()


def test_a_stage_that_nobody_takes_part_in_is_named():
    data = parted()
    with pytest.raises(FitError, match="stage 2 of 2"):
        stage = Stage(RECIPES[0], column="part", values=("nowhere",))
        Torch(mlp(), recipe=Stages((RECIPES[0], stage))).fit(data)
    with pytest.raises(DataError, match="there is no column 'split'"):
        Torch(mlp(), recipe=Stages((Stage(RECIPES[0], column="split", values=("a",)),))).fit(data)
    with pytest.raises(DataError, match="holds text"):
        Torch(mlp(), recipe=Stages((Stage(RECIPES[0], column="part", values=(1,)),))).fit(data)
