"""Scores of chosen pairs taken apart: by the training example's tokens, or by parts of the network."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import DataError, ShapeError
from steelyard.records.provenance import Provenance
from steelyard.records.scores import Measurement

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of pairs of training example and query, token by token of the training example.

    The values of a pair and its ``rest`` sum to the pair's score and have its unit and sign: positive =
    what was learned at this token helps the query. A value belongs to the layers' work at that position,
    which is reading this token and predicting what follows.

    Attributes:
        train_ids: ``str[" pair"]``
        query_ids: ``str[" pair"]``
        offsets: ``int64[" pair_plus_one"]`` Tokens of pair p are ``offsets[p]`` to ``offsets[p + 1]``.
        values: ``float64[" token"]``
        spans: ``int64["token 2"]`` First character of each token in the pair's text, and the one after its last;
            equal for tokens that stand for none.
        rest: ``float64[" pair"]`` What belongs to no token: parameters without positions.
        texts: The text of every training example that occurs, by id; as it came, so escape it where it is shown.
        method: ``repr`` of the method.
        unit: Unit of the values, or ``"rank"``.
        measurement: What was measured on the queries.
        provenance: How they were made.

    Raises:
        ShapeError: If the arrays disagree in length.
    """

    train_ids: np.ndarray
    query_ids: np.ndarray
    offsets: Int[np.ndarray, " pair_plus_one"]
    values: Float[np.ndarray, " token"]
    spans: Int[np.ndarray, "token 2"]
    rest: Float[np.ndarray, " pair"]
    texts: Mapping[str, str]
    method: str
    unit: str
    measurement: Measurement
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        pairs, tokens = len(self.train_ids), int(self.offsets[-1]) if len(self.offsets) else -1
        lengths = (len(self.query_ids), len(self.rest), len(self.offsets) - 1)
        if lengths != (pairs, pairs, pairs) or (len(self.values), len(self.spans)) != (tokens, tokens):
            raise ShapeError(
                f"{self.method}: {pairs} training ids, {lengths[0]} query ids, {lengths[1]} remainders, offsets for "
                f"{lengths[2]} pairs and {tokens} tokens, {len(self.values)} values, {len(self.spans)} spans.",
                fix="give one of each per pair, and one value and span per token.",
            )

    def __len__(self) -> int:
        return len(self.train_ids)

    def __repr__(self) -> str:
        return (
            f"TokenScores({len(self)} pairs, {len(self.values)} tokens by {self.method}, unit={self.unit!r})"
        )

    def scores(self) -> Float[np.ndarray, " pair"]:
        """The scores of the pairs: all their tokens and the rest."""
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]] + self.rest

    def of(
        self, train_id: str, query_id: str
    ) -> tuple[Float[np.ndarray, " token"], Int[np.ndarray, "token 2"]] | None:
        """Values and spans of the tokens of one pair; None if it is not among these."""
        found = np.flatnonzero((self.train_ids == train_id) & (self.query_ids == query_id))
        if not len(found):
            return None
        rows = slice(int(self.offsets[found[0]]), int(self.offsets[found[0] + 1]))
        return self.values[rows], self.spans[rows]

    def save(self, path: str | Path) -> Path:
        """Write ``PATH.json`` (ids, texts, provenance) and ``PATH.npz`` (numbers)."""
        path = Path(path)
        arrays = {name: getattr(self, name) for name in ("offsets", "values", "spans", "rest")}
        head = {**_head("token scores", self), "texts": dict(self.texts)}
        return _write(path, head, arrays)

    @classmethod
    def load(cls, path: str | Path) -> "TokenScores":
        """The inverse of :meth:`save`.

        Raises:
            DataError: If there are none, or they are of a newer format.
        """
        head, arrays = _read(Path(path), "token scores")
        return cls(**_common(head), **arrays, texts=head["texts"])


