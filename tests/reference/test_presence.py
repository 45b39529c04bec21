"""PRESENCE: factors against self-influence by hand, the hook against a loop written out, and what it must not break."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steelyard.act.presence import PRESENCE
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners.torch_presence import TwoStages
from steelyard.run import in_memory
from tests.reference.test_untrac import problem

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def batch() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    x, y = torch.randn(10, 3, dtype=torch.float64), torch.randint(0, 2, (10,))
    return net, cross_entropy(net(x), y, reduction="none")


def by_hand(net: nn.Module, losses: torch.Tensor, micro: int) -> list[float]:
    found = []
    for start in range(0, len(losses), micro):
        net.zero_grad()
        losses[start : start + micro].mean().backward(retain_graph=True)
        found.append(float(sum(p.grad.square().sum() for p in net.parameters())))
    return found


def test_factors_follow_self_influence_up_then_down_with_mean_one():
    net, losses = batch()
    hook = TwoStages(switch=0.5, micro=4, temperature=0.7, cap=100.0)
    first, second = (hook(losses, list(net.parameters()), share) for share in (0.0, 0.5))
    logs = np.log(by_hand(net, losses, 4))
    standard = (logs - logs.mean()) / logs.std()
    for found, sign in ((first, 1.0), (second, -1.0)):
        each = np.repeat(np.exp(sign * standard / 0.7), [4, 4, 2])
        np.testing.assert_allclose(found.numpy(), each / each.mean(), rtol=1e-9)
        assert float(found.mean()) == pytest.approx(1.0)


def test_factors_that_collapse_are_capped():
    net, losses = batch()
    sharp = TwoStages(micro=1, temperature=1e-3, cap=2.0)(losses, list(net.parameters()), 0.0)
    assert float(sharp.max()) <= 2.0 + 1e-9
    even = TwoStages(micro=1, temperature=1e9)(losses, list(net.parameters()), 0.0)
    np.testing.assert_allclose(even.detach().numpy(), 1.0, rtol=1e-6)


def twice(losses: torch.Tensor, parameters: list[torch.Tensor], share: float) -> torch.Tensor:
    return torch.full_like(losses, 2.0 if share < 0.5 else 0.0)


def ones(losses: torch.Tensor, parameters: list[torch.Tensor], share: float) -> torch.Tensor:
    return torch.ones_like(losses)


def test_the_hook_is_called_in_every_step_and_multiplies_the_losses():
    p = problem(trained=False)
    plain = p.learner.fit(p.train, seed=1)
    same = p.learner.reweighing(ones).fit(p.train, seed=1)
    for name, value in plain.parameters.items():
        assert torch.equal(value, same.parameters[name])
    weights = np.full(len(p.train), 2.0)
    cut = p.learner.shortened(0.5).fit(p.train, weights, seed=1)
    found = p.learner.reweighing(twice).fit(p.train, seed=1)
    for name, value in cut.parameters.items():
        torch.testing.assert_close(value, found.parameters[name])


def test_a_reweighed_learner_is_another_one_and_is_not_replayed_or_stacked():
    p = problem(trained=False)
    one, other = (p.learner.reweighing(TwoStages(temperature=t)) for t in (1.0, 2.0))
    assert len({p.learner.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3
    assert one.fingerprint() == p.learner.reweighing(TwoStages(temperature=1.0)).fingerprint()
    assert one.together(p.train) == 1
    with pytest.raises(CapabilityError, match="reweighed"):
        one.replay(p.train)


def test_the_plan_is_random_and_the_learner_is_another():
    p = problem(trained=False)
    system = PRESENCE()
    plan = system(p, 20, 3, in_memory())
    assert plan.weights_for(p.train).sum() == 20 and plan.action == "keep"
    learner = system.learner(p, 20)
    rows = plan.weights_for(p.train)
    assert not np.allclose(
        learner.measure(learner.fit(p.train, rows), p.query),
        p.learner.measure(p.learner.fit(p.train, rows), p.query),
    )
    with pytest.raises(SettingError, match="cap=0"):
        PRESENCE(cap=0)
