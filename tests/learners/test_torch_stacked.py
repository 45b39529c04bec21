"""Fits made side by side: the numbers of the plain loop, whatever the recipe, the subset and the neighbours."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steelyard.errors import CapabilityError
from steelyard.learners import SGD, Adam, AdamW, Stage, Stages, Torch
from steelyard.learners.recipes import Recipe
from steelyard.learners.torch_losses import Batch
from steelyard.learners.torch_stacked import lay_out, stacks
from steelyard.learners.torch_stacked_layers import plain_layers
from steelyard.learners.torch_together import obstacle
from steelyard.problem import HasFitsTogether
from steelyard.records import Examples, Measurement
from tests.learners.torch_cases import Tokens, TwoInputs, blobs, examples, mlp

RECIPES: list[Recipe] = [
    SGD(lr=0.1, epochs=3, batch_size=8),
    SGD(lr=0.1, epochs=3, batch_size=8, momentum=0.9, weight_decay=1e-2, schedule="cosine", warmup=0.2),
    SGD(lr=0.1, epochs=3, batch_size=7, momentum=0.9, nesterov=True, schedule="linear"),
    SGD(lr=0.1, epochs=4, batch_size=None, momentum=0.5),
    Adam(lr=0.01, epochs=3, batch_size=8, weight_decay=1e-2, schedule="inverse_sqrt", warmup=3),
    AdamW(lr=0.01, epochs=3, batch_size=8, weight_decay=0.1),
    Stages((AdamW(lr=0.01, epochs=2, batch_size=8), SGD(lr=0.1, epochs=2, batch_size=5, momentum=0.9))),
    Stages(
        (
            SGD(lr=0.1, epochs=2, batch_size=8),
            Stage(Adam(epochs=2, batch_size=4), column="label", values=(0, 2)),
        )
    ),
]


def weightings(count: int, train: int, *, seed: int = 0) -> np.ndarray:
    """Subsets of several sizes, the whole set, and fractional weights."""
    draw = np.random.default_rng(seed)
    found = (draw.random((count, train)) < draw.uniform(0.3, 0.9, size=(count, 1))).astype(np.float64)
    found[0] = 1.0
    found[1] *= draw.uniform(0.2, 2.0, size=train)
    found[:, :3] = 1.0
    return found


def one_by_one(
    learner: Torch, train: Examples, weights: np.ndarray, seeds: list[int], query: Examples
) -> np.ndarray:
    fits = [learner.fit(train, one, seed) for one, seed in zip(weights, seeds, strict=True)]
    return np.stack([learner.measure(fitted, query) for fitted in fits])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{type(r).__name__}{RECIPES.index(r)}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_fits_together_are_fits_one_by_one(recipe: Recipe, dtype: torch.dtype, tolerance: float):
    learner = Torch(mlp(dtype=dtype), recipe=recipe)
    train, query = blobs(40), blobs(9, seed=1, prefix="q")
    weights, seeds = weightings(7, 40), [0, 3, 3, 5, 6, 2**40, 8]
    together = learner.measure_together(train, weights, seeds, query)
    np.testing.assert_allclose(
        together, one_by_one(learner, train, weights, seeds, query), rtol=tolerance, atol=tolerance
    )


class Plain(nn.Module):
    """A network that only vmap can run side by side: no Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.scale = nn.Buffer(torch.tensor(0.5))

    def forward(self, values: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(values)) * self.scale)


def _squared(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch["input"]).sum(dim=1) - batch["label"]).square()


def _first_output(model: nn.Module, batch: Batch) -> Tensor:
    return model(batch["input"])[:, 0]


