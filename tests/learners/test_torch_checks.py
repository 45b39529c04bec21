"""Checks before any work: each trap is refused by name or noted as handled."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steelyard.errors import DataError, ModelError
from steelyard.learners import SGD, AdamW, Torch
from steelyard.learners.torch_batches import require_examples
from steelyard.learners.torch_checks import check_function
from steelyard.records import Measurement
from tests.learners.torch_cases import Scaled, Tokens, blobs, examples, mlp

RECIPE = SGD(lr=0.1, epochs=2, batch_size=16)
ANY = Measurement("own", "units", lower_is_better=True)


def own_loss(model, batch):
    return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")


def refused(net, *, data=None, query=None, error=ModelError, **settings):
    data = data or blobs(30)
    with pytest.raises(error) as caught:
        Torch(net, **{"recipe": RECIPE, **settings}).check(data, query or data)
    assert caught.value.fix
    return str(caught.value)


def noted(net, **settings):
    return " ".join(Torch(net, **{"recipe": RECIPE, **settings}).check(blobs(30), blobs(7, prefix="q")))


def test_an_ordinary_model_passes_without_a_note():
    assert noted(mlp()) == ""


def test_batch_normalisation_is_handled_and_told():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    notes = noted(net)
    assert "batch normalisation (1) uses its running statistics" in notes
    assert "although the model was given in training mode" in notes
    assert "training with batch normalisation mixes the examples" in notes
    assert "training mode" not in noted(net.eval())
    assert "mixes the examples" not in noted(net, recipe=None, trained=True)


def test_batch_normalisation_without_running_statistics_is_refused():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    message = refused(net)
    assert "batch" in message
    assert "track_running_stats" in message or "Expected more than 1 value" in message


def test_dropout_is_handled_and_told():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    notes = noted(net)
    assert "dropout (1) is off" in notes
    assert "although the model was given in training mode" in notes
    assert "in fits it is on" in notes
    assert noted(nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3))) == ""


def test_an_averaged_loss_is_refused():
    message = refused(mlp(), loss=lambda m, b: own_loss(m, b).mean())
    assert "the loss gave [] for 8 examples" in message
    assert "already averaged" in message
    assert 'reduction="none"' in message


def test_a_loss_per_output_is_refused():
    message = refused(mlp(), loss=lambda m, b: m(b["input"]).square())
    assert "the loss gave [8, 3] for 8 examples" in message


def test_a_loss_that_is_no_tensor_is_refused():
    data = blobs(3)
    with pytest.raises(ModelError, match="the loss gave list for 3 examples"):
        check_function("loss", lambda model, batch: [1.0, 2.0, 3.0], mlp(), {}, data)


def test_a_loss_that_mixes_examples_is_refused_by_example():
    message = refused(mlp(), loss=lambda m, b: own_loss(m, b).mean().expand(len(b["label"])))
    assert "the loss of example 'e0' is" in message
    assert "it mixes examples" in message
    centred = refused(mlp(), loss=lambda m, b: own_loss(m, b) - 0.1 * own_loss(m, b).mean())
    assert "it mixes examples" in centred


def test_a_measurement_that_mixes_examples_is_refused():
    measurement = (lambda m, b: own_loss(m, b).softmax(0), ANY)
    assert "the measurement of example 'e0' is" in refused(mlp(), measurement=measurement)


def test_randomness_in_the_evaluation_is_refused():
    message = refused(mlp(), loss=lambda m, b: own_loss(m, b) + torch.rand(len(b["label"])))
    assert "two evaluations of the loss on the same examples differ" in message


def test_a_loss_without_gradient_is_refused():
    message = refused(mlp(), loss=lambda m, b: own_loss(m, b).detach())
    assert "does not depend on the model's parameters" in message


def test_a_measurement_needs_no_gradient():
    right = (lambda m, b: (m(b["input"]).argmax(1) == b["label"]).float(), ANY)
    assert noted(mlp(), measurement=right) == ""


def test_a_failing_function_names_the_batch():
    message = refused(mlp(), loss=lambda m, b: own_loss(m, {"input": b["text"], "label": b["label"]}))
    assert "KeyError" in message
    assert "input: float32[8, 4], label: int64[8]" in message


def test_a_model_of_another_width_names_the_shapes():
    message = refused(
        nn.Linear(5, 3), loss="mse", data=examples({"input": np.ones((9, 4)), "label": np.ones(9)})
    )
    assert "failed on a batch of {input: float32[8, 4]" in message


def test_whole_numbers_for_a_model_of_floats_are_explained():
    data = examples({"input": np.ones((9, 4), dtype=np.uint8), "label": np.arange(9) % 3})
    assert "give floats" in refused(mlp(), data=data)


def test_a_model_with_several_results_needs_functions():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, values):
            return self.linear(values), values

    assert "returns a tuple" in refused(Two())


def test_tied_weights_are_noted():
    data = examples({"input": np.arange(60).reshape(20, 3) % 11, "label": np.arange(20) % 11})
    [note] = Torch(Tokens(tied=True), recipe=RECIPE).check(data, data)
    assert note == "table.weight, out.weight are one tied parameter; its gradient is the sum over its uses."


def test_tied_weights_stay_tied_in_fits():
    data = examples({"input": np.arange(60).reshape(20, 3) % 11, "label": np.arange(20) % 11})
    learner = Torch(Tokens(tied=True), recipe=RECIPE)
    fitted = learner.fit(data)
    assert torch.equal(fitted.parameters["table.weight"], fitted.parameters["out.weight"])
    model = learner.load(fitted)
    assert model.out.weight is model.table.weight


def test_frozen_parameters_are_noted_and_wholly_frozen_models_refused():
    net = mlp()
    net[0].requires_grad_(False)
    assert "2 frozen parameters (0.weight, 0.bias) are left out" in noted(net)
    net.requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter requires a gradient"):
        Torch(net, trained=True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_parameters_are_refused_by_name(value):
    net = mlp()
    with torch.no_grad():
        net[2].bias[1] = value
    with pytest.raises(ModelError, match="the parameter 2.bias holds NaN or infinity"):
        Torch(net, trained=True)


def test_models_without_parameters_or_shapes_are_refused():
    with pytest.raises(ModelError, match="Flatten has no parameters"):
        Torch(nn.Flatten(), trained=True)
    with pytest.raises(ModelError, match="the parameter weight has no shape yet"):
        Torch(nn.LazyLinear(3), recipe=RECIPE)


def test_parameters_that_cannot_be_drawn_anew_are_refused_with_both_ways_out():
    with pytest.raises(
        ModelError, match=r"the model \(Scaled\) owns parameters but has no reset_parameters"
    ) as caught:
        Torch(Scaled(), recipe=RECIPE)
    assert "pass a function that makes new models" in caught.value.fix
    assert "start='given'" in caught.value.fix
    assert Torch(Scaled(), recipe=RECIPE, start="given").fit(blobs(6)).losses
    assert Torch(Scaled, recipe=RECIPE).fit(blobs(6)).losses


@pytest.mark.parametrize("role", ["training", "query"])
def test_labels_out_of_range_name_example_and_label(role):
    good, bad = blobs(30), blobs(30, prefix="bad")
    bad.columns["label"][17] = 3
    data, query = (bad, good) if role == "training" else (good, bad)
    message = refused(mlp(), data=data, query=query, error=DataError)
    assert "'bad17'" in message
    assert "label 3" in message
    assert "0 to 2" in message


def test_labels_out_of_range_are_found_without_check():
    data = blobs(30)
    data.columns["label"][4] = -1
    with pytest.raises(DataError, match="'e4'.*label -1"):
        Torch(mlp(), recipe=RECIPE).fit(data)


def test_labels_that_are_not_whole_are_refused():
    data = examples({"input": blobs(6).columns["input"], "label": np.array([0, 1, 2, 0.5, 1, 2])})
    assert "'e3'" in refused(mlp(), data=data, error=DataError)


def test_whole_numbers_as_floats_are_classes():
    data = blobs(12)
    floats = examples({"input": data.columns["input"], "label": data.columns["label"].astype(np.float64)})
    assert Torch(mlp(), recipe=RECIPE).check(floats, floats) == ()


def test_more_text_classes_than_outputs_are_refused():
    data = examples({"input": blobs(8).columns["input"], "label": np.array(list("abcdabcd"))})
    message = refused(mlp(), data=data, error=DataError)
    assert "the labels have 4 classes, the model tells 3 apart" in message


def test_text_labels_have_no_squared_error():
    data = examples({"input": blobs(6).columns["input"], "label": np.array(list("ababab"))})
    assert "'mse' takes numbers" in refused(mlp(outputs=1), loss="mse", data=data, error=DataError)


def test_binary_labels_lie_between_zero_and_one():
    data = examples({"input": blobs(6).columns["input"], "label": np.array([0, 1, 1, 0, 2, 1])})
    message = refused(mlp(outputs=1), loss="binary_cross_entropy", data=data, error=DataError)
    assert "row 4, id 'e4' has the label" in message
    assert "[0, 1]" in message


def test_regression_targets_are_finite():
    data = examples({"input": blobs(6).columns["input"], "label": np.array([0, 1, np.nan, 0, 2, 1])})
    assert "row 2, id 'e2'" in refused(mlp(outputs=1), loss="mse", data=data, error=DataError)


def test_text_inputs_are_refused_with_what_to_do():
    data = examples({"input": np.array(["some text"] * 6), "label": np.arange(6) % 3})
    message = refused(mlp(), data=data, error=DataError)
    assert "input column 'input' holds text" in message
    assert "tokenise" in message


def test_one_class_is_refused_unless_the_model_came_trained():
    data = examples({"input": blobs(6).columns["input"], "label": np.ones(6, dtype=int)})
    assert "all 6 labels are 1" in refused(mlp(), data=data, error=DataError)
    [note] = Torch(mlp(), trained=True).check(data, blobs(6, prefix="q"))
    assert "all 6 training examples have the label '1'" in note


def test_a_broken_value_names_its_example():
    values = blobs(30).columns["input"].copy()
    values[0, 2] = np.nan
    data = examples({"input": values, "label": np.arange(30) % 3})
    assert "the loss of example 'e0' is nan" in refused(mlp(), data=data)
    assert "the measurement of example 'e0' is nan" in refused(mlp(), data=blobs(30, prefix="t"), query=data)


def test_a_loader_is_no_data():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(3)), shuffle=True)
    with pytest.raises(DataError, match="given a DataLoader") as caught:
        require_examples(loader)
    assert "pass the dataset, not the loader" in caught.value.fix
    with pytest.raises(DataError, match="given a list"):
        require_examples([1])


def test_decoupled_decay_is_noted():
    assert "AdamW's weight decay is no term of the training loss" in noted(mlp(), recipe=AdamW(epochs=1))
    assert noted(mlp(), recipe=AdamW(epochs=1, weight_decay=0.0)) == ""


def test_checks_look_at_the_trained_model_and_not_at_a_fresh_one():
    net = mlp()
    with torch.no_grad():
        net[2].weight.fill_(1e38)
        net[0].weight.fill_(1e3)
    message = refused(net, recipe=None, trained=True, loss=lambda m, b: m(b["input"]).square().sum(1))
    assert "is inf" in message


def test_checks_change_no_random_state_and_no_mode():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    before = torch.get_rng_state()
    noted(net)
    assert net.training
    assert torch.equal(before, torch.get_rng_state())
