"""Plans that drop redundant or poisonous examples by farthest-point clusters of the lpNTK (Guo et al. 2024).

Source: Guo, Ren, Albrecht & Smith (2024), "lpNTK: Better Generalisation with Less Data via Sample Interaction During
Learning", arXiv:2401.08808 (whose code calls it "Sample Relationship from Learning Dynamics Matters for
Generalisation": github.com/Shawn-Guo-CN/lpNTK).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from steelyard.act.ranking import size_of
from steelyard.act.system import SystemCard, check_settings
from steelyard.errors import SettingError
from steelyard.maths.farthest import farthest_point_clusters
from steelyard.problem import Problem
from steelyard.records import Examples, Plan, Provenance
from steelyard.run import Run

_LARGEST = 20_000


@dataclass(frozen=True)
class PruneByKernel:
    """Drop what is redundant, or what looks poisonous, among the examples of each class.

    Each class is split into clusters around heads that are as unlike one another as possible, by the lpNTK of the
    explained model. *Redundant* are members of the largest clusters that are most like their head: learning the
    head learns them too. *Poisonous* are examples that no other is like: the smallest clusters, least similar to
    their class first. Budgets are shared out over the classes by the order of all.

    Cost: a gradient per example, and products of all pairs within a class; memory class size².

    Args:
        what: ``"redundant"`` or ``"poison"``.
        clusters: Number of clusters as a share of each class's examples.

    Deviations: the official code drops a share of the samples of the largest cluster, or of the tail, per class;
    here one order over all classes fills the budget. The kernel is normalised by default in neither; here it is,
    so that the length of a gradient does not choose the heads.

    Source: Guo et al. (2024), their use of the kernel for images.
    """

    what: Literal["redundant", "poison"] = "redundant"
    clusters: float = 0.1
    card: ClassVar[SystemCard] = SystemCard(
        paper="Guo et al. 2024, lpNTK: Better Generalisation with Less Data via Sample Interaction During Learning",
        code="github.com/Shawn-Guo-CN/lpNTK",
        needs="a network with class labels",
        cost="2n gradients, products of all pairs within a class",
        good_for="poisoned examples (what: poison), or less data of clean classes (what: redundant)",
        spends="changed",
    )

    def __post_init__(self) -> None:
        check_settings(self, hold=0 < self.clusters <= 1, fix="give a share above 0, at most 1.")

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to drop ``budget`` examples.

        Raises:
            CapabilityError: If the learner is no network, or its labels are no classes.
            SettingError: If the budget is not between 1 and the number of examples, or a class is too large for
                its kernel.
        """
        train = problem.train
        size_of(len(train), fraction=None, count=budget, action="PruneByKernel")
        # Imported here: plans are made without torch as well.
        from steelyard.collect.signed_outputs import signed_outputs

        engine = signed_outputs(problem, run, method="PruneByKernel")
        labels = train.labels()
        # Higher is dropped sooner.
        rank = np.full(len(train), -np.inf)
        words = np.empty(len(train), dtype=object)
        by_id = np.argsort(train.ids, kind="stable")
        for label in np.unique(labels):
            rows = by_id[labels[by_id] == label]
            if len(rows) > _LARGEST:
                raise SettingError(
                    f"PruneByKernel: class {label!r} has {len(rows):,} examples.",
                    fix=f"use at most {_LARGEST:,} per class.",
                )
            part = train.take(rows)
            run.spend(gradients=2 * len(rows))
            similarity = _kernel(engine, part)
            rank[rows], words[rows] = self._ranked(similarity, str(label))
        chosen = np.lexsort((train.ids.astype(str), -rank))[:budget]
        if not np.isfinite(rank[chosen]).all():
            run.note("PruneByKernel: the budget is larger than what is not a head of a cluster")
        return Plan(
            action="drop",
            ids=train.ids[chosen],
            reasons=tuple(str(words[row]) for row in chosen),
            train_checksum=train.checksum,
            provenance=Provenance(
                given={"by": repr(self), "seed": seed},
                resolved={"examples": len(chosen)},
                checksums={"train": train.checksum},
            ),
        )

    def _ranked(self, similarity: np.ndarray, label: str) -> tuple[np.ndarray, list[str]]:
        """How soon every example of a class is dropped, high first, and why."""
        count = len(similarity)
        heads, member = farthest_point_clusters(
            similarity, max(1, round(self.clusters * count)), first=_central(similarity)
        )
        sizes = np.bincount(member, minlength=len(heads))[member]
        if self.what == "redundant":
            likeness = similarity[np.arange(count), heads[member]]
            rank = np.where(np.isin(np.arange(count), heads), -np.inf, likeness + sizes / count)
            text = "is {:.2f} like the head of its cluster of {} in class {}"
        else:
            likeness = similarity.mean(axis=1)
            rank = 1.0 / sizes - likeness
            text = "is {:.2f} like its class on average; cluster of {} in class {}"
        return rank, [text.format(a, b, label) for a, b in zip(likeness, sizes, strict=True)]


def _kernel(engine: Any, part: Examples) -> np.ndarray:
    """Normalised lpNTK of all pairs."""
    side = engine.prepare(part, unit_norm=True)
    products, squares = engine.products_and_squares(part, side)
    lengths = np.sqrt(squares)
    return np.asarray(products / np.where(lengths > 0, lengths, np.inf)[:, None], dtype=np.float64)


def _central(similarity: np.ndarray) -> int:
    return int(np.argmax(similarity.sum(axis=0)))
