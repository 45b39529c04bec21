"""Labels drawn from a model's own predictions."""

import pytest
import torch

from steelyard.learners.torch_losses import drawn_classes


def test_classes_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([[0.0, 1.0, -2.0, 0.5], [3.0, 0.0, 0.0, -1.0]])
    draws = 40_000
    found = drawn_classes(logits.repeat_interleave(draws, 0), torch.Generator().manual_seed(0)).view(2, draws)
    for row, chances in zip(found, logits.double().softmax(1), strict=True):
        seen = torch.bincount(row, minlength=4).double() / draws
        assert ((seen - chances).abs() <= 4.5 * (chances * (1 - chances) / draws).sqrt()).all()


def test_impossible_classes_are_never_drawn_and_seeds_repeat() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(5_000, 1)
    first, again, other = (drawn_classes(logits, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert set(first.tolist()) == {1, 3}
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_many_classes_are_all_within_reach(dtype: torch.dtype) -> None:
    found = drawn_classes(torch.zeros(400, 50_000, dtype=dtype), torch.Generator().manual_seed(0)).double()
    assert found.min() >= 0 and found.max() < 50_000
    assert abs(float(found.mean()) / 50_000 - 0.5) < 5 * (1 / 12 / 400) ** 0.5
