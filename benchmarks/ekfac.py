"""EK-FAC: does it predict retraining better than the peers' does, and how much sooner?

    python -m benchmarks.ekfac --peers

First table: LDS on digits against the retraining of ``benchmarks.digits``, with the time from model to
scores. Every method explains the same model. No setting of ours is chosen by LDS; where a peer has no default
that works, the best of several settings *by LDS* is shown, which favours the peer. Second table: agreement of
scores with exact damped Gauss-Newton influence on softmax regression, all with the same damping.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks.digits import ACTIVATION, FULL, REDUCED, WEIGHT_DECAY, Size, Truth, arrays, problem, truth
from benchmarks.measure import Options, median_seconds, options, record, run, show
from benchmarks.runners.exchange import Job
from steelyard.collect.fits import ensemble, explained

Pair = tuple[np.ndarray, np.ndarray]

_DIMENSION = 512
_ENSEMBLE = 5
_CHECKPOINTS = 10


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        who: Whose implementation.
        method: What, with its settings.
        lds: For the loss of the queries.
        seconds: From the trained model or models to the scores.
    """

    who: str
    method: str
    lds: float
    seconds: float


def main(given: Options) -> None:
    """Both tables."""
    import torch

    torch.set_num_threads(given.threads)
    found = truth(REDUCED if given.reduced else FULL)
    job = _job(found, given)
    floor = _floor(found, given.repeats)
    rows = [*_ours(found, job), *_ours_with_training(found, given)]
    if given.peers:
        rows += [*_peers(found, job, given), *_peers_with_training(found, job, given)]
    rows.sort(key=lambda row: -row.lds)
    show(
        f"digits: LDS (ceiling {found.ceiling():.2f}) and seconds, {given.threads} threads; floor = one bare "
        f"forward and backward pass over training examples and queries, {floor * 1000:.1f} ms",
        ("who", "method", "LDS", "seconds", "x floor"),
        [(row.who, row.method, row.lds, row.seconds, row.seconds / floor) for row in rows],
    )
    agreement = _softmax(given)
    show(
        "softmax regression: agreement with exact damped Gauss-Newton",
        ("data", "who", "Pearson", "Spearman"),
        agreement,
    )
    record(
        "ekfac",
        given,
        {
            "ceiling": found.ceiling(),
            "floor_seconds": floor,
            "lds": [vars(row) for row in rows],
            "softmax": [
                dict(zip(("data", "who", "pearson", "spearman"), row, strict=True)) for row in agreement
            ],
        },
    )


def _job(found: Truth, given: Options) -> Job:
    asked = found.problem
    fitted = asked.learner.explained(asked.train, asked.seed)
    size = REDUCED if given.reduced else FULL
    state = _state(fitted)
    return Job("", {}, *arrays(size), (state,), ACTIVATION, WEIGHT_DECAY, given.threads, given.repeats)


def _state(fitted: Any) -> dict[str, np.ndarray]:
    return {name: values.detach().numpy() for name, values in fitted.parameters.items()}


def _floor(found: Truth, repeats: int) -> float:
    import torch

    asked = found.problem
    model = asked.learner.load(asked.learner.explained(asked.train, asked.seed))
    batches = [*asked.learner.batches(asked.train, 250), *asked.learner.batches(asked.query, 250)]

    def work() -> None:
        for batch in batches:
            torch.autograd.grad(asked.learner.loss_function(model, batch).sum(), list(model.parameters()))

    return median_seconds(work, max(repeats, 11))


def _with(job: Job, method: str, settings: dict[str, Any], states: tuple | None = None) -> Job:
    return replace(job, method=method, settings=settings, states=job.states if states is None else states)


