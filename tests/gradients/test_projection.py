"""Widths and sides of projections, and writing them in place."""

import numpy as np
import pytest
import torch

from steelyard.gradients.factors import Lookup, Outer, Rows
from steelyard.gradients.moments import inverse_roots, squares
from steelyard.gradients.projection import block_projector
from steelyard.gradients.signs import Projection, drawn, rademacher, sides


@pytest.mark.parametrize(
    ("shape", "dimension", "expected"),
    [
        ((128, 785), 512, (32, 16)),
        ((785, 128), 512, (16, 32)),
        ((10, 65), 512, (10, 51)),
        ((65, 10), 512, (51, 10)),
        ((4, 4), 512, (4, 4)),
        ((100, 100), 1000, (31, 32)),
        ((100, 100), 1, (1, 1)),
        ((1, 9), 4, (1, 4)),
    ],
)
def test_sides_are_near_square_and_within_block_and_dimension(shape, dimension, expected):
    kept = sides(shape, dimension)
    assert kept == expected
    assert kept[0] <= shape[0] and kept[1] <= shape[1]
    assert kept[0] * kept[1] <= dimension


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(40, 50), (3, 50), (50, 3), (3, 3)])
def test_written_features_equal_projected_full_gradients(positions, bias, rows, columns):
    torch.manual_seed(0)
    factors = Outer(torch.randn(5, positions, columns), torch.randn(5, positions, rows), bias)
    projector = block_projector(
        Projection(64, kind="two-sided"), factors.shape, name="layer", like=factors.grads
    )
    out = torch.full((5, projector.width + 4), np.nan)
    projector.write(factors, out[:, 2:-2])
    left = torch.eye(rows) if projector.left is None else projector.left
    expected = torch.einsum("nrc,rk,cl->nkl", factors.full(), left, projector.right).flatten(1)
    torch.testing.assert_close(out[:, 2:-2], expected, rtol=1e-4, atol=1e-4)
    assert out[:, :2].isnan().all() and out[:, -2:].isnan().all()
    torch.testing.assert_close(projector(factors), expected, rtol=1e-4, atol=1e-4)


def test_rows_without_structure_are_projected_as_they_are():
    values = torch.randn(4, 300)
    projector = block_projector(Projection(32, kind="two-sided"), (1, 300), name="norm", like=values)
    out = torch.empty(4, projector.width)
    projector.write(Rows(values), out)
    torch.testing.assert_close(out, values @ projector.right, rtol=1e-4, atol=1e-4)


KINDS = ("dense", "two-sided", "sparse", "factored-sparse")


def pair(generator: torch.Generator) -> tuple[Outer, Outer]:
    """Two correlated gradients of three positions each."""
    raw = torch.randn(1, 3, 30, generator=generator)
    grads = torch.randn(1, 3, 20, generator=generator)
    moved = raw + 0.5 * torch.randn(1, 3, 30, generator=generator)
    return Outer(raw, grads), Outer(moved, grads)


@pytest.mark.parametrize("kind", KINDS)
def test_dot_products_are_unbiased_and_their_error_falls(kind):
    """The mean over seeds is the dot product; four times the dimension halves the error of a dense projection."""
    first, second = pair(torch.Generator().manual_seed(0))
    exact = float((first.full() * second.full()).sum())
    spread = {}
    for dimension in (16, 144):
        found = []
        for seed in range(600):
            projection = Projection(dimension, kind, seed=seed)
            projector = block_projector(projection, first.shape, name="layer", like=first.grads)
            assert projector.width <= dimension
            found.append(float((projector(first) * projector(second)).sum()))
        spread[dimension] = np.std(found)
        assert abs(np.mean(found) - exact) < 4.5 * spread[dimension] / np.sqrt(len(found)), (kind, dimension)
    assert spread[144] < 0.62 * spread[16]
    if kind == "dense":
        # Var <Px, Py> = (|x|^2 |y|^2 + <x, y>^2 - 2 sum x_i^2 y_i^2) / k for signs.
        x, y = (float(f.full().square().sum()) for f in (first, second))
        shared = float((first.full() * second.full()).square().sum())
        expected = np.sqrt((x * y + exact**2 - 2 * shared) / 144)
        assert 0.9 < spread[144] / expected < 1.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [1, 4])