@dataclass(frozen=True, eq=False)
class PartScores:
    """Scores of pairs of training example and query, part by part of the network.

    The values of a pair and its ``rest`` sum to the pair's score and have its unit and sign.

    Attributes:
        by: What the parts are: modules, numbered layers or attention heads.
        train_ids: ``str[" pair"]``
        query_ids: ``str[" pair"]``
        parts: Names of the parts.
        values: ``float64["pair part"]``
        rest: ``float64[" pair"]`` What belongs to no part.
        method: ``repr`` of the method.
        unit: Unit of the values, or ``"rank"``.
        measurement: What was measured on the queries.
        provenance: How they were made.

    Raises:
        ShapeError: If the arrays disagree in length.
    """

    by: Literal["module", "layer", "head"]
    train_ids: np.ndarray
    query_ids: np.ndarray
    parts: tuple[str, ...]
    values: Float[np.ndarray, "pair part"]
    rest: Float[np.ndarray, " pair"]
    method: str
    unit: str
    measurement: Measurement
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        pairs = len(self.train_ids)
        if (len(self.query_ids), len(self.rest), self.values.shape) != (
            pairs,
            pairs,
            (pairs, len(self.parts)),
        ):
            raise ShapeError(
                f"{self.method}: {pairs} training ids, {len(self.query_ids)} query ids, {len(self.rest)} remainders, "
                f"{len(self.parts)} parts and values of shape {self.values.shape}.",
                fix="give one row per pair and one column per part.",
            )

    def __len__(self) -> int:
        return len(self.train_ids)

    def __repr__(self) -> str:
        return f"PartScores({len(self)} pairs by {len(self.parts)} {self.by}s by {self.method}, unit={self.unit!r})"

    def scores(self) -> Float[np.ndarray, " pair"]:
        """The scores of the pairs: all their parts and the rest."""
        return self.values.sum(axis=1) + self.rest

    def save(self, path: str | Path) -> Path:
        """Write ``PATH.json`` (ids, names, provenance) and ``PATH.npz`` (numbers)."""
        head = {**_head("part scores", self), "by": self.by, "parts": list(self.parts)}
        return _write(Path(path), head, {"values": self.values, "rest": self.rest})

    @classmethod
    def load(cls, path: str | Path) -> "PartScores":
        """The inverse of :meth:`save`.

        Raises:
            DataError: If there are none, or they are of a newer format.
        """
        head, arrays = _read(Path(path), "part scores")
        return cls(**_common(head), **arrays, by=head["by"], parts=tuple(head["parts"]))


def _head(kind: str, scores: TokenScores | PartScores) -> dict[str, Any]:
    return {
        "steelyard": kind,
        "format": _FORMAT,
        "train_ids": [str(i) for i in scores.train_ids],
        "query_ids": [str(i) for i in scores.query_ids],
        "method": scores.method,
        "unit": scores.unit,
        "measurement": asdict(scores.measurement),
        "direction": "positive = this part of training on the example helps the query; parts and rest sum to the score",
        "provenance": scores.provenance.to_json(),
    }


def _common(head: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "train_ids": np.array(head["train_ids"], dtype=str),
        "query_ids": np.array(head["query_ids"], dtype=str),
        "method": head["method"],
        "unit": head["unit"],
        "measurement": Measurement(**head["measurement"]),
        "provenance": Provenance.from_json(head["provenance"]),
    }


def _write(path: Path, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    numbers, words = path.with_name(f"{path.name}.npz"), path.with_name(f"{path.name}.json")
    with numbers.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())
    part = words.with_name(f"{words.name}.part")
    part.write_text(json.dumps(head, indent=1), encoding="utf-8")
    part.replace(words)  # last, so that a head is never without its numbers
    return path


def _read(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    words = path.with_name(f"{path.name}.json")
    if not words.exists():
        raise DataError(f"{words} is missing: no {kind} here.", fix="give the path that save() was given.")
    head = json.loads(words.read_text(encoding="utf-8"))
    if head.get("steelyard") != kind or head["format"] > _FORMAT:
        raise DataError(
            f"{words}: not {kind} of format {_FORMAT} or older.",
            fix="give the path that save() was given, or upgrade steelyard.",
        )
    with np.load(path.with_name(f"{path.name}.npz"), allow_pickle=False) as arrays:
        return head, {name: arrays[name] for name in arrays.files}
