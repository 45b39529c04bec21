"""Influence of whole groups of training examples, first and second order (Basu et al. 2020, arXiv:1911.00418).

A row of these scores is a group, not an example: a source, a class, an annotator. The unit and the sign are those of
``influence.py``: positive = the query's measurement becomes worse when the group is removed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from steelyard.collect.gradients import open_gradients
from steelyard.errors import DataError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Examples, Scores
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin, make_scores
from steelyard.score.influence import INSTEAD, Damping


@dataclass(frozen=True)
class GroupInfluence:
    r"""What happens to every query when a whole group of training examples is removed.

    First order is the sum of the influence of the members: right as long as the group is small. Second order adds how
    the group changes the curvature that the rest is fitted with:

    .. math:: q^\top \left[\frac{1 - 2p}{(1 - p)^2} A^{-1} s + \frac{1}{(1 - p)^2} A^{-1} A_U A^{-1} s\right]

    with A the curvature of the summed loss, :math:`A_U` the group's part of it, s the sum of its gradients and p its
    share of the examples. That is the expansion of :math:`(A - A_U)^{-1} s` around the case that the group is like the
    rest, :math:`A_U = p A`, where it is exact.

    Deviations from the paper: the loss is summed, so 1/n is 1; where the training objective is a mean plus a penalty,
    the group's share of the penalty goes with it (second order only: as a first-order term it would move all
    groups of one size alike); damping is shared out in the same way.

    Args:
        column: Column of the training examples that names the group of each; ``"id"`` makes every example its own
            group, which is second-order leave-one-out.
        groups: Instead of a column: names to ids of training examples; groups may overlap.
        order: 1 or 2.
        curvature: ``"exact"`` for linear models and small networks; ``"ekfac"``, where the second order multiplies with
            the exact Gauss-Newton matrix of the group. ``"auto"``: exact for linear models, EK-FAC for networks.
        damping: As in ``EKFAC``, or ``GaussNewton`` for exact curvature.

    Source: Basu, You & Feizi (2020), "On Second-Order Group Influence Functions for Black-Box Predictions";
    first order: Koh et al. (2019), "On the Accuracy of Influence Functions for Measuring Group Effects".
    """

    column: str = "id"
    groups: Mapping[str, Sequence[str]] | None = None
    order: Literal[1, 2] = 1
    curvature: Literal["auto", "exact", "ekfac"] = "auto"
    damping: Damping = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Basu et al. 2020, On Second-Order Group Influence Functions for Black-Box Predictions",
        needs="gradients",
        cost="first order: that of ekfac or gauss_newton; second: 7/3 n gradients more",
        good_for="what a source, class or annotator does as a whole",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every group for every query; ``train_ids`` are the names of the groups.

        Raises:
            DataError: If the column or an id is not there, or a group is all there is.
            CapabilityError: If the learner has no gradients, or not the curvature asked for.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        names, members = self._members(problem.train)
        fitted = open_gradients(problem, run, method="GroupInfluence", instead=INSTEAD)
        # Imported here: torch, for those who have it.
        from steelyard.collect.groups import group_influence

        values, resolved = group_influence(
            problem, fitted, run, members, order=self.order, curvature=self.curvature, damping=self.damping
        )
        return make_scores(
            self,
            problem,
            values,
            run,
            unit=problem.learner.measurement.unit,
            train_ids=names,
            resolved={**resolved, "groups": len(names)},
            started=started,
        ).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """Curvature, group gradients, and products for the second order."""
        passes = 3 if self.order == 1 else 16 / 3
        return Cost(gradients=round(passes * len(problem.train)) + len(problem.query))

    def _members(self, train: Examples) -> tuple[np.ndarray, list[np.ndarray]]:
        """Names of the groups in order of appearance, and the rows of each."""
        if self.order not in (1, 2):
            raise SettingError(f"order={self.order!r}", fix="give 1 or 2.")
        if self.groups is not None:
            if not self.groups:
                raise SettingError("groups is empty.", fix="give at least one group, or a column.")
            return np.array(list(self.groups)), [
                train.positions(np.asarray(list(ids), dtype=str)) for ids in self.groups.values()
            ]
        if self.column == "id":
            return train.ids, [np.array([row]) for row in range(len(train))]
        if self.column not in train.columns:
            raise DataError(
                f"{train.source}: there is no column {self.column!r} to group the training examples by; there are "
                f"{list(train.columns)}.",
                fix="name one of them: column=....",
            )
        labels = np.asarray(train.column(self.column)[:])
        if labels.ndim != 1:
            raise DataError(
                f"{train.source}: column {self.column!r} has {labels.ndim} dimensions, so it names no groups.",
                fix="name a column with one value per example.",
            )
        text = labels.astype(str)
        _, first, group = np.unique(text, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return text[first[order]], [np.flatnonzero(group == number) for number in order]
