"""Training: equal to a plain torch loop, blind to absent examples, repeatable, and it leaves no trace."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steelyard.errors import CapabilityError, DataError, FitError, ModelError, ShapeError
from steelyard.learners import SGD, Adam, AdamW, Torch
from steelyard.learners.recipes import learning_rates
from steelyard.learners.torch_batches import epoch_order, id_keys
from steelyard.learners.torch_steps import optimiser_for
from steelyard.problem import HasMoments
from tests.learners.torch_cases import Scaled, TwoInputs, blobs, examples, mlp

RECIPES = [
    SGD(lr=0.1, epochs=4, batch_size=16),
    SGD(lr=0.05, epochs=4, batch_size=16, momentum=0.9, weight_decay=0.01),
    SGD(
        lr=0.05,
        epochs=4,
        batch_size=16,
        momentum=0.8,
        nesterov=True,
        weight_decay=0.1,
        schedule="cosine",
        warmup=3,
    ),
    Adam(lr=0.01, epochs=4, batch_size=16, weight_decay=0.1),
    Adam(lr=0.01, epochs=4, batch_size=7, betas=(0.8, 0.95), eps=1e-3, schedule="linear"),
    AdamW(lr=0.01, epochs=4, batch_size=16, weight_decay=0.3, schedule="inverse_sqrt", warmup=0.2),
    AdamW(lr=0.01, epochs=4, batch_size=None),
]


def plain_loop(net, data, recipe, seed, weights=None):
    """What a user would write, with the same first parameters and the same order."""
    torch.manual_seed(seed)
    model = copy.deepcopy(net)
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
    x, y = torch.from_numpy(data.columns["input"]), torch.from_numpy(data.columns["label"])
    w = torch.ones(len(data)) if weights is None else torch.tensor(weights, dtype=x.dtype)
    size, keys = recipe.batch_size or len(data), id_keys(data.ids)
    optimiser = optimiser_for(list(model.parameters()), recipe)
    rates = iter(learning_rates(recipe, recipe.epochs * -(-len(data) // size)))
    for epoch in range(recipe.epochs):
        order = torch.from_numpy(epoch_order(keys, seed=seed, epoch=epoch))
        for rows in order.split(size):
            optimiser.param_groups[0]["lr"] = next(rates)
            optimiser.zero_grad()
            (
                (w[rows] * F.cross_entropy(model(x[rows]), y[rows], reduction="none")).sum() / len(rows)
            ).backward()
            optimiser.step()
    return model.state_dict()


def assert_same(left, right, *, atol=0.0):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(
            left[name], right[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def apart(left, right):
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.reference
@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_a_fit_equals_a_plain_loop(recipe):
    data, net = blobs(50), mlp()
    fitted = Torch(net, recipe=recipe).fit(data, seed=3)
    assert_same(fitted.parameters, plain_loop(net, data, recipe, 3), atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_a_weighted_fit_equals_a_weighted_plain_loop(recipe):
    data, net = blobs(50), mlp()
    weights = np.random.default_rng(0).uniform(0.2, 3.0, size=50)
    fitted = Torch(net, recipe=recipe).fit(data, weights=weights, seed=3)
    assert_same(fitted.parameters, plain_loop(net, data, recipe, 3, weights), atol=1e-6)


def test_parameters_in_float64_are_trained_in_float64():
    data, net = blobs(30), mlp(dtype=torch.float64)
    fitted = Torch(net, recipe=RECIPES[2]).fit(data)
    assert {value.dtype for value in fitted.parameters.values()} == {torch.float64}


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_an_example_of_weight_zero_is_absent_to_the_last_bit(recipe):
    data, learner = blobs(50), Torch(mlp(), recipe=recipe)
    kept = np.random.default_rng(1).random(50) < 0.6
    by_weight = learner.fit(data, weights=kept.astype(float), seed=5)
    by_removal = learner.fit(data.take(np.flatnonzero(kept)), seed=5)
    assert_same(by_weight.parameters, by_removal.parameters)
    assert by_weight.losses == by_removal.losses


def test_weight_zero_among_other_weights_is_absent_too():
    data, learner = blobs(50), Torch(mlp(), recipe=RECIPES[1])
    weights = np.where(np.arange(50) % 3 == 0, 0.0, 1.0 + np.arange(50) / 50)
    rows = np.flatnonzero(weights)
    one = learner.fit(data, weights=weights, seed=5)
    assert_same(one.parameters, learner.fit(data.take(rows), weights=weights[rows], seed=5).parameters)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_whole_weights_are_copies_in_full_batches(decay):
    # The sum over a full batch is divided by its size, so copies need the learning rate of the longer batch.
    data, weights = blobs(20), np.array([1, 3] * 10)
    copies = np.repeat(np.arange(20), weights)
    repeated = examples({name: column[copies] for name, column in data.columns.items()})
    ratio = weights.sum() / 20
    one = Torch(mlp(dtype=torch.float64), recipe=SGD(lr=0.1, epochs=20, batch_size=None, weight_decay=decay))
    other = Torch(
        mlp(dtype=torch.float64),
        recipe=SGD(lr=0.1 * ratio, epochs=20, batch_size=None, weight_decay=decay / ratio),
    )
    weighted = one.fit(data, weights=weights.astype(float), seed=1)
    assert_same(weighted.parameters, other.fit(repeated, seed=1).parameters, atol=1e-12)
    assert apart(weighted.parameters, one.fit(data, seed=1).parameters) > 1e-3


def test_removing_examples_keeps_the_order_of_the_others():
    keys = id_keys(np.array([f"row {i}" for i in range(200)]))
    rows = np.flatnonzero(np.arange(200) % 7)
    for epoch in range(3):
        whole = epoch_order(keys, seed=4, epoch=epoch)
        np.testing.assert_array_equal(
            whole[np.isin(whole, rows)], rows[epoch_order(keys[rows], seed=4, epoch=epoch)]
        )


def test_the_order_of_the_rows_does_not_matter():
    data, learner = blobs(40), Torch(mlp(), recipe=RECIPES[1])
    turned = data.take(np.random.default_rng(2).permutation(40))
    assert_same(learner.fit(data, seed=1).parameters, learner.fit(turned, seed=1).parameters)


def test_orders_differ_between_epochs_and_seeds_and_are_uniform():
    keys = id_keys(np.array([str(i) for i in range(100)]))
    first, second = epoch_order(keys, seed=0, epoch=0), epoch_order(keys, seed=0, epoch=1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_order(keys, seed=1, epoch=0))
    assert sorted(first) == list(range(100))
    # Mean position of one example over many epochs; its deviation from the middle is about 29 / sqrt(800).
    places = np.array([np.flatnonzero(epoch_order(keys, seed=9, epoch=e) == 5)[0] for e in range(800)])
    assert abs(places.mean() - 49.5) < 4.0


def test_ids_hash_alike_in_arrays_of_any_width():
    narrow = id_keys(np.array(["a", "bc", "é"]))
    wide = id_keys(np.array(["a", "bc", "é", "a much longer id"]))
    np.testing.assert_array_equal(narrow, wide[:3])
    assert len(set(wide.tolist())) == 4
    assert (
        id_keys(np.array(["ab", "ba", ""])).tolist()
        == id_keys(np.array(["ab", "ba", ""], dtype=object)).tolist()
    )


def test_ids_hash_to_the_same_numbers_for_ever():
    assert id_keys(np.array(["a"]))[0] == np.uint64(13048582814898662293)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    data = blobs(40)
    one, other = (Torch(mlp(), recipe=RECIPES[3]) for _ in range(2))
    assert_same(one.fit(data, seed=2).parameters, other.fit(data, seed=2).parameters)
    assert apart(one.fit(data, seed=2).parameters, one.fit(data, seed=3).parameters) > 1e-3


def test_dropout_is_drawn_from_the_seed_of_the_fit():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    data, learner = blobs(40), Torch(net, recipe=RECIPES[0])
    first = learner.fit(data, seed=2)
    torch.rand(7)
    assert_same(first.parameters, learner.fit(data, seed=2).parameters)
    still = Torch(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Linear(8, 3)), recipe=RECIPES[0])
    assert apart(first.parameters, still.fit(data, seed=2).parameters) > 1e-4


def test_nothing_of_the_caller_is_touched():
    data, net = blobs(40), mlp().eval()
    net[2].train()
    before = copy.deepcopy(net.state_dict())
    values = {name: np.array(column) for name, column in data.columns.items()}
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002 - the global state is what is being watched
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    learner = Torch(net, recipe=RECIPES[1])
    learner.check(data, data)
    fitted = learner.fit(data, seed=1)
    learner.measure(fitted, data)
    learner.load(fitted)
    assert_same(net.state_dict(), before)
    assert [part.training for part in net] == [False, False, True]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == threads
    for name, column in values.items():
        np.testing.assert_array_equal(data.columns[name], column)


def test_a_fit_inside_no_grad_and_inference_mode_trains():
    data, learner = blobs(30), Torch(mlp(), recipe=RECIPES[0])
    expected = learner.fit(data)
    with torch.no_grad():
        assert_same(learner.fit(data).parameters, expected.parameters)
    with torch.inference_mode():
        assert_same(learner.fit(blobs(30)).parameters, expected.parameters)


def test_a_loss_that_writes_into_its_batch_does_not_reach_the_data():
    data = blobs(30)
    before = data.columns["input"].copy()

    def loss(model, batch):
        batch["input"].mul_(2)
        return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")

    learner = Torch(mlp(), loss=loss, recipe=RECIPES[0])
    learner.loss(learner.fit(data), data)
    np.testing.assert_array_equal(data.columns["input"], before)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_examples_than_a_batch_are_one_batch(count):
    data, net, recipe = blobs(count), mlp(), SGD(lr=0.1, epochs=3, batch_size=64, momentum=0.9)
    assert_same(Torch(net, recipe=recipe).fit(data).parameters, plain_loop(net, data, recipe, 0), atol=1e-6)


def test_fine_tuning_starts_from_the_given_parameters():
    data, net = blobs(30), mlp()
    near = Torch(net, recipe=SGD(lr=1e-6, epochs=1), start="given").fit(data, seed=4)
    assert 0 < apart(near.parameters, net.state_dict()) < 1e-4
    fresh = Torch(net, recipe=SGD(lr=1e-6, epochs=1)).fit(data, seed=4)
    assert apart(fresh.parameters, net.state_dict()) > 1e-2


def test_a_factory_is_called_under_the_seed():
    def make():
        net = Scaled()
        nn.init.normal_(net.scale)
        return net

    fitted = Torch(make, recipe=SGD(lr=1e-9, epochs=1)).fit(blobs(10), seed=8)
    torch.manual_seed(8)
    assert_same(fitted.parameters, make().state_dict(), atol=1e-6)


def test_a_transformer_is_drawn_anew_as_torch_initialises_it():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Unflatten(1, (1, 4)), layer, nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(7.0)
    fitted = Torch(net, recipe=SGD(lr=1e-9, epochs=1)).fit(blobs(10))
    assert max(float(value.abs().max()) for value in fitted.parameters.values()) <= 1.0
    assert float(fitted.parameters["1.self_attn.out_proj.bias"].abs().max()) < 1e-6
    assert float(fitted.parameters["1.self_attn.in_proj_weight"].std()) > 0.1


def test_a_last_batch_of_one_with_batch_normalisation_is_a_failed_fit():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(FitError, match="last batch of one example: Expected more than 1 value") as caught:
        Torch(net, recipe=RECIPES[0]).fit(blobs(33))
    assert "batch_size" in caught.value.fix


def test_frozen_parameters_stay():
    net = mlp()
    net[0].weight.requires_grad_(False)
    fitted = Torch(net, recipe=RECIPES[1], start="given").fit(blobs(30))
    assert torch.equal(fitted.parameters["0.weight"], net[0].weight)
    assert not torch.equal(fitted.parameters["0.bias"], net[0].bias)


def test_running_statistics_are_part_of_the_fit():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    fitted = Torch(net, recipe=RECIPES[0]).fit(blobs(40))
    assert int(fitted.parameters["1.num_batches_tracked"]) == 12
    assert float(fitted.parameters["1.running_mean"].abs().sum()) > 0


class Branch(nn.Module):
    """One layer is used only by batches whose first number is positive: torch skips its parameters elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, values):
        out = self.always(values)
        return out + self.sometimes(values) if float(values[0, 0]) > 0 else out


