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
from benchmarks.runners.exchange import Answer, Job
from steelyard.collect.fits import ensemble, explained

Pair = tuple[np.ndarray, np.ndarray]

_DIMENSION = 512
_ENSEMBLE = 5
_CHECKPOINTS = 10
_SEEDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        who: Whose implementation.
        method: What, with its settings.
        lds: For the loss of the queries.
        seconds: From the trained model or models to the scores.
        scores: ``float["train query"]``
    """

    who: str
    method: str
    lds: float
    seconds: float
    scores: np.ndarray


def main(given: Options) -> None:
    """Both tables."""
    found = truth(REDUCED if given.reduced else FULL)
    job = as_job(found, given)
    floor = _floor(found, given.repeats)
    rows = [*_ours(found, job), *_ours_with_training(found, given)]
    if given.peers:
        rows += peer_rows(found, job, given)
    rows.sort(key=lambda row: -row.lds)
    show(
        f"digits: LDS (ceiling {found.ceiling():.2f}) and seconds, {given.threads} threads; floor = one bare "
        f"forward and backward pass over training examples and queries, {floor * 1000:.1f} ms",
        ("who", "method", "LDS", "seconds", "x floor"),
        [(row.who, row.method, row.lds, row.seconds, row.seconds / floor) for row in rows],
    )
    ahead = _ahead(found, rows)
    print(f"\n{ahead}" if ahead else "")
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
            "lds": [
                {name: getattr(row, name) for name in ("who", "method", "lds", "seconds")} for row in rows
            ],
            "ahead": ahead,
            "softmax": [
                dict(zip(("data", "who", "pearson", "spearman"), row, strict=True)) for row in agreement
            ],
        },
    )


def _ahead(found: Truth, rows: Sequence[Row]) -> str:
    """How far our EK-FAC is ahead of the best peer, whichever that is; empty without peers."""
    peers = [row for row in rows if row.who != "steelyard"]
    if not peers:
        return ""
    best = max(peers, key=lambda row: row.lds)
    ours = next(row for row in rows if (row.who, row.method) == ("steelyard", "ekfac"))
    difference, low, high = found.ahead(ours.scores, best.scores)
    return (
        f"LDS of our ekfac minus that of the best peer ({best.who} {best.method}): {difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}] at 95 %, subsets and queries resampled; time {best.seconds / ours.seconds:.1f} x."
    )


def as_job(found: Truth, given: Options) -> Job:
    """The explained model with its data, as runners take it."""
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
        "gauss_newton",
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
        rows.append(_row(found, "steelyard", name, answer))
    return rows


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
        rows.append(Row("steelyard", _label(method), found.lds(scores), float(np.median(seconds)), scores))
    return rows


def _kept(folder: str) -> AbstractContextManager[sy.run.Run]:
    return sy.open_run(Path(folder) / "run", {"command": "benchmark"}, show="quiet")


def _label(method: Any) -> str:
    return (
        f"trak, {_ENSEMBLE} models"
        if isinstance(method, sy.score.TRAK)
        else f"tracin, {_CHECKPOINTS} checkpoints"
    )


def peer_rows(found: Truth, job: Job, given: Options) -> list[Row]:
    """Every peer at its best: at one model, and with the training that its method asks for."""
    return [*_peers(found, job, given), *_peers_with_training(found, job, given)]


def _peers(found: Truth, job: Job, given: Options) -> list[Row]:
    rows = [
        _kronfluence(found, job, given, "as it comes (1e-8)", 1e-8),
        _kronfluence(found, job, given, "0.1 x mean eigenvalue", None),
        _best(found, job, given, "dattri", "ekfac", "damping", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
    ]
    for label, method in (("as it comes", "ekfac"), ("labels drawn for the Fisher", "ekfac_drawn")):
        answer = run("logix", _with(job, method, {}), given.peers)
        rows.append(_row(found, "logix", f"ekfac, {label}", answer))
    for who in ("dattri", "traker"):
        answer = run(who, _with(job, "trak", {"dimension": _DIMENSION}), given.peers)
        rows.append(_row(found, who, f"trak, 1 model, dimension {_DIMENSION}", answer))
    answer = run("captum", _with(job, "tracin", {}), given.peers)
    return [*rows, _row(found, "captum", "tracin, 1 checkpoint", answer)]


def _kronfluence(found: Truth, job: Job, given: Options, label: str, damping: float | None) -> Row:
    """The seed in the middle by LDS, because its Fisher draws labels at random."""
    answers = [
        run("kronfluence", _with(job, "ekfac", {"damping": damping, "seed": seed}), given.peers)
        for seed in range(_SEEDS)
    ]
    answers.sort(key=lambda answer: found.lds(answer.scores))
    low, high = (found.lds(answers[k].scores) for k in (0, -1))
    method = f"ekfac, damping {label}, median of {_SEEDS} seeds ({low:.3f} to {high:.3f})"
    return _row(found, "kronfluence", method, answers[_SEEDS // 2])


def _row(found: Truth, who: str, method: str, answer: Answer) -> Row:
    return Row(who, method, found.lds(answer.scores), answer.median, answer.scores)


def _best(
    found: Truth, job: Job, given: Options, who: str, method: str, setting: str, values: Sequence[float]
) -> Row:
    answers = [(run(who, _with(job, method, {setting: value}), given.peers), value) for value in values]
    answer, value = max(answers, key=lambda pair: np.nan_to_num(found.lds(pair[0].scores), nan=-1.0))
    return _row(found, who, f"{method}, {setting} {value:g} (best of {len(values)} by LDS)", answer)


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
        _row(found, "traker", f"trak, {_ENSEMBLE} models, dimension {_DIMENSION}", several),
        _row(found, "captum", f"tracin, {len(points)} checkpoints", traced),
    ]


def _softmax(given: Options) -> list[tuple[str, str, float, float]]:
    """Agreement on linear models with bias, where exact influence is a closed form computed right here."""
    from scipy.stats import spearmanr

    size = REDUCED if given.reduced else FULL
    rows = []
    for data, (train, query) in {"random, 5 classes": _random(size), "digits": arrays(size)}.items():
        state = _linear(train, query)
        expected, damping = _exact(state, train, query)
        job = Job("ekfac", {}, train, query, (state,), threads=given.threads, repeats=1)
        for who in ("steelyard", *(("kronfluence", "dattri", "logix") if given.peers else ())):
            # These draw labels at random for their Fisher; the others are deterministic.
            random = who in ("kronfluence", "logix")
            drawn = [{"seed": seed} for seed in range(_SEEDS)] if random else [{}]
            found = []
            for seed in drawn:
                method = "ekfac_drawn" if who == "logix" else "ekfac"
                asked = _with(job, method, {"damping": damping, **seed})
                scores = run(who, asked, given.peers).scores.ravel()
                pearson = np.corrcoef(scores, expected.ravel())[0, 1]
                found.append((float(pearson), float(spearmanr(scores, expected.ravel()).statistic)))
            label = who if len(found) == 1 else f"{who}, median of {_SEEDS} seeds"
            rows.append((data, label, *(float(np.median(values)) for values in zip(*found, strict=True))))
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
