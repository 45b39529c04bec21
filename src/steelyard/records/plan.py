"""Plan: what to change in a training set, as ids with reasons; applicable and reversible."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steelyard.errors import DataError, ShapeError
from steelyard.records.examples import Examples
from steelyard.records.files import write_whole
from steelyard.records.provenance import Provenance

Action = Literal["drop", "keep", "relabel", "weigh"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A change to a training set. Nothing is changed until :meth:`apply` is called, and never in place.

    Attributes:
        action: ``"drop"`` these examples, ``"keep"`` only these, ``"relabel"`` these, or ``"weigh"`` these.
        ids: ``str[" change"]`` The examples that the plan names.
        reasons: One sentence per named example.
        train_checksum: Checksum of the training set that the plan was made for.
        labels: ``[" change"]`` Proposed labels, for ``"relabel"``.
        previous: ``[" change"]`` Labels before the change, for ``"relabel"``.
        weights: ``float[" change"]`` Weights of the named examples, for ``"weigh"``; all others keep 1.
        provenance: How the plan was made.
    """

    action: Action
    ids: np.ndarray
    reasons: tuple[str, ...]
    train_checksum: str
    labels: np.ndarray | None = None
    previous: np.ndarray | None = None
    weights: np.ndarray | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        if len(self.reasons) != len(self.ids):
            raise ShapeError(
                f"A plan names {len(self.ids)} examples but gives {len(self.reasons)} reasons.",
                fix="give one reason per example.",
            )
        if self.action == "relabel" and (self.labels is None or self.previous is None):
            raise ShapeError(
                "A relabel plan needs labels and previous labels.", fix="give labels= and previous=."
            )
        if self.action == "weigh" and self.weights is None:
            raise ShapeError("A weigh plan needs weights.", fix="give weights=, one per id.")

    def __len__(self) -> int:
        return len(self.ids)

    def weights_for(self, train: Examples) -> np.ndarray:
        """``float64[" example"]`` Weight of every training example under the plan; 0 means removed."""
        named = train.positions(self.ids)
        weights = np.ones(len(train))
        if self.action == "drop":
            weights[named] = 0.0
        elif self.action == "keep":
            weights[:] = 0.0
            weights[named] = 1.0
        elif self.action == "weigh":
            weights[named] = np.asarray(self.weights, dtype=np.float64)
        return weights

    def apply(self, train: Examples) -> Examples:
        """The training set after the change; for ``"weigh"`` a column ``weight`` is added.

        Raises:
            DataError: If ``train`` is not the training set that the plan was made for.
        """
        self._check(train)
        if self.action in ("drop", "keep"):
            return train.take(np.flatnonzero(self.weights_for(train)))
        if self.action == "weigh":
            return train.with_column("weight", self.weights_for(train), self._checksum(train))
        label = train.label or "label"
        changed = train.labels().copy()
        changed[train.positions(self.ids)] = self.labels
        return train.with_column(label, changed, self._checksum(train))

    def revert(self, applied: Examples, original: Examples) -> Examples:
        """The training set before the change, checked: ``applied`` must be what :meth:`apply` gives.

        Raises:
            DataError: If ``applied`` did not come from ``original`` by this plan.
        """
        if self.apply(original).checksum != applied.checksum:
            raise DataError(
                f"{applied.source}: this is not the result of applying the plan to {original.source}.",
                fix="pass the examples that plan.apply returned, and the original training set.",
            )
        return original

    def inverse(self, train: Examples) -> "Plan":
        """The plan that undoes this one when applied to its result; only relabelling can be undone in place.

        Raises:
            DataError: If rows were removed: they are in the original data, use :meth:`revert`.
        """
        if self.action != "relabel":
            raise DataError(
                f"A {self.action!r} plan cannot be undone from its result alone.",
                fix="keep the original training set and call plan.revert(applied, original).",
            )
        return replace(self, labels=self.previous, previous=self.labels, train_checksum=self._checksum(train))

    def save(self, path: str | Path) -> Path:
        """Write the plan as JSON Lines: a header line, then one line per example."""
        path = Path(path)
        head = {
            "steelyard": "plan",
            "action": self.action,
            "train_checksum": self.train_checksum,
            "provenance": self.provenance.to_json(),
        }
        lines = [json.dumps(head)]
        for i, (example, reason) in enumerate(zip(self.ids, self.reasons, strict=True)):
            line: dict[str, object] = {"id": str(example), "reason": reason}
            for name in ("labels", "previous", "weights"):
                values = getattr(self, name)
                if values is not None:
                    line[name] = values[i].item() if hasattr(values[i], "item") else values[i]
            lines.append(json.dumps(line))
        return write_whole(path, "\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """The inverse of :meth:`save`.

        Raises:
            DataError: If the file is not a plan.
        """
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        try:
            head, *rows = (json.loads(line) for line in lines)
        except ValueError as error:
            raise DataError(
                f"{path}: not a plan: {error}.", fix="give a file written by Plan.save."
            ) from error
        if not isinstance(head, dict) or head.get("steelyard") != "plan":
            raise DataError(f"{path}, line 1: not a plan.", fix="give a file written by Plan.save.")

        def column(name: str) -> np.ndarray | None:
            return np.array([row[name] for row in rows]) if rows and name in rows[0] else None

        return cls(
            action=head["action"],
            ids=np.array([row["id"] for row in rows], dtype=str),
            reasons=tuple(row["reason"] for row in rows),
            train_checksum=head["train_checksum"],
            labels=column("labels"),
            previous=column("previous"),
            weights=column("weights"),
            provenance=Provenance.from_json(head["provenance"]),
        )

    def _check(self, train: Examples) -> None:
        if train.checksum != self.train_checksum:
            raise DataError(
                f"{train.source}: the plan was made for a training set with checksum {self.train_checksum[:12]}, "
                f"this one has {train.checksum[:12]}.",
                fix="apply the plan to the data it was made for, or make it again.",
            )

    def _checksum(self, train: Examples) -> str:
        digest = hashlib.sha256(train.checksum.encode())
        digest.update(json.dumps([str(i) for i in self.ids]).encode())
        for values in (self.labels, self.weights):
            if values is not None:
                digest.update(json.dumps([str(v) for v in values]).encode())
        return digest.hexdigest()


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """A plan as plain JSON values."""
    columns = {name: getattr(plan, name) for name in ("ids", "labels", "previous", "weights")}
    return {
        "action": plan.action,
        "reasons": list(plan.reasons),
        "train_checksum": plan.train_checksum,
        "provenance": plan.provenance.to_json(),
        **{name: None if values is None else np.asarray(values).tolist() for name, values in columns.items()},
    }


def plan_from_json(values: Mapping[str, Any]) -> Plan:
    """The inverse of :func:`plan_to_json`."""
    columns = {
        name: None if values[name] is None else np.array(values[name])
        for name in ("labels", "previous", "weights")
    }
    return Plan(
        action=values["action"],
        ids=np.array(values["ids"], dtype=str),
        reasons=tuple(values["reasons"]),
        train_checksum=values["train_checksum"],
        provenance=Provenance.from_json(values["provenance"]),
        **columns,
    )