@pytest.mark.reference
@pytest.mark.parametrize("recipe", [RECIPES[1], RECIPES[3]], ids=repr)
def test_parameters_without_a_gradient_are_skipped_as_torch_does(recipe):
    data, net = blobs(50), Branch()
    fitted = Torch(net, recipe=recipe).fit(data, seed=3)
    assert_same(fitted.parameters, plain_loop(net, data, recipe, 3), atol=1e-6)


def test_sparse_embeddings_train():
    net = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 2))
    data = examples({"input": np.arange(20).reshape(10, 2) % 5, "label": np.arange(10) * 2 % 5 % 2})
    fitted = Torch(net, recipe=SGD(lr=0.5, epochs=20, batch_size=5)).fit(data)
    assert fitted.losses[-1] < 0.5 * fitted.losses[0]


def test_checkpoints_lie_along_the_training():
    data = blobs(40)
    recipe = SGD(lr=0.1, epochs=4, batch_size=16, momentum=0.9, schedule="cosine", checkpoints=4)
    learner = Torch(mlp(), recipe=recipe)
    fitted = learner.fit(data, seed=1)
    assert [point.step for point in fitted.checkpoints] == [3, 6, 9, 12]
    assert sum(point.learning_rate for point in fitted.checkpoints) == pytest.approx(
        learning_rates(recipe, 12).sum()
    )
    assert_same(fitted.checkpoints[-1].parameters, fitted.parameters)
    short = Torch(mlp(), recipe=SGD(lr=0.1, epochs=2, batch_size=16, momentum=0.9)).fit(data, seed=1)
    constant = Torch(mlp(), recipe=SGD(lr=0.1, epochs=4, batch_size=16, momentum=0.9, checkpoints=(2,))).fit(
        data, seed=1
    )
    assert_same(constant.checkpoints[0].parameters, short.parameters)
    points = list(learner.checkpoints(fitted))
    assert [rate for _, rate in points] == [point.learning_rate for point in fitted.checkpoints]
    assert learner.loss(points[0][0], data).mean() > learner.loss(points[-1][0], data).mean()


