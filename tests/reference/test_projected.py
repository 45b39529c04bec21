"""LoGra, GraSS, TrackStar and LESS against explicit projection matrices and dense loops."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import steelyard as sy
from steelyard.errors import CapabilityError, DataError, ModelError, SettingError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.signs import Projection, drawn, rademacher, sides
from steelyard.learners import SGD, Adam, AdamW, Torch
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.score import LESS, GraSS, LoGra, TrackStar

pytestmark = pytest.mark.reference
N, Q, CLASSES = 31, 6, 3
RANK = 3


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the matrices' entries, whose scale is rounded to float32."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def data(*, weighted: bool = False) -> tuple[Examples, Examples]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N + Q, 7))
    x[7] = x[3]  # a duplicate
    y = np.where(rng.random(N + Q) < 0.7, 0, rng.integers(0, CLASSES, N + Q)).astype(np.int64)
    y[7] = y[3]
    train = {"input": x[:N], "label": y[:N], "id": np.array([f"t{i}" for i in range(N)])}
    if weighted:
        train["weight"] = rng.choice([0.0, 0.5, 1.0, 3.0], N)
    query = {"input": x[N:], "label": y[N:], "id": np.array([f"q{i}" for i in range(Q)])}
    if weighted:
        query["weight"] = np.ones(Q)
    return sy.read(train), sy.read(query)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(7, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, CLASSES, bias=False)
    ).double()


SHAPES = {"0": (8, 8), "3": (3, 8), "vectors": (1, 16)}  # bias as a last column; scale and shift of the norm


def problem(*, decay: float = 0.0, weighted: bool = False, **settings) -> Problem:
    recipe = SGD(lr=0.1, epochs=1, batch_size=8, weight_decay=decay)
    return Problem(Torch(network(), recipe=recipe, trained=True, **settings), *data(weighted=weighted))


def parts(p: Problem, examples: Examples, model: object = None) -> dict[str, np.ndarray]:
    """Full gradients per layer as ``[example, row, column]``, cut by hand from flat ones."""
    fitted = p.learner.explained(p.train) if model is None else model
    rows = TorchGradients(p.learner, fitted, dtype=torch.float64).dense(examples, "loss")
    weight, bias, scale, shift, last = np.split(rows, [56, 64, 72, 80], axis=1)
    return {
        "0": np.concatenate([weight.reshape(-1, 8, 7), bias[:, :, None]], axis=2),
        "3": last.reshape(-1, CLASSES, 8),
        "vectors": np.concatenate([scale, shift], axis=1)[:, None, :],
    }


def two_sided(name: str, dimension: int) -> np.ndarray:
    """``[row * column, feature]`` The explicit matrix of one part."""
    rows, columns = SHAPES[name]
    if name == "vectors":
        if columns <= dimension:
            return np.eye(columns)
        # The norm layer is one block; its scale comes before its shift.
        return rademacher(columns, dimension, seed=0, name="1/vector") / np.sqrt(dimension)
    kept_rows, kept_columns = sides((rows, columns), dimension)

    def side(size: int, kept: int, role: str) -> np.ndarray:
        signs = rademacher(size, kept, seed=0, name=f"{name}/{role}") / np.sqrt(kept)
        return np.eye(size) if kept == size else signs

    return np.kron(side(rows, kept_rows, "left"), side(columns, kept_columns, "right"))


def sparse(name: str, dimension: int, mask: int, *, factored: bool) -> np.ndarray:
    rows, columns = SHAPES[name]
    if name == "vectors":
        return two_sided(name, dimension)
    total = rows * columns
    row_index, column_index = np.arange(rows), np.arange(columns)
    if factored:
        kept = sides((rows, columns), dimension * mask)
        row_index = drawn(rows, kept[0], seed=0, name=f"{name}/rows")
        column_index = drawn(columns, kept[1], seed=0, name=f"{name}/columns")
    places = (row_index[:, None] * columns + column_index).ravel()
    width = min(dimension, len(places))
    group = min(mask, -(-len(places) // width))
    count = min(len(places), width * group)
    entries = drawn(len(places), count, seed=0, name=f"{name}/entries")
    signs = rademacher(1, count, seed=0, name=f"{name}/signs")[0]
    matrix = np.zeros((total, width))
    for slot, (entry, sign) in enumerate(zip(entries, signs, strict=True)):
        matrix[places[entry], slot // group] = sign * np.sqrt(total / count)
    return matrix


def influence(p: Problem, matrices: dict[str, np.ndarray], *, decay: float, damping: float | str) -> dict:
    """Scores and self-influence with dense matrices, part by part."""
    g, q, weights = parts(p, p.train), parts(p, p.query), p.train.weights()
    present = (weights > 0).sum()
    raw, own = np.zeros((N, Q)), np.zeros(N)
    for name, matrix in matrices.items():
        phi, psi = (rows[name].reshape(len(rows[name]), -1) @ matrix for rows in (g, q))
        second = (phi * weights[:, None]).T @ phi / present
        value = 0.1 * np.trace(second) / len(second) if damping == "auto" else damping
        inverse = np.linalg.inv(present * (second + decay * matrix.T @ matrix + value * np.eye(len(second))))
        raw += phi @ inverse @ psi.T
        own += np.einsum("nk,kl,nl->n", phi, inverse, phi)
    return {"raw": raw * weights[:, None], "relatif": raw / np.sqrt(own)[:, None] * (weights > 0)[:, None]}


@pytest.mark.parametrize("damping", ["auto", 0.03])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_logra_with_explicit_matrices(decay: float, weighted: bool, damping: float | str) -> None:
    p = problem(decay=decay, weighted=weighted)
    matrices = {name: two_sided(name, RANK**2) for name in SHAPES}
    expected = influence(p, matrices, decay=decay, damping=damping)
    for relatif in (False, True):
        method = LoGra(rank=RANK, init="random", damping=damping, relatif=relatif)
        found = method(p)
        close(found.values, expected["relatif" if relatif else "raw"])
        assert found.unit == ("rank" if relatif else "nats")


def covariances(p: Problem) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Second moments of output gradients and inputs of each linear layer, one example at a time."""
    model, weights = p.learner.load(p.learner.explained(p.train)), p.train.weights()
    found = {}
    for name in ("0", "3"):
        layer, left, right = model.get_submodule(name), 0.0, 0.0
        for i, batch in enumerate(p.learner.batches(p.train, 1)):
            seen = []
            hook = layer.register_forward_hook(lambda _, a, out, seen=seen: seen.extend([a[0][0], out]))
            loss = p.learner.loss_function(model, batch)
            hook.remove()
            (grad,) = torch.autograd.grad(loss.sum(), [seen[1]])
            inputs = seen[0].detach().numpy()
            inputs = np.append(inputs, 1.0) if layer.bias is not None else inputs
            left = left + weights[i] * np.outer(grad[0], grad[0])
            right = right + weights[i] * np.outer(inputs, inputs)
        found[name] = left, right
    return found


