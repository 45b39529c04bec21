"""The training of a problem in segments of constant curvature, for SOURCE; curvature is kept in the run folder."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from steelyard.collect.curvature import resolve_fisher
from steelyard.collect.fits import explained
from steelyard.collect.gradients import Fitted, gradients_at
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.dense import gauss_newton
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factors import Rows
from steelyard.gradients.fisher import Fisher, HasOutputs, fisher_gradients
from steelyard.gradients.kronecker import EigenBlock, Weighted, eigen_blocks, fit_bases, fit_eigenvalues
from steelyard.gradients.queries import QuerySide
from steelyard.gradients.unrolling import Segment, block_matrix, fit_preconditioned, unrolled
from steelyard.learners.recipes import SGD, AdamW, penalty
from steelyard.learners.torch_spans import Span
from steelyard.problem import HasSpans, Problem, require
from steelyard.run import Run
from steelyard.run.seeds import stream

Curvature = Literal["ekfac", "exact"]
_WHOLE = "all parameters"


@dataclass(frozen=True, eq=False)
class Stretch:
    """Some spans of one stage, with one curvature.

    Attributes:
        points: The model and its gradients after every span.
        segment: Curvature and horizon.
        side: The queries, as :meth:`product` takes them.
        rows: Positions of the training examples of the stage.
        stage: Number of the stage, from 0.
    """

    points: tuple[Fitted, ...]
    segment: Segment
    side: QuerySide | np.ndarray
    rows: Int[np.ndarray, " row"]
    stage: int


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A training in segments, and what was resolved.

    Attributes:
        stretches: In the order of training.
        resolved: Plain values for the record.
    """

    stretches: tuple[Stretch, ...]
    resolved: Mapping[str, Any]


def unroll(
    problem: Problem, run: Run, *, segments: int, curvature: Curvature, fisher: Fisher | Literal["auto"]
) -> Unrolled:
    """Cut the training into segments, fit their curvature, and carry the queries back through them.

    Cost: per kept state two passes over the examples of its stage for the curvature; one pass over the queries.

    Args:
        problem: Whose learner knows its training.
        run: Where curvature is kept.
        segments: At most so many per stage; states are shared out evenly.
        curvature: ``"ekfac"``, or ``"exact"`` for models of up to 20,000 parameters.
        fisher: Which gradients EK-FAC is made of.

    Raises:
        CapabilityError: If the training is not known.
        SettingError: If there is no segment.
    """
    if segments < 1:
        raise SettingError(f"SOURCE: segments={segments}.", fix="ask for at least one segment per stage.")
    learner = require(problem.learner, HasSpans, method="SOURCE", instead="ekfac or leave_one_out")
    spans: Sequence[Span] = learner.spans(explained(problem, run), problem.train)
    groups = _grouped(spans, segments)
    if len(spans) == 1:
        run.note(
            "the training kept only its last state; checkpoints=6 in the recipe gives SOURCE its segments."
        )
    stretches: list[Stretch] = []
    facts: dict[str, Any] = {"fisher": "not used"}
    for number, group in enumerate(groups):
        points = tuple(gradients_at(problem, span.fitted, run) for span in group)
        if not isinstance(points[0].gradients, TorchGradients):
            raise CapabilityError("SOURCE needs the layers of a network.", fix="use gauss_newton.")
        part = _Part(problem, run, group, points, number)
        if curvature == "exact":
            segment = part.exact()
        else:
            chosen, why = resolve_fisher(problem, points[-1], fisher)
            facts |= {"fisher": chosen, "fisher_reason": why}
            segment = part.factored(chosen)
        stretches.append(Stretch(points, segment, np.zeros(0), group[0].rows, group[0].stage))
    ready = _with_queries(problem, run, stretches, dense=curvature == "exact")
    facts |= {
        "segments": [
            {"stage": s.stage, "states": len(s.points), "horizon": s.segment.horizon, "examples": len(s.rows)}
            for s in ready
        ]
    }
    return Unrolled(ready, facts)


