"""The torch learner: what it measures, what it knows of its losses, and what it keeps."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steelyard.errors import CapabilityError, DataError, ModelError, SettingError
from steelyard.learners import SGD, Adam, AdamW, Loss, Torch
from steelyard.problem import (
    HasCheckpoints,
    HasCurvature,
    HasEmbeddings,
    HasGradients,
    HasPredictions,
    HasState,
    Learner,
    Problem,
)
from steelyard.records import Measurement
from tests.learners.torch_cases import Scaled, Tokens, TwoInputs, blobs, examples, mlp

RECIPE = SGD(lr=0.1, epochs=3, batch_size=16)
ACCURACY = Measurement("accuracy", "accuracy", lower_is_better=False)


def accuracy(model, batch):
    return (model(batch["input"]).argmax(1) == batch["label"]).float()


def own_loss(model, batch):
    return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")


def logits_of(learner, fitted, data):
    with torch.no_grad():
        return learner.load(fitted)(torch.from_numpy(np.asarray(data.columns["input"]))).double()


def regression(count=30, outputs=3):
    random = np.random.default_rng(0)
    values = random.normal(size=(count, 4)).astype(np.float32)
    return examples({"input": values, "label": random.normal(size=(count, outputs)).astype(np.float32)})


def test_it_is_a_learner_with_every_capability():
    learner = Torch(mlp(), recipe=RECIPE)
    for capability in (
        Learner,
        HasPredictions,
        HasEmbeddings,
        HasCheckpoints,
        HasState,
        HasGradients,
        HasCurvature,
    ):
        assert isinstance(learner, capability)


def test_a_problem_is_made_of_it():
    problem = Problem(Torch(mlp(), recipe=RECIPE), train=blobs(30), query=blobs(6, seed=1, prefix="q"))
    assert set(problem.checksums()) == {"train", "query", "learner"}


@pytest.mark.parametrize(
    ("name", "unit", "lower", "of"),
    [
        ("loss", "nats", True, lambda z, y: F.cross_entropy(z, y, reduction="none")),
        ("log_probability", "nats", False, lambda z, y: z.log_softmax(1)[torch.arange(len(y)), y]),
        (
            "margin",
            "logits",
            False,
            lambda z, y: torch.stack(
                [
                    row[k] - torch.cat([row[:k], row[k + 1 :]]).logsumexp(0)
                    for row, k in zip(z, y, strict=True)
                ]
            ),
        ),
    ],
)
def test_named_measurements(name, unit, lower, of):
    data, queries = blobs(40), blobs(20, seed=3, prefix="q")
    learner = Torch(mlp(), measurement=name, recipe=RECIPE)
    fitted = learner.fit(data)
    expected = of(logits_of(learner, fitted, queries), torch.from_numpy(queries.columns["label"]))
    np.testing.assert_allclose(learner.measure(fitted, queries), expected.numpy(), atol=1e-5)
    assert learner.measurement == Measurement(name, unit, lower_is_better=lower)


def test_a_margin_has_the_gradient_of_the_log_odds():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 3, 1, 2, 2])
    from steelyard.learners.torch_losses import margin

    probability = logits.softmax(1)[torch.arange(5), label]
    expected = torch.autograd.grad((probability.log() - (1 - probability).log()).sum(), logits)[0]
    torch.testing.assert_close(torch.autograd.grad(margin(logits, label).sum(), logits)[0], expected)


def test_a_measurement_of_the_users_own():
    data = blobs(40)
    learner = Torch(mlp(), measurement=(accuracy, ACCURACY), recipe=RECIPE)
    fitted = learner.fit(data)
    expected = learner.probabilities(fitted, data).argmax(1) == data.columns["label"]
    np.testing.assert_array_equal(learner.measure(fitted, data), expected.astype(float))
    assert learner.measurement is ACCURACY


def test_a_loss_of_the_users_own_trains_like_the_named_one():
    data = blobs(40)
    one, other = Torch(mlp(), recipe=RECIPE), Torch(mlp(), loss=own_loss, recipe=RECIPE)
    expected, found = one.fit(data), other.fit(data)
    for name, value in expected.parameters.items():
        assert torch.equal(value, found.parameters[name])
    assert other.measurement == Measurement("loss", "loss", lower_is_better=True)


def test_extra_numeric_columns_reach_the_users_loss_and_text_does_not():
    data = blobs(12)
    columns = {**data.columns, "cost": np.arange(12, dtype=np.float64), "note": np.array(["n"] * 12)}
    data = examples(columns)
    learner = Torch(mlp(), loss=lambda m, b: b["cost"] * own_loss(m, b), recipe=RECIPE)
    batch = next(learner.batches(data, 4))
    assert set(batch) == {"input", "label", "cost"}
    assert batch["cost"].dtype == torch.float32
    assert learner.loss(learner.fit(data), data)[0] == 0.0


def test_a_users_loss_may_leave_text_inputs_aside():
    data = examples(
        {"text": np.array(["one two"] * 8, dtype=object), "tokens": np.arange(24).reshape(8, 3) % 11},
        inputs=("text",),
        label=None,
    )

    def next_token(model, batch):
        return F.cross_entropy(model(batch["tokens"][:, :2]), batch["tokens"][:, 2], reduction="none")

    learner = Torch(Tokens(), loss=next_token, recipe=RECIPE)
    assert learner.check(data, data) == ()
    assert learner.loss(learner.fit(data), data).shape == (8,)
    bare = examples({"text": np.array(["one two"] * 8)}, inputs=("text",), label=None)
    with pytest.raises(DataError, match="no column holds numbers; the columns are 'text'"):
        Torch(Tokens(), loss=next_token, recipe=RECIPE).fit(bare)


def test_mean_squared_error_averages_over_outputs_and_survives_a_trailing_axis():
    data = regression()
    learner = Torch(mlp(), loss="mse", recipe=RECIPE)
    fitted = learner.fit(data)
    expected = nn.MSELoss()(
        logits_of(learner, fitted, data), torch.from_numpy(data.columns["label"]).double()
    )
    assert learner.loss(fitted, data).mean() == pytest.approx(float(expected), rel=1e-6)
    assert learner.measurement.unit == "squared error"
    flat = examples({"input": data.columns["input"], "label": data.columns["label"][:, 0]})
    assert Torch(mlp(outputs=1), loss="mse", recipe=RECIPE).fit(flat).losses


def test_mean_squared_error_never_broadcasts():
    data = examples({"input": np.ones((6, 4), np.float32), "label": np.ones(6)})
    with pytest.raises(ModelError, match=r"outputs \[6, 3\] for labels \[6\]"):
        Torch(mlp(), loss="mse", recipe=RECIPE).fit(data)


def test_binary_cross_entropy_with_one_output():
    label = np.arange(30) % 2
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32) + label[:, None]
    data = examples({"input": values.astype(np.float32), "label": label})
    learner = Torch(mlp(outputs=1), loss="binary_cross_entropy", measurement="margin", recipe=RECIPE)
    fitted = learner.fit(data)
    logits = logits_of(learner, fitted, data)[:, 0]
    expected = nn.BCEWithLogitsLoss(reduction="none")(logits, torch.from_numpy(label).double())
    np.testing.assert_allclose(learner.loss(fitted, data), expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(learner.measure(fitted, data), logits.numpy() * (2 * label - 1), atol=1e-6)
    probability = learner.probabilities(fitted, data)
    np.testing.assert_allclose(probability[:, 1], logits.sigmoid().numpy(), atol=1e-6)
    np.testing.assert_allclose(probability.sum(1), 1.0, atol=1e-12)
    chance = Torch(mlp(outputs=1), loss="binary_cross_entropy", measurement="log_probability", recipe=RECIPE)
    np.testing.assert_allclose(chance.measure(chance.fit(data), data), -learner.loss(fitted, data), atol=1e-6)


def test_probabilities_need_a_classification_loss():
    learner = Torch(mlp(), loss="mse", recipe=RECIPE)
    with pytest.raises(CapabilityError, match="the loss is mse"):
        learner.probabilities(learner.fit(regression()), regression())


CURVED = {
    "cross_entropy": (lambda: torch.tensor([0, 2, 1]), 3),
    "mse": (lambda: torch.randn(3, 4, dtype=torch.float64), 4),
    "binary_cross_entropy": (lambda: torch.rand(3, 4, dtype=torch.float64).round(), 4),
}


def curved(name):
    torch.manual_seed(5)
    label, outputs = CURVED[name]
    net = nn.Linear(2, outputs).double()
    batch = {"input": torch.randn(3, 2, dtype=torch.float64), "label": label()}
    return Torch(net, loss=name, trained=True), net, batch


@pytest.mark.reference
@pytest.mark.parametrize("name", CURVED)
def test_the_hessian_factor_squares_to_the_hessian(name):
    learner, net, batch = curved(name)
    outputs = learner.output_function(net, batch).detach()
    factor = learner.output_hessian_factor(outputs, batch)
    hidden = nn.Identity()
    for i in range(3):
        one = {"label": batch["label"][i : i + 1]}
        hessian = torch.autograd.functional.hessian(
            lambda z, b=one: learner.loss_function(hidden, {"input": z[None], **b}).sum(), outputs[i]
        )
        torch.testing.assert_close(factor[i] @ factor[i].T, hessian, rtol=1e-9, atol=1e-12)


@pytest.mark.reference
@pytest.mark.parametrize("name", CURVED)
def test_gradients_at_sampled_labels_have_the_gauss_newton_matrix_as_second_moment(name):
    learner, net, batch = curved(name)
    outputs = learner.output_function(net, batch).detach()
    factor = learner.output_hessian_factor(outputs, batch)
    draws = 20_000
    many = outputs[0].expand(draws, -1).clone().requires_grad_(True)
    label = batch["label"][:1].expand(draws, *batch["label"].shape[1:])
    losses = learner.sampled_loss_function(
        nn.Identity(), {"input": many, "label": label}, torch.Generator().manual_seed(1)
    )
    gradients = torch.autograd.grad(losses.sum(), many)[0]
    products = gradients[:, :, None] * gradients[:, None, :]
    error = products.mean(0) - factor[0] @ factor[0].T
    deviation = products.std(0) / draws**0.5
    assert bool((error.abs() <= 5 * deviation + 1e-12).all())


def test_sampled_labels_come_from_the_generator():
    learner, net, batch = curved("cross_entropy")
    net.weight.data.zero_()
    net.bias.data.zero_()
    draw = [learner.sampled_loss_function(net, batch, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draw)


def test_an_unknown_loss_has_no_curvature_until_the_user_gives_it():
    batch = {"input": torch.randn(3, 4), "label": torch.tensor([0, 1, 2])}
    net = mlp()
    plain = Torch(net, loss=own_loss, trained=True)
    assert plain.sampled_loss_function(net, batch, torch.Generator()) is None
    with pytest.raises(CapabilityError, match="Loss.outputs is missing"):
        plain.output_function(net, batch)
    with pytest.raises(CapabilityError, match="Loss.hessian_factor is missing"):
        plain.output_hessian_factor(torch.zeros(3, 3), batch)
    known = Torch(
        net,
        loss=Loss(
            own_loss,
            unit="nats",
            outputs=lambda m, b: m(b["input"]),
            hessian_factor=lambda z, b: torch.eye(3).expand(len(z), 3, 3),
            sampled=lambda m, b, g: torch.rand(3, generator=g) * own_loss(m, b),
        ),
        trained=True,
    )
    assert torch.equal(known.output_function(net, batch), net(batch["input"]))
    assert known.output_hessian_factor(torch.zeros(3, 3), batch).shape == (3, 3, 3)
    assert known.sampled_loss_function(net, batch, torch.Generator()).shape == (3,)
    assert known.measurement.unit == "nats"


def test_a_trained_model_is_explained_as_it_is():
    net, data = mlp().train(), blobs(20)
    learner = Torch(net, trained=True)
    fitted = learner.explained(data, seed=4)
    expected = F.cross_entropy(
        net(torch.from_numpy(data.columns["input"])), torch.arange(20) % 3, reduction="none"
    )
    np.testing.assert_allclose(learner.loss(fitted, data), expected.detach().numpy(), atol=1e-6)
    with pytest.raises(CapabilityError, match="without a recipe") as caught:
        learner.fit(data)
    assert "recipe=SGD" in caught.value.fix
    with pytest.raises(CapabilityError, match="training of this model is not known"):
        next(learner.checkpoints(fitted))


def test_a_trained_model_with_a_recipe_can_be_refitted_from_the_start():
    net, data = mlp(), blobs(20)
    learner = Torch(net, trained=True, recipe=RECIPE)
    assert torch.equal(learner.explained(data).parameters["0.weight"], net[0].weight)
    assert not torch.equal(learner.fit(data).parameters["0.weight"], net[0].weight)


def test_a_trained_model_that_cannot_be_drawn_anew_is_refitted_by_a_function():
    net, data = Scaled(), blobs(20)
    learner = Torch(net, trained=True, recipe=RECIPE, start=Scaled)
    assert torch.equal(learner.explained(data).parameters["linear.weight"], net.linear.weight)
    expected = Torch(Scaled, recipe=RECIPE).fit(data, seed=2)
    assert torch.equal(learner.fit(data, seed=2).parameters["scale"], expected.parameters["scale"])


def test_an_untrained_model_is_explained_after_a_fit():
    data, learner = blobs(20), Torch(mlp(), recipe=RECIPE)
    one, other = learner.explained(data, seed=7), learner.fit(data, seed=7)
    assert torch.equal(one.parameters["0.weight"], other.parameters["0.weight"])


def test_changes_of_the_callers_module_do_not_reach_the_learner():
    net, data = mlp(), blobs(10)
    learner = Torch(net, trained=True)
    before, mark = learner.loss(learner.explained(data), data), learner.fingerprint()
    with torch.no_grad():
        net[0].weight.zero_()
    np.testing.assert_array_equal(learner.loss(learner.explained(data), data), before)
    assert learner.fingerprint() == mark != Torch(net, trained=True).fingerprint()


def test_the_users_own_fit_sees_what_is_present():
    seen = {}

    def fit(data, weights, seed):
        seen.update(ids=data.ids.tolist(), weights=weights.tolist(), seed=seed, draw=torch.rand(1).item())
        net = mlp()
        nn.init.constant_(net[2].bias, float(seed))
        return net

    learner = Torch(mlp(), recipe=fit)
    weights = np.array([1.0, 0.0, 2.0, 0.0])
    fitted = learner.fit(blobs(4), weights=weights, seed=9)
    torch.manual_seed(9)
    assert seen == {"ids": ["e0", "e2"], "weights": [1.0, 2.0], "seed": 9, "draw": torch.rand(1).item()}
    assert fitted.parameters["2.bias"].tolist() == [9.0, 9.0, 9.0]
    learner.fit(blobs(4), seed=1)
    assert seen["weights"] == [1.0] * 4


def test_the_users_own_fit_must_return_the_same_architecture():
    with pytest.raises(ModelError, match="returned a dict"):
        Torch(mlp(), recipe=lambda data, weights, seed: {}).fit(blobs(4))
    with pytest.raises(
        ModelError, match=r"0.weight: the fitted model has \(8, 5\), this learner's model \(8, 4\)"
    ):
        Torch(mlp(), recipe=lambda data, weights, seed: mlp(5)).fit(blobs(4))


def test_loaded_models_are_in_evaluation_mode_and_do_not_share():
    data = blobs(20)
    learner = Torch(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)), recipe=RECIPE)
    fits = [learner.fit(data, seed=seed) for seed in range(6)]
    models = [learner.load(fitted) for fitted in fits]
    assert not any(model.training for model in models)
    for fitted, model in zip(fits, models, strict=True):
        assert torch.equal(model[0].weight, fitted.parameters["0.weight"])
    assert learner.load(fits[-1]) is models[-1]
    models[-1].train()
    assert not learner.load(fits[-1]).training


def test_modules_and_tensors_are_let_go_with_their_owners():
    learner = Torch(mlp(), recipe=RECIPE)
    data = blobs(20)
    fitted = learner.fit(data)
    learner.measure(fitted, data)
    assert len(learner._modules) == len(learner._tables) == 1
    del fitted, data
    assert len(learner._modules) == len(learner._tables) == 0
    many = [blobs(5, prefix=str(k)) for k in range(9)]
    for data in many:
        learner.fit(data)
    assert len(learner._tables) <= 4


def test_embeddings_are_what_the_last_linear_layer_reads():
    data = blobs(20)
    learner = Torch(mlp(), recipe=RECIPE)
    fitted = learner.fit(data)
    found = learner.embed(fitted, data)
    expected = learner.load(fitted)[:2](torch.from_numpy(data.columns["input"])).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert not learner.load(fitted)[2]._forward_pre_hooks


def test_embeddings_of_a_linear_model_are_the_inputs():
    data = blobs(20)
    learner = Torch(nn.Linear(4, 3), recipe=RECIPE)
    np.testing.assert_array_equal(learner.embed(learner.fit(data), data), data.columns["input"])


def test_embeddings_of_a_named_module():
    data = blobs(20)
    learner = Torch(mlp(), recipe=RECIPE, embedding="0")
    fitted = learner.fit(data)
    expected = learner.load(fitted)[0](torch.from_numpy(data.columns["input"])).detach().numpy()
    np.testing.assert_allclose(learner.embed(fitted, data), expected, atol=1e-6)
    wrong = Torch(mlp(), recipe=RECIPE, embedding="head")
    with pytest.raises(SettingError, match="no module 'head'") as caught:
        wrong.embed(wrong.fit(data), data)
    assert "'0'" in caught.value.fix


def test_embeddings_of_sequences_are_averaged_over_positions():
    net = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 2), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, 3, dtype=torch.long))
    del net[3], net[2]
    data = examples({"input": np.arange(12).reshape(4, 3) % 5, "label": np.arange(4) % 2})
    learner = Torch(net, loss=lambda m, b: m(b["input"]).sum((1, 2)), recipe=RECIPE)
    fitted = learner.fit(data)
    expected = fitted.parameters["0.weight"][torch.from_numpy(data.columns["input"])].mean(1).numpy()
    np.testing.assert_allclose(learner.embed(fitted, data), expected, atol=1e-6)


def test_embeddings_without_a_linear_layer_need_a_name():
    data = examples({"input": np.ones((6, 1, 5, 5), np.float32), "label": np.arange(6) % 2})
    net = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten())
    learner = Torch(net, recipe=RECIPE)
    with pytest.raises(CapabilityError, match="no torch.nn.Linear") as caught:
        learner.embed(learner.fit(data), data)
    assert "embedding=" in caught.value.fix


def test_token_inputs_stay_whole_numbers():
    data = examples({"input": np.arange(60, dtype=np.int32).reshape(12, 5) % 11, "label": np.arange(12) % 11})
    learner = Torch(Tokens(), recipe=Adam(epochs=2))
    assert next(learner.batches(data, 3))["input"].dtype == torch.int64
    assert learner.measure(learner.fit(data), data).shape == (12,)


def test_text_labels_are_numbered_in_sorted_order_for_good():
    data = blobs(30)
    names = np.array(["cat", "ant", "bee"])[data.columns["label"]]
    text = examples({"input": data.columns["input"], "label": names})
    learner = Torch(mlp(), recipe=RECIPE)
    fitted = learner.fit(text)
    assert fitted.classes == ("ant", "bee", "cat")
    numbers = examples({"input": data.columns["input"], "label": np.array([2, 0, 1])[data.columns["label"]]})
    expected = Torch(mlp(), recipe=RECIPE).fit(numbers)
    assert torch.equal(fitted.parameters["0.weight"], expected.parameters["0.weight"])
    two = text.take(np.flatnonzero(names != "ant"))
    assert next(learner.batches(two, 2))["label"].tolist() == [2, 1]
    assert learner.fit(two).classes == ("ant", "bee", "cat")
    objects = examples({"input": data.columns["input"], "label": names.astype(object)})
    assert torch.equal(
        Torch(mlp(), recipe=RECIPE).fit(objects).parameters["0.weight"], fitted.parameters["0.weight"]
    )


def test_unseen_text_labels_are_refused_by_name():
    data = blobs(6)
    learner = Torch(mlp(), recipe=RECIPE)
    learner.fit(examples({"input": data.columns["input"], "label": np.array(["a", "b", "c"] * 2)}))
    query = examples({"input": data.columns["input"], "label": np.array(["a", "b", "d"] * 2)}, prefix="q")
    with pytest.raises(
        DataError, match="row 2, id 'q2' has the label 'd', but the classes .* are 'a', 'b', 'c'"
    ):
        next(learner.batches(query, 2))


def test_classes_can_be_given_in_the_order_of_the_logits():
    data = blobs(6)
    text = examples({"input": data.columns["input"], "label": np.array(["spam", "ham"] * 3)})
    learner = Torch(mlp(outputs=2), trained=True, classes=["spam", "ham"])
    learner.explained(text)
    assert next(learner.batches(text, 4))["label"].tolist() == [0, 1, 0, 1]
    assert not any("sorted order" in note for note in learner.check(text, text))
    guessing = Torch(mlp(outputs=2), trained=True)
    assert any("ham = 0, spam = 1" in note for note in guessing.check(text, text))


def test_binary_cross_entropy_numbers_two_text_classes():
    data = blobs(6)
    text = examples({"input": data.columns["input"], "label": np.array(["yes", "no"] * 3)})
    learner = Torch(mlp(outputs=1), loss="binary_cross_entropy", recipe=RECIPE)
    assert learner.fit(text).classes == ("no", "yes")
    assert next(learner.batches(text, 2))["label"].tolist() == [1.0, 0.0]


def test_queries_of_another_layout_are_refused():
    learner = Torch(mlp(), recipe=RECIPE)
    fitted = learner.fit(blobs(6))
    other = examples({"pixels": np.ones((2, 4)), "label": np.zeros(2)}, inputs=("pixels",))
    with pytest.raises(DataError, match=r"inputs \['pixels'\].* has seen inputs \['input'\]"):
        learner.measure(fitted, other)


def test_queries_without_labels_can_be_measured_by_what_needs_none():
    learner = Torch(mlp(), measurement=(lambda m, b: m(b["input"])[:, 0], ACCURACY), recipe=RECIPE)
    fitted = learner.fit(blobs(6))
    unlabelled = examples({"input": blobs(6).columns["input"]}, label=None)
    assert learner.measure(fitted, unlabelled).shape == (6,)
    with pytest.raises(DataError, match="no label"):
        learner.loss(fitted, unlabelled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_fit_survives_as_arrays(dtype, tmp_path):
    data = blobs(30)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).to(dtype)
    learner = Torch(net, recipe=replace(RECIPE, checkpoints=2))
    fitted = learner.fit(data, seed=12)
    np.savez(tmp_path / "fit.npz", **learner.dump(fitted))
    with np.load(tmp_path / "fit.npz", allow_pickle=False) as arrays:
        found = learner.restore({name: arrays[name] for name in arrays.files})
    assert list(found.parameters) == list(fitted.parameters)
    for name, value in fitted.parameters.items():
        assert found.parameters[name].dtype == value.dtype
        assert torch.equal(found.parameters[name], value)
    assert (found.seed, found.losses, found.learning_rate) == (12, fitted.losses, fitted.learning_rate)
    for one, other in zip(fitted.checkpoints, found.checkpoints, strict=True):
        assert (one.step, one.learning_rate) == (other.step, other.learning_rate)
        assert torch.equal(one.parameters["0.weight"], other.parameters["0.weight"])
    np.testing.assert_array_equal(learner.measure(found, data), learner.measure(fitted, data))


def test_text_classes_survive_as_arrays_in_a_learner_that_saw_no_data():
    data = blobs(6)
    text = examples({"input": data.columns["input"], "label": np.array(["c", "a", "b"] * 2)})
    learner = Torch(mlp(), recipe=RECIPE)
    arrays = learner.dump(learner.fit(text))
    other = Torch(mlp(), recipe=RECIPE)
    fitted = other.restore(arrays)
    assert fitted.classes == ("a", "b", "c")
    two = text.take(np.array([0, 2]))
    np.testing.assert_array_equal(other.loss(fitted, two), learner.loss(learner.restore(arrays), two))


def test_a_model_of_other_classes_is_refused():
    inputs = blobs(6).columns["input"]
    learner, other = (Torch(mlp(), recipe=RECIPE) for _ in range(2))
    one = learner.fit(examples({"input": inputs, "label": np.array(["a", "b", "c"] * 2)}))
    data = examples({"input": inputs, "label": np.array(["a", "b", "d"] * 2)})
    other.fit(data)
    with pytest.raises(
        ModelError, match=r"fitted to the classes \['a', 'b', 'c'\], but this learner has \['a', 'b', 'd'\]"
    ):
        other.measure(one, data)


def test_classes_say_nothing_about_labels_that_are_numbers():
    learner = Torch(mlp(), recipe=RECIPE, classes=["x", "y", "z"])
    assert learner.fit(blobs(6)).classes is None
    assert next(learner.batches(blobs(6), 3))["label"].tolist() == [0, 1, 2]


def test_arrays_of_another_architecture_are_refused():
    learner = Torch(mlp(), recipe=RECIPE)
    arrays = learner.dump(learner.fit(blobs(6)))
    with pytest.raises(ModelError, match="2.bias: the fitted model has"):
        Torch(mlp(outputs=4), recipe=RECIPE).restore(arrays)
    with pytest.raises(ModelError, match="no such parameter"):
        Torch(TwoInputs(), recipe=RECIPE).restore(arrays)


def test_fingerprints_tell_what_matters_and_nothing_else():
    def mark(net=None, **settings):
        torch.manual_seed(1)
        return Torch(net or mlp(), **{"recipe": RECIPE, **settings}).fingerprint()

    assert mark() == mark() == mark(recipe=SGD(lr=0.1, epochs=3, batch_size=16))
    different = [
        mark(),
        mark(recipe=replace(RECIPE, lr=0.2)),
        mark(recipe=AdamW(epochs=3)),
        mark(loss="mse"),
        mark(loss=own_loss),
        mark(loss=lambda m, b: 2 * own_loss(m, b)),
        mark(measurement="margin"),
        mark(measurement=(accuracy, ACCURACY)),
        mark(start="given"),
        mark(trained=True),
        mark(mlp(outputs=4)),
        mark(TwoInputs()),
        mark(embedding="0"),
        mark(classes=["a", "b", "c"]),
    ]
    assert len(set(different)) == len(different)


def test_fingerprints_include_parameters_only_where_they_are_used():
    def mark(seed, **settings):
        torch.manual_seed(seed)
        return Torch(mlp(), recipe=RECIPE, **settings).fingerprint()

    assert mark(1) == mark(2)
    assert mark(1, trained=True) != mark(2, trained=True)
    assert mark(1, start="given") != mark(2, start="given")


def test_fingerprints_see_values_that_a_loss_closes_over():
    def tempered(temperature):
        return lambda m, b: F.cross_entropy(m(b["input"]) / temperature, b["label"], reduction="none")

    one, same, other = (Torch(mlp(), loss=tempered(t), recipe=RECIPE).fingerprint() for t in (1.0, 1.0, 2.0))
    assert one == same != other


def test_settings_are_plain_values():
    settings = dict(Torch(mlp(), loss=own_loss, recipe=RECIPE, measurement="margin").settings())
    assert settings["model"] == "Sequential"
    assert settings["parameters"] == 67
    assert settings["loss"].endswith("own_loss")
    assert (settings["recipe"], settings["lr"], settings["measurement"]) == ("SGD", 0.1, "margin")
    assert (settings["trained"], settings["start"]) == (False, "fresh")
    assert Torch(mlp(), trained=True).settings()["recipe"] is None
    assert repr(Torch(mlp(), recipe=RECIPE)).startswith(
        "Torch(model='Sequential', parameters=67, loss='cross"
    )


def test_a_learner_can_be_sent_to_another_process():
    data = blobs(20)
    learner = Torch(mlp(), loss=own_loss, recipe=RECIPE)
    fitted = learner.fit(data)
    other = pickle.loads(pickle.dumps(learner))
    assert torch.equal(other.fit(data).parameters["0.weight"], fitted.parameters["0.weight"])
    assert other.fingerprint() == learner.fingerprint()


def test_regularisation_is_what_the_recipe_adds_to_the_mean_loss():
    def amount(recipe):
        learner = Torch(mlp(), recipe=recipe)
        return learner.regularisation(learner.fit(blobs(6)))

    assert amount(SGD(lr=0.1, epochs=1, weight_decay=0.25)) == 0.25
    assert amount(Adam(epochs=1, weight_decay=0.5)) == 0.5
    assert amount(AdamW(epochs=1, weight_decay=0.5)) == 0.0
    assert Torch(mlp(), trained=True).regularisation(Torch(mlp(), trained=True).explained(blobs(6))) == 0.0


@pytest.mark.reference
def test_the_hessian_is_that_of_the_summed_objective_of_a_linear_model():
    data, weights = blobs(12), np.array([2.0, 0.0, 1.0, 0.5] * 3)
    net = nn.Linear(4, 3).double()
    learner = Torch(net, recipe=SGD(lr=0.1, epochs=5, weight_decay=0.3))
    fitted = learner.fit(data, weights=weights)
    x, y, w = (
        torch.from_numpy(data.columns["input"]).double(),
        torch.arange(12) % 3,
        torch.from_numpy(weights),
    )

    def objective(flat):
        logits = x @ flat[:12].reshape(3, 4).T + flat[12:]
        loss = (w * F.cross_entropy(logits, y, reduction="none")).sum()
        return loss + 9 * 0.3 / 2 * flat.square().sum()

    flat = torch.cat([fitted.parameters["weight"].reshape(-1), fitted.parameters["bias"]])
    expected = torch.autograd.functional.hessian(objective, flat).numpy()
    np.testing.assert_allclose(learner.hessian(fitted, data, weights), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.reference
def test_the_gradient_engine_gives_autograd_of_the_loss_and_of_the_measurement():
    data, queries = blobs(12), blobs(5, seed=1, prefix="q")
    learner = Torch(mlp(dtype=torch.float64), measurement="margin", recipe=RECIPE)
    fitted = learner.fit(data)
    engine = learner.gradients(fitted)
    for of, examples_, function in (
        ("loss", data, learner.loss_function),
        ("measurement", queries, learner.measurement_function),
    ):
        found = engine.dense(examples_, of)
        model = learner.load(fitted)
        for row, batch in enumerate(learner.batches(examples_, 1)):
            parts = torch.autograd.grad(function(model, batch).sum(), list(model.parameters()))
            expected = torch.cat([part.reshape(-1) for part in parts]).numpy()
            np.testing.assert_allclose(found[row], expected, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "neither recipe= nor trained=True"),
        ({"recipe": RECIPE, "loss": "hinge"}, "'hinge'"),
        ({"recipe": RECIPE, "loss": nn.CrossEntropyLoss()}, "averages over the batch"),
        ({"recipe": RECIPE, "measurement": "recall"}, "'recall'"),
        ({"recipe": RECIPE, "measurement": accuracy}, "nor a pair"),
        ({"recipe": RECIPE, "loss": "mse", "measurement": "margin"}, "needs classes"),
    ],
)
def test_settings_that_contradict_are_refused(settings, named):
    with pytest.raises(SettingError) as caught:
        Torch(mlp(), **settings)
    assert named in caught.value.problem


def test_a_factory_has_no_parameters_to_start_from():
    with pytest.raises(SettingError, match="no parameters that are trained or given"):
        Torch(mlp, trained=True)
    with pytest.raises(SettingError, match="no parameters that are trained or given"):
        Torch(mlp, start="given", recipe=RECIPE)
    with pytest.raises(SettingError, match="start='warm'"):
        Torch(mlp(), start="warm", recipe=RECIPE)
    with pytest.raises(SettingError, match="returned a int"):
        Torch(lambda: 3, recipe=RECIPE)  # type: ignore[arg-type]


def test_importing_the_learners_imports_no_framework():
    import subprocess
    import sys

    code = (
        "import sys, steelyard.learners as l; l.SGD(lr=1.0, epochs=1); assert 'Torch' in dir(l);"
        "print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'Keras'"):
        import steelyard.learners

        steelyard.learners.Keras  # noqa: B018