def test_without_checkpoints_the_final_model_stands_for_the_training():
    learner = Torch(mlp(), recipe=SGD(lr=0.1, epochs=4, batch_size=16))
    fitted = learner.fit(blobs(40))
    [(model, rate)] = learner.checkpoints(fitted)
    assert model is fitted
    assert rate == pytest.approx(0.1 * 12)


def test_losses_fall_and_there_is_one_per_epoch():
    fitted = Torch(mlp(), recipe=SGD(lr=0.2, epochs=20, batch_size=16)).fit(blobs(60))
    assert len(fitted.losses) == 20
    assert fitted.losses[-1] < 0.7 * fitted.losses[0]


def test_a_diverging_fit_names_epoch_step_and_example():
    data = blobs(20)
    values = data.columns["input"].copy()
    values[13] = 3e38
    data = examples({"input": values, "label": data.columns["label"]})
    learner = Torch(nn.Linear(4, 3), recipe=SGD(lr=0.1, epochs=2, batch_size=5))
    with pytest.raises(FitError) as caught:
        learner.fit(data, seed=6)
    assert re.search(r"in epoch [12], step \d+: example 'e13' has the loss (nan|inf)", caught.value.problem)
    assert "seed 6" in caught.value.problem
    assert "learning rate" in caught.value.fix


