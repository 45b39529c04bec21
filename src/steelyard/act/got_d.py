"""GOT-D (Kang et al. 2024): examples that pull what the model knows towards the target, by optimal transport.

Source: Kang et al. (2024), "Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs"; no code
of theirs was consulted. Candidates are scored by the gradient, with respect to the mass of a candidate, of the entropic
optimal-transport distance between the training distribution and the target: its dual potential, calibrated. Adding mass
where that is lowest lowers the distance most, which is not the same as being nearest to the target: what the training
distribution covers already is cheap to reach.

Deviations: the data that the model was trained on are the candidates themselves; distances are Euclidean between the
explained model's embeddings; up to 40,000 pairs the linear programme is solved exactly, as in ``score.LAVA``, whose
potentials without labels these are.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.act.system import SystemCard, best, planned
from steelyard.collect.embeddings import Source, embedder
from steelyard.errors import CapabilityError
from steelyard.maths.transport import transport
from steelyard.problem import Problem
from steelyard.records import Plan
from steelyard.run import Run, generator

_LARGEST = 2**28  # distances
_NULLS = 19
_SMALL = 200  # rows of either side in the test of the target


@dataclass(frozen=True)
class GOTD:
    """Keep the examples whose mass lowers the transport distance to the target the fastest.

    Labels are not looked at. Nothing is said about examples that both sides have in plenty.

    Cost: a forward pass per example and query, one transport problem, and 20 small ones for the test of the target.

    Args:
        embedding: As in ``score.LAVA``.
    """

    embedding: Source = "auto"
    card: ClassVar[SystemCard] = SystemCard(
        paper="Kang et al. 2024, Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs",
        code="not consulted",
        needs="embeddings or numeric inputs",
        cost="1 fit, n + q forward passes, optimal transport",
        good_for="a target that lies elsewhere than most of the data; no labels needed",
    )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to keep ``budget`` examples.

        Raises:
            CapabilityError: If there are no embeddings and inputs are no numbers, or too many pairs.
        """
        if len(problem.train) * len(problem.query) > _LARGEST:
            raise CapabilityError(
                f"GOTD: {len(problem.train)} x {len(problem.query)} distances do not fit.",
                fix=f"give at most {_LARGEST // len(problem.train)} queries.",
            )
        embed = embedder(problem, run, source=self.embedding, method="GOTD")
        # By id: potentials of a degenerate programme depend on the order of its rows.
        by_id = np.argsort(problem.train.ids, kind="stable")
        sides = (problem.train.take(by_id), problem.query.take(np.argsort(problem.query.ids, kind="stable")))
        have, want = (np.asarray(embed(side), dtype=np.float64) for side in sides)
        run.spend(gradients=(len(have) + len(want)) / 3)
        pull = np.empty(len(have))
        pull[by_id] = pulls(have, want)
        chosen = best(pull, problem.train.ids, budget)
        weights = np.zeros(len(have))
        weights[chosen] = 1.0
        rank = np.argsort(np.argsort(-pull)) + 1
        return planned(
            problem,
            weights,
            lambda row: f"its mass pulls by {pull[row]:.4g}; rank {rank[row]} of {len(rank)}",
            system=self,
            run=run,
            seed=seed,
            resolved={"embedding": embed.of},
            notes=(apart(have, want, generator(seed, "got-d")),),
        )


def pulls(
    have: Float[np.ndarray, "example feature"], want: Float[np.ndarray, "query feature"]
) -> Float[np.ndarray, " example"]:
    """How fast the transport distance to the target falls as mass moves from all others to an example."""
    from scipy.spatial.distance import cdist

    potentials = transport(cdist(have, want)).source
    count = len(potentials)
    return -(potentials - (potentials.sum() - potentials) / max(1, count - 1))


def apart(
    have: Float[np.ndarray, "example feature"],
    want: Float[np.ndarray, "query feature"],
    draw: np.random.Generator,
) -> str:
    """A note if the target lies no further from the training examples than a part of them lies from the rest."""
    from scipy.spatial.distance import cdist

    size = min(_SMALL, len(want), len(have) // 2)
    if size < 2:
        return "GOTD: too few examples to see whether the target is another distribution"
    rest = min(_SMALL, len(have) - size)
    found: list[float] = []
    for k in range(_NULLS + 1):
        order = draw.permutation(len(have))
        other = want[draw.permutation(len(want))[:size]] if k == 0 else have[order[:size]]
        found.append(transport(cdist(have[order[size : size + rest]], other)).cost)
    p_value = (1 + sum(value >= found[0] for value in found[1:])) / (1 + _NULLS)
    if p_value <= 0.05:
        return ""
    return (
        f"GOTD: no signal: the target is no further from the training examples than a random part of them "
        f"(p = {p_value:.2g}); expect no more than from random examples"
    )