@pytest.mark.parametrize("weighted", [False, True])
def test_logra_in_principal_components(weighted: bool) -> None:
    p = problem(weighted=weighted)
    matrices = {"vectors": two_sided("vectors", RANK**2)}
    for name, (left, right) in covariances(p).items():
        kept = sides(SHAPES[name], RANK**2)
        tops = [np.linalg.eigh(m)[1][:, ::-1][:, :k] for m, k in zip((left, right), kept, strict=True)]
        matrices[name] = np.kron(*tops)
    expected = influence(p, matrices, decay=0.0, damping=0.05)["raw"]
    found = LoGra(rank=RANK, init="pca", damping=0.05)(p).values
    close(found, expected)


def test_logra_keeps_everything_at_full_rank() -> None:
    p = problem()
    everything = {name: np.eye(rows * columns) for name, (rows, columns) in SHAPES.items()}
    expected = influence(p, everything, decay=0.0, damping=0.05)["raw"]
    for init in ("pca", "random"):
        found = LoGra(rank=16, init=init, damping=0.05)(p).values
        close(found, expected)


def test_exact_fisher_sums_over_outputs() -> None:
    p = problem()
    model = p.learner.load(p.learner.explained(p.train))
    parameters = list(model.parameters())
    total = 0.0
    for batch in p.learner.batches(p.train, 1):
        outputs = model(batch["input"])[0]
        jacobian = np.stack([
            torch.cat([g.flatten() for g in torch.autograd.grad(o, parameters, retain_graph=True)]).numpy()
            for o in outputs
        ])  # fmt: skip
        prob = outputs.detach().softmax(0).numpy()
        total = total + jacobian.T @ (np.diag(prob) - np.outer(prob, prob)) @ jacobian
    order = np.arange(104)
    weight, bias, norm, last = np.split(order, [56, 64, 80])
    first = np.concatenate([weight.reshape(8, 7), bias[:, None]], axis=1).ravel()
    g, q = (
        TorchGradients(p.learner, p.learner.explained(p.train)).dense(rows) for rows in (p.train, p.query)
    )
    expected = sum(
        g[:, part] @ np.linalg.inv(total[np.ix_(part, part)] + N * 0.05 * np.eye(len(part))) @ q[:, part].T
        for part in (first, norm, last)
    )
    found = LoGra(rank=16, init="random", fisher="exact", damping=0.05)(p).values
    close(found, expected)


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("dimension", [5, 9, 40])
def test_grass_with_explicit_matrices(dimension: int, factored: bool) -> None:
    p = problem(decay=0.02, weighted=True)
    matrices = {name: sparse(name, dimension, 4, factored=factored) for name in SHAPES}
    expected = influence(p, matrices, decay=0.02, damping=0.03)["raw"]
    found = GraSS(dimension=dimension, mask=4, factored=factored, damping=0.03)(p).values
    close(found, expected)