def test_every_form_of_a_gradient_is_projected_alike(kind, positions):
    """Factors, full matrices and rows go through one and the same matrix, whose gram is what it says."""
    torch.manual_seed(0)
    factors = Outer(torch.randn(6, positions, 9), torch.randn(6, positions, 7), bias=True)
    looked = Lookup(torch.randint(0, 7, (6, positions)), torch.randn(6, positions, 10), 7)
    projector = block_projector(Projection(12, kind), (7, 10), name="layer", like=factors.grads)
    basis = torch.eye(70).view(70, 7, 10)
    matrix = projector.matrices(basis)
    for given in (factors, looked):
        expected = given.full().flatten(1) @ matrix
        torch.testing.assert_close(projector(given), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projector.matrices(given.full()), expected, rtol=1e-4, atol=1e-5)
        out = torch.zeros(6, projector.width)
        projector.write(given, out)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(projector.gram().float(), matrix.T @ matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "two-sided"])
@pytest.mark.parametrize("shape", [(7, 10), (3, 10), (1, 30)])
def test_scales_go_into_the_matrices(kind, shape):
    torch.manual_seed(0)
    full, rows, columns = torch.randn(5, *shape), torch.rand(shape[0]), torch.rand(shape[1])
    projector = block_projector(Projection(12, kind), shape, name="layer", like=full)
    expected = projector.matrices(full * rows[:, None] * columns)
    torch.testing.assert_close(projector.scaled(rows, columns).matrices(full), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", [3, 40, 100])
def test_draws_are_distinct_and_the_same_everywhere(kept):
    found = drawn(100, kept, seed=1, name="layer")
    assert len(set(found.tolist())) == kept
    assert found.min() >= 0 and found.max() < 100
    np.testing.assert_array_equal(found, drawn(100, kept, seed=1, name="layer"))
    assert not np.array_equal(found, drawn(100, kept, seed=2, name="layer"))
    assert not np.array_equal(found, drawn(100, kept, seed=1, name="other"))


def test_draws_and_signs_are_those_of_every_machine():
    """Stores and run folders outlive machines: these numbers are part of their format."""
    assert drawn(1000, 5, seed=7, name="layer").tolist() == [912, 406, 981, 711, 933]
    assert drawn(8, 8, seed=7, name="layer").tolist() == [6, 0, 1, 5, 7, 4, 3, 2]
    assert rademacher(1, 12, seed=7, name="layer")[0].astype(int).tolist() == [
        -1,
        -1,
        -1,
        1,
        1,
        -1,
        -1,
        1,
        1,
        -1,
        1,
        -1,
    ]


def test_second_moments_by_rows_and_columns():
    """Sums of squares of full gradients, whatever their form; repeated words of a text add up first."""
    torch.manual_seed(0)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5])
    forms = {
        "one": Outer(torch.randn(4, 1, 5), torch.randn(4, 1, 3), bias=True),
        "many": Outer(torch.randn(4, 6, 5), torch.randn(4, 6, 3)),
        "words": Lookup(torch.randint(0, 3, (4, 6)), torch.randn(4, 6, 5), 8),
        "vector": Rows(torch.randn(4, 9)),
    }
    found = squares([(forms, weights), (forms, weights)])
    for name, factors in forms.items():
        total = 2 * torch.einsum("e,erc->rc", weights, factors.full().square())
        torch.testing.assert_close(found[name][0].float(), total.sum(1))
        torch.testing.assert_close(found[name][1].float(), total.sum(0))
    rows, columns = inverse_roots((torch.tensor([4.0, 0.0]), torch.tensor([1.0, 3.0])))
    torch.testing.assert_close(torch.outer(rows, columns)[0], torch.tensor([1.0, 3.0**-0.5]))
    assert not rows[1]
