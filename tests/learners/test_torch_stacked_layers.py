"""Perceptrons side by side with their backward pass written out, against autograd through one at a time."""

import pytest
import torch
from torch import nn

from steelyard.learners.torch_stacked_layers import SideBySide, plain_layers

NETS = {
    "tanh and relu": lambda: nn.Sequential(
        nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)
    ),
    "no bias, activation last": lambda: nn.Sequential(
        nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Sequential(nn.Linear(4, 2, bias=False), nn.Tanh())
    ),
    "two linear layers": lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2, bias=False)),
    "two activations": lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.ReLU(), nn.Linear(4, 2)),
}
COUNT, WIDTH = 3, 6


def drawn(name: str) -> tuple[list[nn.Sequential], dict[str, torch.Tensor], SideBySide]:
    torch.manual_seed(0)
    nets = [NETS[name]().double() for _ in range(COUNT)]
    state = {
        key: torch.stack([dict(net.named_parameters())[key].detach() for net in nets]).requires_grad_()
        for key, _ in nets[0].named_parameters()
    }
    layers = plain_layers(nets[0])
    if layers is None:
        raise AssertionError("these are plain layers")
    return nets, state, SideBySide(layers, state, COUNT)


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients_are_those_of_each_network_alone(name):
    nets, state, together = drawn(name)
    inputs = torch.randn(COUNT * WIDTH, 5, dtype=torch.float64)
    before = inputs.clone()

    def loss(outputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            3 * outputs, torch.arange(len(outputs)) % 2, reduction="none"
        )

    # Asked twice, as a loss that compares two views of an example would.
    found = loss(together(inputs)) + loss(together(inputs.flip(0)).flip(0))
    found.sum().backward()
    assert torch.equal(inputs, before)
    for place, net in enumerate(nets):
        own = slice(place * WIDTH, (place + 1) * WIDTH)
        flipped = nets[COUNT - 1 - place]
        torch.testing.assert_close(
            found[own], loss(net(inputs[own])) + loss(flipped(inputs[own])), rtol=1e-12, atol=1e-12
        )
    for place, net in enumerate(nets):
        own = slice(place * WIDTH, (place + 1) * WIDTH)
        other = slice((COUNT - 1 - place) * WIDTH, (COUNT - place) * WIDTH)
        (loss(net(inputs[own])) + loss(net(inputs[other]))).sum().backward()
        for key, parameter in net.named_parameters():
            torch.testing.assert_close(state[key].grad[place], parameter.grad, rtol=1e-12, atol=1e-12)


def test_a_loss_that_differentiates_by_its_inputs_gets_what_it_asks_for():
    nets, state, together = drawn("tanh and relu")
    inputs = torch.randn(COUNT * WIDTH, 5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(together(inputs).sum(), inputs, create_graph=True)
    slope.square().sum().backward()
    own = inputs.detach()[:WIDTH].requires_grad_()
    (alone,) = torch.autograd.grad(nets[0](own).sum(), own, create_graph=True)
    alone.square().sum().backward()
    for key, parameter in nets[0].named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(state[key].grad[0], parameter.grad, rtol=1e-12, atol=1e-12)


def test_a_second_derivative_through_the_written_pass_is_refused_not_wrong():
    _, state, together = drawn("tanh and relu")
    outputs = together(torch.randn(COUNT * WIDTH, 5, dtype=torch.float64))
    (slope,) = torch.autograd.grad(outputs.square().sum(), state["0.weight"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_float32_differs_from_torch_by_rounding_of_numbers_near_one():
    values = torch.linspace(-20, 20, 10_001)
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh())
    layers = plain_layers(net)
    if layers is None:
        raise AssertionError("these are plain layers")
    state = {
        "0.weight": torch.ones(1, 1, 1, requires_grad=True),
        "0.bias": torch.zeros(1, 1, requires_grad=True),
    }
    found = SideBySide(layers, state, 1)(values[:, None])[:, 0]
    assert (found - values.tanh()).abs().max() <= 3 * 2**-23