def test_a_fit_that_diverges_as_a_whole_does_not_blame_one_example():
    net = nn.Linear(4, 3)
    nn.init.constant_(net.weight, 3e38)
    with pytest.raises(FitError, match="as have 4 more of the 5 examples in this batch"):
        Torch(net, recipe=SGD(lr=0.1, epochs=1, batch_size=5), start="given").fit(
            examples({"input": np.full((20, 4), 9.0), "label": np.arange(20) % 3})
        )


def test_parameters_that_overflow_in_the_last_step_are_found():
    data = examples(
        {"input": np.full((4, 1), 1e30, dtype=np.float32), "label": np.zeros(4, dtype=np.float32)}
    )
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1e-20)
    with pytest.raises(FitError, match="weight is NaN or infinite after the last of 1 epochs"):
        Torch(net, loss="mse", recipe=SGD(lr=1e10, epochs=1), start="given").fit(data)


def test_training_on_nothing_is_a_failed_fit():
    with pytest.raises(FitError, match="every example has weight 0"):
        Torch(mlp(), recipe=RECIPES[0]).fit(blobs(5), weights=np.zeros(5))


def test_weights_must_be_finite_and_one_per_example():
    learner = Torch(mlp(), recipe=RECIPES[0])
    with pytest.raises(ShapeError, match="for 5 examples"):
        learner.fit(blobs(5), weights=np.ones(4))
    with pytest.raises(DataError, match="row 2 is nan"):
        learner.fit(blobs(5), weights=np.array([1, 1, np.nan, 1, 1]))


def test_a_reduced_loss_is_refused_while_training():
    learner = Torch(mlp(), loss=lambda m, b: F.cross_entropy(m(b["input"]), b["label"]), recipe=RECIPES[0])
    with pytest.raises(ModelError, match="shape \\[\\] for a batch of 16") as caught:
        learner.fit(blobs(40))
    assert 'reduction="none"' in caught.value.fix


def test_inputs_are_passed_in_order():
    left, right = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    data = examples(
        {"right": right, "label": np.arange(30) % 3, "left": left[:, :2]}, inputs=("left", "right")
    )
    learner = Torch(TwoInputs(), recipe=SGD(lr=0.1, epochs=2))
    fitted = learner.fit(data)
    model = learner.load(fitted)
    with torch.no_grad():
        logits = model(torch.from_numpy(left[:, :2].copy()), torch.from_numpy(right))
    expected = F.cross_entropy(logits, torch.arange(30) % 3, reduction="none").double().numpy()
    np.testing.assert_allclose(learner.loss(fitted, data), expected, atol=1e-6)