def _ours(found: Truth, job: Job) -> list[Row]:
    asked = [
        "ekfac",
        "kfac",
        "grad_dot",
        "grad_cos",
        "trak",
        "class_similarity",
        "embedding_cosine",
        "knn_shapley",
    ]
    rows = []
    for name in [*asked, "random"]:
        answer = run("steelyard", _with(job, name, {}), None)
        rows.append(Row("steelyard", name, found.lds(answer.scores), answer.median))
    # A tenth of the mean eigenvalue, as EK-FAC takes it: the network's curvature is nearly singular.
    for label, settings in (("damping=auto", {}), ("0.1 x mean eigenvalue", {"damping": _tenth(found)})):
        answer = run("steelyard", _with(job, "gauss_newton", settings), None)
        rows.append(
            Row(
                "steelyard",
                f"gauss_newton, {label}, exact in float64",
                found.lds(answer.scores),
                answer.median,
            )
        )
    return rows


def _tenth(found: Truth) -> float:
    asked = found.problem
    fitted = asked.learner.explained(asked.train, asked.seed)
    hessian = asked.learner.hessian(fitted, asked.train)
    return 0.1 * float(np.trace(hessian)) / len(hessian) / len(asked.train)


def _ours_with_training(found: Truth, given: Options) -> list[Row]:
    """Methods that use more than the final model; their models are trained before the clock starts."""
    size = REDUCED if given.reduced else FULL
    several = sy.score.TRAK(models=_ENSEMBLE, dimension=_DIMENSION)
    along = problem(size, checkpoints=_CHECKPOINTS)
    rows = []
    for method, asked in ((several, found.problem), (sy.score.TracIn(), along)):
        seconds, scores = [], np.zeros((0, 0))
        for _ in range(given.repeats):
            with tempfile.TemporaryDirectory() as folder, _kept(folder) as kept:
                ensemble(asked, _ENSEMBLE, kept)
                start = time.perf_counter()
                scores = np.array(method(asked, kept).values)
                seconds.append(time.perf_counter() - start)
        rows.append(Row("steelyard", _label(method), found.lds(scores), float(np.median(seconds))))
    return rows


def _kept(folder: str) -> AbstractContextManager[sy.run.Run]:
    return sy.open_run(Path(folder) / "run", {"command": "benchmark"}, show="quiet")


def _label(method: Any) -> str:
    return (
        f"trak, {_ENSEMBLE} models"
        if isinstance(method, sy.score.TRAK)
        else f"tracin, {_CHECKPOINTS} checkpoints"
    )


