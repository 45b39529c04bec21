"""Quad (Zhang et al. 2025, arXiv:2409.16986; github.com/iTheresaApocalypse/Quad): influence, but from many clusters.

Source: Zhang et al. (2025), "Harnessing Diversity for Important Data Selection in Pretraining Large Language Models".
Examples are clustered; a bandit goes from cluster to cluster, asks a few examples of each for their influence on the
target, and takes a lot of those clusters whose examples help. Clusters that were seldom asked are tried again, so that
what is chosen comes from many of them, and most examples never need a gradient. Influence is through the Kronecker-
factored curvature of the attention layers.

Deviations: queries, keys and values have one factor together only where the network computes them by one layer;
embeddings are the model's own, where the paper has those of a retrieval model; the exploration is in standard
deviations of the influences seen; a neighbour's mean is weighted by its likeness, where the published code adds the
discounted reward but counts a whole pull; the bar that a lot has to clear is 0, where the published code subtracts a
constant; an example that was asked is taken or left by its own influence, and the lot's mean decides about the
others; when no lot is left that clears the bar, the others fill the budget, best first and harmful examples last, and
a note says so.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.act.system import SystemCard, check_settings, planned, signal
from steelyard.collect.describing import unit_vectors
from steelyard.collect.embeddings import Source, embedder
from steelyard.collect.gradients import Fitted, open_gradients, present_examples
from steelyard.errors import SettingError
from steelyard.maths.bandit import Arms
from steelyard.problem import Problem
from steelyard.records import Plan
from steelyard.run import Run, generator, stream

_LEAST_SAMPLE = 64


@dataclass(frozen=True)
class Quad:
    """Keep lots of examples from clusters whose members help the target, chosen by a bandit over the clusters.

    Cost: 1 fit, a forward pass per example, factors from a sample of the examples (about twice as many gradients), a
    gradient per query and per example asked; how many were asked is in the record.

    Args:
        clusters: How many; ``"auto"``: half the square root of the number of examples, at least 2.
        lot: Examples taken of a cluster at a time; ``"auto"``: a fortieth of the budget, at least 4.
        probes: How many of a lot are asked for their influence.
        at_once: Clusters asked before their scores are looked at again.
        exploration: What a cluster that is seldom asked is granted, in standard deviations of the influences seen.
        reach: Up to which distance clusters learn from one another, as a share of the median distance between centres;
            0: not at all.
        layers: ``"attention"``, ``"all"``, or ``"auto"``: attention layers where there are any.
        curvature: ``"kfac"`` or ``"ekfac"``.
        sample: Share of the examples that the factors are from; at least 64 of them.
        embedding: As in ``score.LAVA``.
    """

    clusters: int | Literal["auto"] = "auto"
    lot: int | Literal["auto"] = "auto"
    probes: int = 4
    at_once: int = 4
    exploration: float | int = 0.5
    reach: float | int = 0.5
    layers: Literal["auto", "attention", "all"] = "auto"
    curvature: Literal["kfac", "ekfac"] = "kfac"
    sample: float | int = 0.25
    embedding: Source = "auto"
    card: ClassVar[SystemCard] = SystemCard(
        paper="Zhang et al. 2025, Harnessing Diversity for Important Data Selection in Pretraining Large Language "
        "Models",
        code="github.com/iTheresaApocalypse/Quad",
        needs="a network with embeddings, best with attention",
        cost="1 fit, n forward passes, 2 x sample x n + q gradients and those of the examples asked",
        good_for="large pools of many kinds, most of whose examples shall never need a gradient",
    )

    def __post_init__(self) -> None:
        small = [
            name
            for name, least in (("clusters", 2), ("lot", 1), ("probes", 1), ("at_once", 1))
            if getattr(self, name) != "auto" and getattr(self, name) < least
        ]
        check_settings(
            self,
            hold=not small and self.exploration >= 0 and self.reach >= 0 and 0 < self.sample <= 1,
            fix="give at least 2 clusters, one example per lot, probe and round, an exploration and reach of 0 or "
            "more, and a sample above 0, at most 1.",
        )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to keep ``budget`` examples.

        Raises:
            CapabilityError: If the learner is no network, or has no attention layers where they were asked for.
            SettingError: If there are fewer examples than clusters.
        """
        by_id = np.argsort(problem.train.ids, kind="stable")
        fitted = open_gradients(problem, run, method="Quad", instead="top with a score that needs none")
        embed = embedder(problem, run, source=self.embedding, method="Quad")
        vectors = unit_vectors(np.asarray(embed(problem.train.take(by_id)), dtype=np.float64))
        run.spend(gradients=len(by_id) / 3)
        member, likeness = self._clusters(vectors, seed)
        side = self._side(problem, fitted, seed, run)
        asked = _Asked(problem, fitted, side.side, by_id, run)
        lot = max(4, budget // 40) if self.lot == "auto" else self.lot
        arms = Arms(likeness)
        chosen, filled = self._choose(_Lots(member, lot, generator(seed, "quad lots")), arms, asked, budget)
        weights, cluster = np.zeros(len(by_id)), np.empty(len(by_id), dtype=np.int64)
        weights[by_id[chosen]] = 1.0
        cluster[by_id] = member
        means = arms.means()
        told = {
            "clusters": len(means),
            "clusters chosen from": len(np.unique(member[chosen])),
            "lot": lot,
            "asked": len(asked.known),
            "share never asked": 1 - len(asked.known) / len(by_id),
            "from lots that do not help": filled,
            "embedding": embed.of,
        }
        notes = (
            side.note,
            signal(np.stack(list(asked.known.values())), generator(seed, "signal"), who="Quad")[1],
            f"Quad: {filled} of {budget} examples harm, or are from lots whose probes do not help"
            if filled
            else "",
        )
        return planned(
            problem,
            weights,
            lambda row: f"of cluster {cluster[row]}, whose mean influence is {means[cluster[row]]:.3g}",
            system=self,
            run=run,
            seed=seed,
            resolved={**told, **side.resolved},
            notes=notes,
        )

    def _side(self, problem: Problem, fitted: Fitted, seed: int, run: Run) -> Any:
        """The queries with the inverse curvature of the layers applied, from a sample of the examples."""
        from steelyard.collect.attention import attention_side  # torch, for those who have it

        there = present_examples(problem)
        count = min(len(there), max(_LEAST_SAMPLE, round(self.sample * len(there))))
        order = np.argsort(there.ids, kind="stable")
        rows = order[generator(seed, "quad factors").permutation(len(order))[:count]]
        return attention_side(
            problem,
            fitted,
            run,
            kind=self.curvature,
            layers=self.layers,
            sample=there.take(rows),  # in an order of ids: labels that the Fisher draws depend on it
            point=f"quad-{seed}-{count}",
        )

    def _clusters(
        self, vectors: Float[np.ndarray, "example feature"], seed: int
    ) -> tuple[Int[np.ndarray, " example"], Float[np.ndarray, "cluster cluster"]]:
        """The cluster of every example, and how far clusters learn from one another."""
        from scipy.spatial.distance import pdist, squareform
        from sklearn.cluster import KMeans

        count = max(2, round(len(vectors) ** 0.5 / 2)) if self.clusters == "auto" else self.clusters
        if count > len(vectors):
            raise SettingError(
                f"Quad: {count} clusters of {len(vectors)} examples.", fix="ask for fewer clusters."
            )
        # Copies would leave clusters empty, which scikit-learn warns about.
        count = min(count, len(np.unique(vectors.round(9), axis=0)))
        if count < 2:
            return np.zeros(len(vectors), dtype=np.int64), np.eye(1)
        found = KMeans(count, random_state=stream(seed, "quad clusters") % 2**32).fit(vectors)
        distances = pdist(found.cluster_centers_)
        near = self.reach * float(np.median(distances))
        likeness = np.maximum(0.0, 1 - squareform(distances) / near) if near > 0 else np.eye(count)
        np.fill_diagonal(likeness, 1.0)
        return np.asarray(found.labels_, dtype=np.int64), likeness

    def _choose(
        self, lots: "_Lots", arms: Arms, asked: "_Asked", budget: int
    ) -> tuple[Int[np.ndarray, " chosen"], int]:
        """Examples of lots that help until the budget is full, and how many had to come from others."""
        chosen: list[np.ndarray] = []
        refused: list[tuple[float, np.ndarray]] = []
        harmful: list[np.ndarray] = []
        while sum(map(len, chosen)) < budget and lots.left().any():
            exploration = float(self.exploration) * asked.deviation()
            picked = arms.best(lots.left(), self.at_once, exploration)
            drawn = [lots.draw(int(arm)) for arm in picked]
            helps = asked.helps([lot[: self.probes] for lot in drawn])
            for arm, lot, reward in zip(picked, drawn, helps, strict=True):
                arms.learn(int(arm), reward)
                own = asked.own(lot)
                chosen.append(lot[own > 0])
                harmful.append(lot[own <= 0])
                rest = lot[np.isnan(own)]
                if reward > 0:
                    chosen.append(rest)
                else:
                    refused.append((reward, rest))
        good = np.concatenate(chosen)[:budget] if chosen else np.zeros(0, dtype=np.int64)
        refused.sort(key=lambda pair: -pair[0])
        found = np.concatenate([good, *(lot for _, lot in refused), *harmful])[:budget]
        return found.astype(np.int64), len(found) - len(good)


@dataclass(eq=False)
class _Asked:
    """Influences of examples by their place in the order of ids, computed when asked for."""

    problem: Problem
    fitted: Fitted
    side: Any
    by_id: np.ndarray
    run: Run
    known: dict[int, np.ndarray] = field(default_factory=dict)

    def helps(self, lots: list[np.ndarray]) -> list[float]:
        """Mean influence of each lot's examples on the target; positive helps."""
        places = np.concatenate(lots)
        part = self.problem.train.take(self.by_id[places])
        self.run.spend(gradients=len(part))
        products = self.fitted.gradients.products(part, self.side).astype(np.float64)
        for place, row in zip(places.tolist(), products, strict=True):
            self.known[place] = row
        return [float(np.mean([self.known[place].mean() for place in lot.tolist()])) for lot in lots]

    def own(self, lot: np.ndarray) -> Float[np.ndarray, " member"]:
        """Influence of every example of a lot; NaN of those that were not asked."""
        return np.array([self.known[k].mean() if k in self.known else np.nan for k in lot.tolist()])

    def deviation(self) -> float:
        """Standard deviation of the influences so far; 0 before there are any."""
        return float(np.std([row.mean() for row in self.known.values()])) if self.known else 0.0


class _Lots:
    """The examples of every cluster in random order, given away lot by lot."""

    def __init__(self, member: Int[np.ndarray, " example"], size: int, draw: np.random.Generator) -> None:
        self._size = size
        self._rest = [draw.permutation(np.flatnonzero(member == k)) for k in range(int(member.max()) + 1)]

    def left(self) -> np.ndarray:
        """Which clusters have examples left."""
        return np.array([len(rest) > 0 for rest in self._rest])

    def draw(self, cluster: int) -> np.ndarray:
        """The next lot of a cluster."""
        lot, self._rest[cluster] = (
            self._rest[cluster][: self._size],
            self._rest[cluster][self._size :],
        )
        return lot