class Slices:
    """A column that is never in memory: it counts the rows it gave and refuses to give them all."""

    def __init__(self, values, limit):
        self.values, self.limit, self.largest = values, limit, 0

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        found = self.values[rows]
        self.largest = max(self.largest, len(found))
        assert len(found) <= self.limit, "more rows at once than a batch"
        return found


def test_columns_on_disk_are_read_batch_by_batch(tmp_path):
    data, recipe = blobs(100), RECIPES[1]
    path = tmp_path / "input.npy"
    np.save(path, data.columns["input"])
    expected = Torch(mlp(), recipe=recipe).fit(data).parameters
    for column in (Slices(data.columns["input"], 16), np.load(path, mmap_mode="r")):
        stored = examples({"input": column, "label": data.columns["label"]})
        learner = Torch(mlp(), recipe=recipe)
        assert_same(learner.fit(stored).parameters, expected)
        assert next(iter(learner.batches(stored, 10)))["input"].shape == (10, 4)


def test_read_only_and_reversed_columns_are_no_trouble():
    data = blobs(30)
    frozen = data.columns["input"].copy()
    frozen.flags.writeable = False
    turned = data.columns["input"][::-1].copy()[::-1]
    expected = Torch(mlp(), recipe=RECIPES[0]).fit(data).parameters
    for column in (
        frozen,
        turned,
        data.columns["input"].astype(">f4"),
        data.columns["input"].astype(np.float64),
    ):
        stored = examples({"input": column, "label": data.columns["label"]})
        assert_same(Torch(mlp(), recipe=RECIPES[0]).fit(stored).parameters, expected)


@pytest.mark.reference
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("recipe", [r for r in RECIPES if not isinstance(r, SGD)], ids=repr)
def test_moments_are_those_of_torch_optim(recipe, flat, monkeypatch):
    if not flat:
        monkeypatch.setattr("steelyard.learners.torch_training.FLAT_LIMIT", 0)
    data, net = blobs(40), mlp()
    learner = Torch(net, recipe=dataclasses.replace(recipe, checkpoints=2))
    fitted = learner.fit(data, seed=2)
    torch.manual_seed(2)
    model = copy.deepcopy(net)
    for part in (model[0], model[2]):
        part.reset_parameters()
    optimiser, keys = optimiser_for(list(model.parameters()), recipe), id_keys(data.ids)
    x, y = torch.from_numpy(data.columns["input"]), torch.from_numpy(data.columns["label"])
    size = recipe.batch_size or 40
    rates = iter(learning_rates(recipe, recipe.epochs * -(-40 // size)))
    for epoch in range(recipe.epochs):
        for rows in torch.from_numpy(epoch_order(keys, seed=2, epoch=epoch)).split(size):
            optimiser.param_groups[0]["lr"] = next(rates)
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    moments = learner.moments(fitted)
    assert moments.step == recipe.epochs * -(-40 // size)
    for name, parameter in model.named_parameters():
        state = optimiser.state[parameter]
        torch.testing.assert_close(moments.first[name], state["exp_avg"], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(moments.second[name], state["exp_avg_sq"], rtol=1e-4, atol=1e-9)
    [half, whole] = [learner.moments(model) for model, _ in learner.checkpoints(fitted)]
    assert half.step == moments.step // 2
    assert_same(whole.first, moments.first)
    assert apart(half.first, moments.first) > 1e-4
    again = learner.restore(learner.dump(fitted))
    assert_same(learner.moments(again).second, moments.second)
    assert_same(learner.moments(next(learner.checkpoints(again))[0]).first, half.first)


def test_moments_are_refused_where_there_are_none():
    data, net = blobs(30), mlp()
    sgd = Torch(net, recipe=RECIPES[0])
    assert isinstance(sgd, HasMoments)
    with pytest.raises(CapabilityError, match="trained without Adam"):
        sgd.moments(sgd.fit(data))
    given = Torch(net, recipe=RECIPES[4], trained=True)
    with pytest.raises(CapabilityError, match="not known"):
        given.moments(given.explained(data))


def test_moments_of_a_parameter_without_gradients_are_zero():
    fitted = Torch(Branch(), recipe=RECIPES[3]).fit(blobs(50), seed=3)
    never = [name for name, value in fitted.moments.second.items() if not value.any()]
    assert fitted.moments.first.keys() == {name for name, _ in Branch().named_parameters()}
    assert all(not fitted.moments.first[name].any() for name in never)