def cosines(
    g: dict, q: dict, weights: np.ndarray, roots: dict, *, mixing: float, damping: float | str
) -> np.ndarray:
    dots, own, asked = np.zeros((N, len(q["0"]))), np.zeros(N), np.zeros(len(q["0"]))
    for name in SHAPES:
        matrix = roots[name].reshape(-1, 1) * two_sided(name, RANK**2)
        phi, psi = (rows[name].reshape(len(rows[name]), -1) @ matrix for rows in (g, q))
        second = (phi * weights[:, None]).T @ phi / (weights > 0).sum()
        second = mixing * psi.T @ psi / len(psi) + (1 - mixing) * second
        value = 0.1 * np.trace(second) / len(second) if damping == "auto" else damping
        inverse = np.linalg.inv(second + value * np.eye(len(second)))
        dots += phi @ inverse @ psi.T
        own += np.einsum("nk,kl,nl->n", phi, inverse, phi)
        asked += np.einsum("nk,kl,nl->n", psi, inverse, psi)
    return dots / np.sqrt(own)[:, None] / np.sqrt(asked)


def rank_one_roots(second: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(np.outer(second.sum(1), second.sum(0)) / second.sum())


@pytest.mark.parametrize("damping", ["auto", 0.3])
@pytest.mark.parametrize("mixing", [0.0, 0.4])
@pytest.mark.parametrize("weighted", [False, True])
def test_trackstar_by_training_second_moment(weighted: bool, mixing: float, damping: float | str) -> None:
    p = problem(weighted=weighted)
    g, q, weights = parts(p, p.train), parts(p, p.query), p.train.weights()
    present = (weights > 0).sum()
    second = {name: np.einsum("n,nrc->rc", weights, rows**2) / present for name, rows in g.items()}
    roots = {name: rank_one_roots(matrix) for name, matrix in second.items()}
    expected = cosines(g, q, weights, roots, mixing=mixing, damping=damping)
    found = TrackStar(rank=RANK, second_moment="training", mixing=mixing, damping=damping)(p)
    close(found.values, expected)
    assert np.abs(found.values).max() <= 1 + 1e-9
    assert found.provenance.resolved["mixing"] == mixing


def trained(recipe: SGD | Adam | AdamW) -> Problem:
    return Problem(Torch(network(), recipe=recipe), *data())


def in_layers(values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Numbers per parameter, arranged like the gradient matrices of the layers, by hand."""
    v = {name: value.detach().double().numpy() for name, value in values.items()}
    return {
        "0": np.concatenate([v["0.weight"], v["0.bias"][:, None]], axis=1),
        "3": v["3.weight"],
        "vectors": np.concatenate([v["1.weight"], v["1.bias"]])[None],
    }


def test_trackstar_by_the_optimisers_second_moment() -> None:
    p = trained(Adam(lr=0.01, epochs=2, batch_size=8))
    fitted = p.learner.explained(p.train)
    second = in_layers(p.learner.moments(fitted).second)
    roots = {name: rank_one_roots(matrix) for name, matrix in second.items()}
    expected = cosines(
        parts(p, p.train, fitted), parts(p, p.query, fitted), np.ones(N), roots, mixing=0.0, damping="auto"
    )
    found = TrackStar(rank=RANK)(p)
    close(found.values, expected)
    assert found.provenance.resolved["second_moment"] == "the optimiser's"


def test_trackstar_mixes_queries_in_only_where_there_are_many() -> None:
    few, many = problem(), problem()
    many = Problem(many.learner, many.train, many.train)
    assert TrackStar(rank=RANK)(few).provenance.resolved["mixing"] == 0.0
    assert TrackStar(rank=RANK)(many).provenance.resolved["mixing"] == 0.9


def less_by_hand(p: Problem, directions: Callable[[object, dict], dict], matrices: dict) -> np.ndarray:
    """Sum over checkpoints of weighted cosines, with dense matrices."""
    scores, total = np.zeros((N, Q)), 0.0
    for model, rate in p.learner.checkpoints(p.learner.explained(p.train)):
        g, q = directions(model, parts(p, p.train, model)), parts(p, p.query, model)
        phi, psi = (
            np.concatenate([rows[n].reshape(len(rows[n]), -1) @ matrices[n] for n in SHAPES], axis=1)
            for rows in (g, q)
        )
        cosine = phi @ psi.T / np.linalg.norm(phi, axis=1)[:, None] / np.linalg.norm(psi, axis=1)
        scores, total = scores + rate * cosine, total + rate
    return scores / total


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_less_with_adams_direction(kind: type) -> None:
    recipe = kind(
        lr=0.02, epochs=3, batch_size=8, betas=(0.8, 0.95), eps=1e-5, checkpoints=3, schedule="linear"
    )
    p = trained(recipe)

    def directions(model: object, rows: dict) -> dict:
        moments = p.learner.moments(model)
        m, v = in_layers(moments.first), in_layers(moments.second)
        after = moments.step + 1
        found = {}
        for name, g in rows.items():
            mean = (0.8 * m[name] + 0.2 * g) / (1 - 0.8**after)
            square = (0.95 * v[name] + 0.05 * g**2) / (1 - 0.95**after)
            found[name] = mean / (np.sqrt(square) + 1e-5)
        return found

    expected = less_by_hand(p, directions, {name: two_sided(name, RANK**2) for name in SHAPES})
    found = LESS(dimension=RANK**2)(p)
    close(found.values, expected)
    assert found.provenance.resolved["direction"] == ["adam"]
    assert found.provenance.resolved["checkpoints"] == 3
    assert not np.allclose(found.values, LESS(dimension=RANK**2, direction="gradient")(p).values, atol=1e-3)


def test_adams_direction_is_its_next_step() -> None:
    """Torch itself takes the step, with one example's gradient as that of the batch."""
    p = trained(AdamW(lr=0.02, epochs=2, batch_size=8, weight_decay=0.0))
    fitted = p.learner.explained(p.train)
    moments, model = p.learner.moments(fitted), p.learner.load(fitted)
    rate, name = 0.02, "3.weight"
    from steelyard.collect.features import adam_features
    from steelyard.collect.gradients import gradients_at
    from steelyard.collect.optimiser_state import kept_state
    from steelyard.run import in_memory

    opened = gradients_at(p, fitted, in_memory())
    state = kept_state(p, opened, required=True, method="test")
    features = adam_features(p, opened, Projection(1000, "two-sided"), state, method="test")
    found = features(p.train, "loss")[:, dict(zip(features.names, features.columns, strict=True))["3"]]
    for i in range(3):
        parameter = nn.Parameter(dict(model.named_parameters())[name].detach().clone())
        optimiser = torch.optim.Adam([parameter], lr=rate)
        optimiser.state[parameter] = {
            "step": torch.tensor(float(moments.step)),
            "exp_avg": moments.first[name].clone(),
            "exp_avg_sq": moments.second[name].clone(),
        }
        parameter.grad = torch.from_numpy(parts(p, p.train, fitted)["3"][i])
        before = parameter.detach().clone()
        optimiser.step()
        step = ((before - parameter.detach()) / rate).flatten()
        np.testing.assert_allclose(found[i], step, rtol=1e-4, atol=1e-6)


def test_less_by_gradients_and_dense_projection() -> None:
    p = trained(SGD(lr=0.1, epochs=2, batch_size=8, checkpoints=2))
    blocks = {"0": ("0", 64), "3": ("3", 24), "vectors": ("1", 16)}
    matrices = {
        name: rademacher(size, 12, seed=0, name=f"{block}/dense") / np.sqrt(12)
        for name, (block, size) in blocks.items()
    }
    scores, total = np.zeros((N, Q)), 0.0
    for model, rate in p.learner.checkpoints(p.learner.explained(p.train)):
        g, q = parts(p, p.train, model), parts(p, p.query, model)
        phi, psi = (sum(rows[n].reshape(len(rows[n]), -1) @ matrices[n] for n in SHAPES) for rows in (g, q))
        cosine = phi @ psi.T / np.linalg.norm(phi, axis=1)[:, None] / np.linalg.norm(psi, axis=1)
        scores, total = scores + rate * cosine, total + rate
    found = LESS(dimension=12, projection="dense")(p)
    close(found.values, scores / total)
    assert found.provenance.resolved["direction"] == ["gradient"]


def saved(p: Problem, path: Path, *, groups: str, steps: int = 4) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train a copy with plain torch and save its optimiser."""
    model = network()
    names = dict(model.named_parameters())
    plain = [n for n in names if n.startswith("1.") or n.endswith("bias")]
    if groups == "two":
        given = [
            {"params": [v for n, v in names.items() if n not in plain], "weight_decay": 0.01},
            {"params": [names[n] for n in names if n in plain], "weight_decay": 0.0},
        ]
    else:
        given = list(names.items()) if groups == "named" else list(names.values())
    optimiser = torch.optim.AdamW(given, lr=0.01)
    for batch in list(p.learner.batches(p.train, 8))[:steps]:
        optimiser.zero_grad()
        p.learner.loss_function(model, batch).mean().backward()
        optimiser.step()
    torch.save(optimiser.state_dict(), path)
    return model, optimiser


@pytest.mark.parametrize("groups", ["one", "two", "named"])
def test_a_saved_state_finds_its_parameters(groups: str, tmp_path: Path) -> None:
    p = problem()
    model, optimiser = saved(p, tmp_path / "optimizer.pt", groups=groups)
    p = Problem(Torch(model, trained=True), p.train, p.query)
    from steelyard.collect.gradients import gradients_at
    from steelyard.collect.optimiser_state import saved_state
    from steelyard.run import in_memory

    state = saved_state(
        p, gradients_at(p, p.learner.explained(p.train), in_memory()), tmp_path / "optimizer.pt"
    )
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state.second[name], optimiser.state[parameter]["exp_avg_sq"])
    assert (state.step, state.betas, state.eps) == (4, (0.9, 0.999), 1e-8)
    path = str(tmp_path / "optimizer.pt")
    assert LESS(states=(path,))(p).provenance.resolved["direction"] == ["adam"]
    assert path in TrackStar(state=path)(p).provenance.resolved["second_moment"]


def refused(p: Problem, path: Path, *words: str) -> None:
    kind = DataError if "read" in words or "no such file" in words else ModelError
    with pytest.raises(kind) as caught:
        LESS(states=(str(path),))(p)
    assert all(word in str(caught.value) for word in (path.name, *words)), str(caught.value)


def test_states_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    p, path = problem(), tmp_path / "optimizer.pt"
    refused(p, path, "no such file")
    path.write_bytes(b"nothing of torch")
    refused(p, path, "read")
    torch.save({"a": 1}, path)
    refused(p, path, "not the state of an optimiser", "a")
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    p.learner.loss_function(model, next(iter(p.learner.batches(p.train, 8)))).mean().backward()
    optimiser.step()
    torch.save(optimiser.state_dict(), path)
    refused(p, path, "not the state of Adam", "momentum_buffer")
    saved(p, path, groups="one")
    found = torch.load(path, weights_only=True)
    found["state"][0]["exp_avg"] = torch.zeros(9, 7)
    torch.save(found, path)
    refused(p, path, "(9, 7)", "0.weight")
    found["param_groups"][0]["params"].pop()
    torch.save(found, path)
    refused(p, path, "4 parameters", "5")


def test_settings_without_meaning_are_refused(tmp_path: Path) -> None:
    p = problem()
    two = (str(tmp_path / "a.pt"), str(tmp_path / "b.pt"))
    for path in two:
        Path(path).touch()
    with pytest.raises(SettingError, match="2 optimiser states for 1 checkpoints"):
        LESS(states=two)(p)
    with pytest.raises(SettingError, match="1 are known"):
        LESS(checkpoints=2)(p)
    with pytest.raises(CapabilityError, match="moments"):
        LESS(direction="adam")(p)
    with pytest.raises(CapabilityError, match="moments"):
        TrackStar(second_moment="optimiser")(p)
    for method in (LoGra(rank=0), GraSS(mask=0), TrackStar(rank=0), LESS(dimension=0), TrackStar(mixing=2)):
        with pytest.raises(SettingError):
            method(p)
    with pytest.raises(SettingError, match="damping"):
        LoGra(damping=-1)(p)
    three = trained(Adam(lr=0.01, epochs=3, batch_size=8, checkpoints=3))
    with pytest.raises(SettingError, match="2 optimiser states for 3 checkpoints"):
        LESS(states=two)(three)


def test_a_missing_state_is_said_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: object, **__: object) -> None:
        raise AssertionError("it was trained first")

    p, there = trained(Adam(lr=0.01, epochs=3, batch_size=8, checkpoints=2)), tmp_path / "a.pt"
    there.touch()
    monkeypatch.setattr(Torch, "fit", fit)
    with pytest.raises(DataError, match=r"of the 2 .* no such file as b\.pt\.") as caught:
        LESS(states=(str(there), "b.pt"))(p)
    assert "a.pt" not in caught.value.problem


def test_a_kept_training_with_a_checkpoint_missing_is_refused() -> None:
    p = trained(Adam(lr=0.01, epochs=2, batch_size=8, checkpoints=2))
    fitted = p.learner.fit(p.train)
    arrays = dict(p.learner.dump(fitted))
    assert len(p.learner.restore(arrays).checkpoints) == 2
    del arrays["checkpoint0:0.weight"]
    with pytest.raises(ModelError, match=r"checkpoint 1 of 2 .* lacks 1 of \d+ parameters: 0\.weight"):
        p.learner.restore(arrays)


def test_a_state_whose_second_moments_have_another_shape(tmp_path: Path) -> None:
    p, path = problem(), tmp_path / "optimizer.pt"
    saved(p, path, groups="one")
    found = torch.load(path, weights_only=True)
    found["state"][0]["exp_avg_sq"] = torch.zeros(9, 7)
    torch.save(found, path)
    refused(p, path, "(9, 7)", "0.weight")


def test_linear_models_are_sent_elsewhere() -> None:
    from sklearn.linear_model import LogisticRegression

    p = Problem(sy.learners.Sklearn(LogisticRegression()), *data())
    for method in (LoGra(), GraSS(), TrackStar(), LESS()):
        with pytest.raises(CapabilityError, match="gauss_newton"):
            method(p)


def test_a_margin_turns_the_sign() -> None:
    loss, margin = problem(), problem(measurement="margin")
    for method in (LoGra(rank=RANK), GraSS(dimension=9), TrackStar(rank=RANK), LESS()):
        agree = np.sign(method(loss).values) == np.sign(method(margin).values)
        assert agree.mean() > 0.9, method