CASES: dict[str, tuple[Torch, Examples, Examples]] = {
    "vmap": (Torch(Plain().double(), recipe=RECIPES[1], measurement="margin"), blobs(30), blobs(5, seed=1)),
    "own functions": (
        Torch(
            mlp(dtype=torch.float64),
            loss=_squared,
            measurement=(_first_output, Measurement("first", "logits", lower_is_better=False)),
            recipe=SGD(lr=0.01, epochs=3, batch_size=8),
        ),
        blobs(30),
        blobs(5, seed=1),
    ),
    "layer norm, frozen, from given": (
        Torch(
            nn.Sequential(
                nn.Linear(4, 5).requires_grad_(False), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)
            ).double(),
            recipe=RECIPES[1],
            start="given",
        ),
        blobs(30),
        blobs(5, seed=1),
    ),
    "tied tokens": (
        Torch(Tokens(tied=True).double(), recipe=SGD(lr=0.1, epochs=3, batch_size=8)),
        examples({"input": np.arange(120).reshape(30, 4) % 11, "label": np.arange(30) % 11}),
        examples({"input": np.arange(20).reshape(5, 4) % 7, "label": np.arange(5)}),
    ),
    "two inputs": (
        Torch(TwoInputs().double(), recipe=RECIPES[5]),
        examples(
            {
                "a": np.random.default_rng(0).normal(size=(30, 2)),
                "b": np.ones((30, 3)),
                "label": np.arange(30) % 3,
            },
            inputs=("a", "b"),
        ),
        examples({"a": np.eye(2), "b": np.ones((2, 3)), "label": np.arange(2)}, inputs=("a", "b")),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_network_and_function_is_equal(case: str):
    learner, train, query = CASES[case]
    weights, seeds = weightings(5, 30, seed=4), [0, 1, 2, 3, 4]
    together = learner.measure_together(train, weights, seeds, query)
    np.testing.assert_allclose(
        together, one_by_one(learner, train, weights, seeds, query), rtol=1e-9, atol=1e-9
    )


def test_the_numbers_of_a_fit_do_not_depend_on_its_neighbours():
    learner, train, query = Torch(mlp(), recipe=RECIPES[1]), blobs(40), blobs(9, seed=1, prefix="q")
    weights, seeds = weightings(9, 40), list(range(9))
    whole = learner.measure_together(train, weights, seeds, query)
    for places in ([4], [8, 2], [1, 3, 5, 7]):
        some = learner.measure_together(train, weights[places], [seeds[k] for k in places], query)
        np.testing.assert_array_equal(some, whole[places])


def test_examples_of_their_own_weight_and_absent_ones_are_treated_as_fit_does():
    base = blobs(40)
    own = np.linspace(0.0, 2.0, 40)
    values = np.array(base.input()[:], dtype=np.float32)
    values[0] = np.nan  # weight 0: nobody may ever look at it
    train = examples({"input": values, "label": base.labels(), "weight": own})
    learner, query = Torch(mlp(dtype=torch.float64), recipe=RECIPES[0]), blobs(9, seed=1, prefix="q")
    weights = weightings(4, 40)
    together = learner.measure_together(train, weights, [0, 1, 2, 3], query)
    assert np.isfinite(together).all()
    np.testing.assert_allclose(
        together, one_by_one(learner, train, weights, [0, 1, 2, 3], query), rtol=1e-10, atol=1e-10
    )


def test_one_that_diverges_or_has_nothing_to_learn_is_nan_and_harms_no_other():
    base = blobs(24)
    values = np.array(base.input()[:], dtype=np.float32)
    values[5] = 1e30
    train = examples({"input": values, "label": base.labels()})
    learner, query = Torch(nn.Linear(4, 3), recipe=SGD(lr=1e9, epochs=3, batch_size=6)), blobs(5, seed=1)
    weights = np.ones((3, 24))
    weights[0, 5], weights[2] = 0.0, 0.0
    found = learner.measure_together(train, weights, [0, 0, 0], query)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    assert np.isnan(learner.measure_together(train, weights[2:], [0], query)).all()


def test_torch_is_left_as_it_was_found():
    learner, train, query = Torch(mlp(), recipe=RECIPES[0]), blobs(24), blobs(5, seed=1)
    before = torch.random.get_rng_state()
    state = {name: tensor.clone() for name, tensor in learner._net.state_dict().items()}
    learner.measure_together(train, np.ones((3, 24)), [0, 1, 2], query)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(state[name], tensor) for name, tensor in learner._net.state_dict().items())


def test_only_courses_of_equally_many_steps_share_a_stack():
    learner, train = Torch(mlp(), recipe=SGD(lr=0.1, epochs=2, batch_size=8)), blobs(40)
    weights = np.zeros((5, 40))
    for row, size in zip(weights, (40, 33, 32, 31, 5), strict=True):
        row[:size] = 1.0
    courses = [learner._course(RECIPES[0], train, row, 0) for row in weights]
    laid = [one for one in map(lay_out, courses) if one is not None]
    assert [part.tolist() for part in stacks(laid, 64)] == [[0, 1], [2, 3], [4]]
    assert [part.tolist() for part in stacks(laid[:2] * 2, 3)] == [[0, 1, 2], [3]]


class Draws(nn.Module):
    """Drops inputs by hand, which no look at the modules finds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.linear(nn.functional.dropout(values, 0.5, self.training))


class Branches(nn.Module):
    """Decides by the data, which cannot be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, values: Tensor) -> Tensor:
        found = self.linear(values)
        return found if found.sum() > 0 else -found


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), "1 normalises over the batch"),
        (nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1), nn.Linear(5, 3)), "dropout"),
        (Draws(), "cannot vectorise"),
        (Branches(), "cannot vectorise"),
    ],
)
def test_what_cannot_be_equal_is_not_offered_and_the_reason_is_told(net: nn.Module, reason: str):
    learner = Torch(net, recipe=SGD(lr=0.1, epochs=2, batch_size=8))
    assert learner.together(blobs(24)) == 1
    assert reason in learner.together_note(blobs(24))


def test_a_learner_without_a_recipe_offers_nothing():
    learner = Torch(mlp(), trained=True)
    assert isinstance(learner, HasFitsTogether)
    assert (learner.together(blobs(12)), learner.together_note(blobs(12))) == (1, "")
    with pytest.raises(CapabilityError):
        learner.measure_together(blobs(12), np.ones((2, 12)), [0, 1], blobs(3))


def test_small_networks_are_trained_side_by_side_and_large_ones_are_not():
    small = Torch(mlp(), recipe=SGD(lr=0.1, epochs=2, batch_size=8))
    assert small.together(blobs(24)) > 8
    assert "side by side" in small.together_note(blobs(24))
    assert (
        obstacle(nn.Linear(4000, 4000), SGD(lr=0.1, epochs=1)) == "it is too large to be held several times"
    )
    assert obstacle(nn.Linear(4, 4).half(), SGD(lr=0.1, epochs=1)) != ""
    assert obstacle(nn.Sequential(nn.LSTM(3, 4)), SGD(lr=0.1, epochs=1)) != ""
    assert obstacle(mlp(), None) != ""


def test_only_plain_layers_are_run_without_vmap():
    assert plain_layers(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))
    )
    assert plain_layers(nn.Linear(4, 3)) is not None
    assert plain_layers(nn.Sequential(nn.Conv1d(3, 3, 1))) is None
    assert plain_layers(Plain()) is None
    layer = nn.Linear(4, 3)
    layer.register_forward_hook(lambda module, args, output: output + 1)
    hooked = nn.Sequential(layer)
    assert plain_layers(hooked) is None
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert plain_layers(nn.Sequential(parametrised)) is None
