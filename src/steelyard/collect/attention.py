"""Inverse-curvature products of the attention layers alone: what Quad scores examples by."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from steelyard.collect.curvature import kronecker_arrays, penalty
from steelyard.collect.gradients import Fitted, present_examples
from steelyard.errors import CapabilityError
from steelyard.gradients.damping import resolve_damping
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.kronecker import KroneckerMetric
from steelyard.gradients.splits import is_attention
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run import Run

Layers = Literal["auto", "attention", "all"]


@dataclass(frozen=True, eq=False)
class AttentionSide:
    """The queries, with the inverse curvature of some layers applied.

    Attributes:
        side: For ``Gradients.products``; the other layers are left out of it.
        resolved: Which layers, which gradients the curvature is of, and the damping.
        note: What is to be known, or an empty text.
    """

    side: Any
    resolved: Mapping[str, Any]
    note: str


def attention_side(  # noqa: PLR0913 - where, of what and how are three facts each
    problem: Problem,
    fitted: Fitted,
    run: Run,
    *,
    kind: Literal["kfac", "ekfac"],
    layers: Layers,
    sample: Examples,
    point: str,
) -> AttentionSide:
    """Kronecker factors of the attention projections from a sample of the examples, applied to the queries.

    Cost: one pass over the sample (two for ``"ekfac"``), a gradient per query, an eigendecomposition per side and
    layer.

    Args:
        problem: Whose training objective the curvature is of.
        fitted: Where to evaluate it.
        run: Where factors are kept.
        kind: Which factorisation.
        layers: ``"attention"``: projections into and out of heads. ``"all"``: every layer. ``"auto"``: attention where
            the network has any, else all, which the note then says.
        sample: Training examples that the factors are a mean over.
        point: Names the sample.

    Raises:
        CapabilityError: If the learner is no network, or has no attention layers where they were asked for.
    """
    engine = fitted.gradients
    if not isinstance(engine, TorchGradients):
        raise CapabilityError(
            f"Quad needs the layers of a network, which {type(problem.learner).__name__} does not have.",
            fix="use top with gauss_newton or knn_shapley.",
        )
    # Also names of parameters that fall back: their blocks are called like them.
    names = [re.sub(r"\.(weight|bias)$", "", name) for name in engine.names]
    has = any(is_attention(name) for name in names)
    if layers == "attention" and not has:
        raise CapabilityError(
            "Quad: no layer of this network is called like one of attention.",
            fix='give layers: all, or name projections q_proj, k_proj, v_proj, o_proj, or "attn" in their path.',
        )
    only = is_attention if has and layers != "all" else None
    note = "" if has or layers == "all" else "Quad: the network has no attention layers; all layers are used"
    found = kronecker_arrays(
        problem,
        fitted,
        run,
        kind=kind,
        fisher="auto",
        point=point + ("-attention" if only else ""),
        examples=sample,
        only=only,
    )
    damping, reason = resolve_damping(found.blocks, "auto")
    total = float(len(present_examples(problem)))
    metric = KroneckerMetric(found.blocks, damping, penalty(problem, fitted), total)
    run.spend(gradients=len(problem.query))
    side = cast(TorchGradients, engine).prepare(problem.query, metric)
    side = replace(side, blocks={name: side.blocks[name] for name in found.blocks if name in side.blocks})
    resolved = {**found.resolved, "layers": sorted(side.blocks), "damping_reason": reason}
    return AttentionSide(side, resolved, note)