def product(
    problem: Problem, stretch: Stretch, rows: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row query"]:
    """Effect of those rows' weights by way of one stretch: positive where training on them helps.

    Args:
        problem: The problem.
        stretch: One of :func:`unroll`'s.
        rows: Positions of training examples, all of the stretch's stage.
    """
    examples = problem.train.take(rows)
    total = np.zeros((len(rows), len(problem.query)))
    for point in stretch.points:
        point.run.spend(gradients=len(rows))
        engine = cast(TorchGradients, point.gradients)
        if isinstance(stretch.side, QuerySide):
            total += engine.products(examples, stretch.side)
        else:
            total += engine.widened().dense(examples, "loss") @ stretch.side.T
    return total / (len(stretch.points) * len(stretch.rows))


def _grouped(spans: Sequence[Span], segments: int) -> list[list[Span]]:
    """Spans of every stage in at most that many groups of even size."""
    groups: list[list[Span]] = []
    for stage in sorted({span.stage for span in spans}):
        own = [span for span in spans if span.stage == stage]
        cuts = np.array_split(np.arange(len(own)), min(segments, len(own)))
        groups += [[own[k] for k in cut] for cut in cuts]
    return groups


def horizon(span: Span) -> float:
    """Sum of the learning rates of a span, times what momentum multiplies every step with in the long run."""
    recipe = span.recipe
    return span.learning_rate / (1 - recipe.momentum) if isinstance(recipe, SGD) else span.learning_rate


def preconditioner_root(spans: Sequence[Span]) -> dict[str, Tensor]:
    """Square root of Adam's diagonal preconditioner, averaged over states; empty for SGD.

    0 where a parameter never had a gradient: the optimiser does not move it.

    Raises:
        CapabilityError: If the moments were not kept.
    """
    recipe = spans[0].recipe
    if isinstance(recipe, SGD):
        return {}
    total: dict[str, Tensor] = {}
    for span in spans:
        moments = span.fitted.moments
        if moments is None:
            raise CapabilityError(
                "the training kept no moments of Adam beside its states.",
                fix="train again in this version, or use ekfac.",
            )
        correction = 1 - recipe.betas[1] ** moments.step
        for name, square in moments.second.items():
            scale = 1.0 / ((square.double().cpu() / correction).sqrt() + recipe.eps)
            part = torch.where(square.cpu() > 0, scale, 0.0) / len(spans)
            total[name] = total[name] + part if name in total else part
    return {name: value.sqrt() for name, value in total.items()}


@dataclass(frozen=True, eq=False)
class _Part:
    """One group of spans on its way to a segment."""

    problem: Problem
    run: Run
    spans: Sequence[Span]
    points: tuple[Fitted, ...]
    number: int

    def exact(self) -> Segment:
        """Dense Gauss-Newton matrix, averaged over the states, preconditioned, decomposed."""
        learner: Any = self.problem.learner
        examples, weights = self._examples()
        engine = cast(TorchGradients, self.points[0].gradients)
        roots = preconditioner_root(self.spans)

        def compute() -> dict[str, np.ndarray]:
            total = np.zeros((engine.size, engine.size))
            for span in self.spans:
                self.run.spend(gradients=len(examples))
                total += gauss_newton(learner, span.fitted, examples, weights) / len(examples)
            matrix = total / len(self.spans) + self._inside() * np.eye(len(total))
            if roots:
                root = torch.cat([roots[name].reshape(-1) for name in engine.names]).numpy()
                matrix = root[:, None] * matrix * root
            values, vectors = np.linalg.eigh(matrix)
            return {"values": values, "vectors": vectors}

        found = self.run.keep(self._key("exact"), compute)
        block = EigenBlock(None, _tensor(found["vectors"]), _tensor(found["values"])[None])
        flat = {_WHOLE: torch.cat([roots[n].reshape(-1) for n in engine.names])[None]} if roots else {}
        return Segment({_WHOLE: block}, self._horizon(), self._outside(), flat)

    def factored(self, fisher: Fisher) -> Segment:
        """EK-FAC over all states: factors and corrected eigenvalues are means over them."""
        captured = functools.partial(self._captured, fisher)
        by_name = preconditioner_root(self.spans)
        if not by_name:
            key = self._key(f"ekfac-{fisher}")

            def fit() -> dict[str, np.ndarray]:
                bases = fit_bases(captured)
                return {**bases, **fit_eigenvalues(captured, bases)}

            blocks = eigen_blocks(self.run.keep(key, fit), "ekfac")
            return Segment(blocks, self._horizon(), self._inside() + self._outside())
        roots = self._block_roots(by_name)
        arrays = self.run.keep(
            self._key(f"preconditioned-{fisher}"), lambda: fit_preconditioned(captured, roots, self._inside())
        )
        return Segment(eigen_blocks(arrays, "ekfac"), self._horizon(), self._outside(), roots)

    def _captured(self, fisher: Fisher) -> Iterator[Weighted]:
        examples, weights = self._examples()
        learner = cast(HasOutputs, self.problem.learner)
        with self.run.progress("curvature", len(examples) * len(self.points)) as progress:
            for number, point in enumerate(self.points):
                engine = cast(TorchGradients, point.gradients)
                seed = stream(self.problem.seed, "fisher", self.number, number)
                for batch in fisher_gradients(
                    engine, learner, examples, kind=fisher, weights=weights, seed=seed
                ):
                    self.run.spend(gradients=len(batch) * (1 if batch.first else 2 / 3))
                    if batch.first:
                        progress.advance(len(batch))
                    yield batch

    def _examples(self) -> tuple[Any, np.ndarray | None]:
        examples = self.problem.train.take(self.spans[0].rows)
        weights = examples.weights()
        return examples, None if bool((weights == 1).all()) else weights

    def _block_roots(self, by_name: Mapping[str, Tensor]) -> dict[str, Tensor]:
        engine = cast(TorchGradients, self.points[0].gradients)
        few = self.problem.train.take(self.spans[0].rows[:2])
        blocks = {block.name: block for block in engine.coverage(few).blocks}
        captured = next(engine.capture(few, "loss"))
        return {
            name: block_matrix(blocks.get(name), name, factors, by_name) for name, factors in captured.items()
        }

    def _horizon(self) -> float:
        return sum(horizon(span) for span in self.spans)

    def _inside(self) -> float:
        """The penalty that is part of the gradient."""
        return penalty(self.spans[0].recipe)

    def _outside(self) -> float:
        """Decay that is no part of the gradient."""
        recipe = self.spans[0].recipe
        return float(recipe.weight_decay) if isinstance(recipe, AdamW) else 0.0

    def _key(self, kind: str) -> str:
        facts = f"{self.number}|{len(self.spans)}|{self._horizon():.17g}"
        short = hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()
        return f"source/{kind}-{self.problem.mark()}-{short}"


def _with_queries(
    problem: Problem, run: Run, stretches: Sequence[Stretch], *, dense: bool
) -> tuple[Stretch, ...]:
    """The query side of every stretch, from one pass over the queries at the final model."""
    engine = cast(TorchGradients, stretches[-1].points[-1].gradients)
    sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
    segments = tuple(stretch.segment for stretch in stretches)
    run.spend(gradients=len(problem.query))
    if dense:
        rows = torch.from_numpy(sign * engine.widened().dense(problem.query, "measurement"))[:, None, :]
        sides: list[Any] = [found[:, 0].numpy() for found in unrolled(segments, _WHOLE, rows)]
    else:
        parts: list[dict[str, list[Tensor]]] = [{} for _ in segments]
        for captured in engine.capture(problem.query, "measurement"):
            for name, factors in captured.items():
                whole = factors.values[:, None, :] if isinstance(factors, Rows) else factors.full()
                for place, found in zip(parts, unrolled(segments, name, sign * whole), strict=True):
                    place.setdefault(name, []).append(found.flatten(1))
        count = len(problem.query)
        sides = [
            QuerySide({n: Rows(torch.cat(found)) for n, found in place.items()}, count) for place in parts
        ]
    return tuple(
        Stretch(s.points, s.segment, side, s.rows, s.stage)
        for s, side in zip(stretches, reversed(sides), strict=True)
    )


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