def _peers(found: Truth, job: Job, given: Options) -> list[Row]:
    rows = []
    for label, damping in (("as it comes (1e-8)", 1e-8), ("0.1 x mean eigenvalue", None)):
        answer = run("kronfluence", _with(job, "ekfac", {"damping": damping}), given.peers)
        rows.append(Row("kronfluence", f"ekfac, damping {label}", found.lds(answer.scores), answer.median))
    rows.append(
        _best(found, job, given, "dattri", "ekfac", "damping", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
    )
    for who, method in (("dattri", "trak"), ("traker", "trak")):
        answer = run(who, _with(job, method, {"dimension": _DIMENSION}), given.peers)
        rows.append(
            Row(who, f"trak, 1 model, dimension {_DIMENSION}", found.lds(answer.scores), answer.median)
        )
    answer = run("captum", _with(job, "tracin", {}), given.peers)
    rows.append(Row("captum", "tracin, 1 checkpoint", found.lds(answer.scores), answer.median))
    return rows


def _best(  # one argument per thing that varies
    found: Truth, job: Job, given: Options, who: str, method: str, setting: str, values: Sequence[float]
) -> Row:
    answers = [(run(who, _with(job, method, {setting: value}), given.peers), value) for value in values]
    answer, value = max(answers, key=lambda pair: np.nan_to_num(found.lds(pair[0].scores), nan=-1.0))
    return Row(
        who,
        f"{method}, {setting} {value:g} (best of {len(values)} by LDS)",
        found.lds(answer.scores),
        answer.median,
    )


def _peers_with_training(found: Truth, job: Job, given: Options) -> list[Row]:
    size = REDUCED if given.reduced else FULL
    with tempfile.TemporaryDirectory() as folder, _kept(folder) as kept:
        models = ensemble(found.problem, _ENSEMBLE, kept)
        along = problem(size, checkpoints=_CHECKPOINTS)
        points = list(along.learner.checkpoints(explained(along, kept)))
    states = tuple(_state(model) for model in models)
    several = run("traker", _with(job, "trak", {"dimension": _DIMENSION}, states), given.peers)
    rates = [rate for _, rate in points]
    states = tuple(_state(model) for model, _ in points)
    traced = run("captum", _with(job, "tracin", {"learning_rates": rates}, states), given.peers)
    return [
        Row(
            "traker",
            f"trak, {_ENSEMBLE} models, dimension {_DIMENSION}",
            found.lds(several.scores),
            several.median,
        ),
        Row("captum", f"tracin, {len(points)} checkpoints", found.lds(traced.scores), traced.median),
    ]


def _softmax(given: Options) -> list[tuple[str, str, float, float]]:
    """Agreement on linear models with bias, where exact influence is a closed form computed right here."""
    from scipy.stats import spearmanr

    size = REDUCED if given.reduced else FULL
    rows = []
    for data, (train, query) in {"random, 5 classes": _random(size), "digits": arrays(size)}.items():
        state = _linear(train, query)
        expected, damping = _exact(state, train, query)
        job = Job("ekfac", {"damping": damping}, train, query, (state,), threads=given.threads, repeats=1)
        for who in ("steelyard", *(("kronfluence", "dattri") if given.peers else ())):
            scores = run(who, job, given.peers).scores.ravel()
            pearson = float(np.corrcoef(scores, expected.ravel())[0, 1])
            rows.append((data, who, pearson, float(spearmanr(scores, expected.ravel()).statistic)))
    return rows


def _random(size: Size) -> tuple[Pair, Pair]:
    """Labels drawn from a softmax model of 20 normal features: predictions stay uncertain."""
    generator = np.random.default_rng(0)
    weight = 0.3 * generator.normal(size=(20, 5))
    inputs = generator.normal(size=(size.train + size.query, 20)).astype(np.float32)
    labels = (inputs @ weight + generator.gumbel(size=(len(inputs), 5))).argmax(axis=1)
    return (inputs[: size.train], labels[: size.train]), (inputs[size.train :], labels[size.train :])


def _linear(train: Pair, query: Pair) -> dict[str, np.ndarray]:
    """Parameters of a softmax regression trained on the examples."""
    import torch

    torch.manual_seed(0)
    recipe = sy.learners.SGD(lr=0.1, momentum=0.9, epochs=30, batch_size=50)
    net = torch.nn.Linear(train[0].shape[1], int(train[1].max()) + 1)
    asked = sy.Problem(sy.learners.Torch(net, recipe=recipe), train=train, query=query)
    return {f"0.{name}": values for name, values in _state(asked.learner.explained(asked.train)).items()}


def _exact(state: dict[str, np.ndarray], train: Pair, query: Pair) -> tuple[np.ndarray, float]:
    """``float64["train query"]`` exact damped influence of softmax regression, and the damping.

    The Hessian of the mean loss is the mean of ``(diag p - p p^T) kron x x^T`` with a 1 appended to x; the
    damping is a tenth of its mean eigenvalue.
    """
    weight, bias = (state[f"0.{name}"].astype(np.float64) for name in ("weight", "bias"))

    def parts(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        inputs = np.concatenate([pair[0].astype(np.float64), np.ones((len(pair[1]), 1))], axis=1)
        logits = pair[0] @ weight.T + bias
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        errors = chances - np.eye(len(bias))[pair[1]]
        return inputs, chances, np.einsum("nc,nf->ncf", errors, inputs).reshape(len(inputs), -1)

    inputs, chances, rows = parts(train)
    curvature = np.einsum("nc,cd->ncd", chances, np.eye(len(bias))) - np.einsum(
        "nc,nd->ncd", chances, chances
    )
    hessian = np.einsum("ncd,nf,ng->cfdg", curvature, inputs, inputs, optimize=True) / len(inputs)
    hessian = hessian.reshape(rows.shape[1], rows.shape[1])
    damping = 0.1 * float(np.trace(hessian)) / len(hessian)
    columns = parts(query)[2]
    return rows @ np.linalg.solve(hessian + damping * np.eye(len(hessian)), columns.T), damping


if __name__ == "__main__":
    main(options(__doc__))
