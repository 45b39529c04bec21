"""Scores: how much worse each query's measurement becomes when a training example is removed."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steelyard.errors import DataError, NumericsError, ShapeError
from steelyard.records.provenance import Provenance
from steelyard.records.top import extremes, top_frame
from steelyard.records.uncertainty import Uncertainty

if TYPE_CHECKING:
    import polars as pl

_BLOCK_BYTES = 64 * 2**20
_FORMAT = 1
_ERRORS = "errors.npz"


@dataclass(frozen=True)
class Measurement:
    """The number asked about a query.

    Attributes:
        name: ``"loss"``, ``"margin"``, ``"log_probability"``, ``"accuracy"``, or the user's own.
        unit: ``"nats"``, ``"logits"``, ``"accuracy"``, ``"squared error"``, …
        lower_is_better: True for a loss; False for a margin or a probability.
    """

    name: str
    unit: str
    lower_is_better: bool


LOSS = Measurement("loss", "nats", lower_is_better=True)


@dataclass(frozen=True, eq=False)
class Scores:
    """One score per (training example, query), or per training example.

    ``values[i, j]`` is how much *worse* query j's measurement is predicted to become when training example i is
    removed: a loss rises, a margin falls. Positive therefore means that training on i helps j.

    Attributes:
        values: ``float["train query"]`` In memory or memory-mapped. Per-example scores have one column.
        train_ids: ``str[" train"]``
        query_ids: ``str[" query"]`` For per-example scores: one name, such as ``"self"`` or ``"all queries"``.
        method: ``repr`` of the method, which is its provenance.
        unit: Unit of the values, or ``"rank"`` for similarities: sorted, never summed or calibrated.
        measurement: What was measured on the queries.
        axis: ``"pair"`` for train by query, ``"example"`` for one column about each training example.
        suspect: Which end of a per-example score points at harmful or atypical examples.
        train_checksum: Checksum of the training examples.
        query_checksum: Checksum of the queries.
        provenance: How the scores were made.
        uncertainty: Standard errors, where the scores were estimated from what was drawn at random; None where nothing
            was drawn or nothing is known.

    Raises:
        ShapeError: If values and ids, or values and standard errors, disagree.
    """

    values: np.ndarray
    train_ids: np.ndarray
    query_ids: np.ndarray
    method: str
    unit: str
    measurement: Measurement
    axis: Literal["pair", "example"] = "pair"
    suspect: Literal["low", "high"] = "low"
    train_checksum: str = ""
    query_checksum: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    uncertainty: Uncertainty | None = None

    def __post_init__(self) -> None:
        expected = (len(self.train_ids), len(self.query_ids))
        if self.values.shape != expected:
            raise ShapeError(
                f"{self.method}: values have shape {self.values.shape}, but there are {expected[0]} training ids "
                f"and {expected[1]} query ids.",
                fix="values[train, query]: rows are training examples, columns are queries.",
            )
        if self.uncertainty is not None and self.uncertainty.pairs.shape != expected:
            raise ShapeError(
                f"{self.method}: values have shape {expected}, their standard errors {self.uncertainty.pairs.shape}.",
                fix="take the same rows and columns of both, or leave the standard errors out: uncertainty=None.",
            )

    def __repr__(self) -> str:
        return (
            f"Scores({self.values.shape[0]} train x {self.values.shape[1]} query by {self.method}, "
            f"unit={self.unit!r}, measurement={self.measurement.name!r})"
        )

    @property
    def name(self) -> str:
        """The method's name without its settings."""
        return self.method.partition("(")[0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Consecutive row blocks of about 64 MiB: position of the first row, and ``float["row query"]`` values."""
        size = max(1, _BLOCK_BYTES // max(1, self.values.shape[1] * self.values.itemsize))
        for start in range(0, len(self.train_ids), size):
            yield start, np.asarray(self.values[start : start + size])

    def per_example(self) -> np.ndarray:
        """``float64[" train"]`` Mean over the queries; the scores themselves where they are per example.

        For ``unit="rank"`` the mean is over ranks scaled to [-1, 1], because similarities of different queries
        have no common scale.
        """
        if self.unit != "rank" or self.axis == "example":
            total = np.zeros(len(self.train_ids))
            for start, block in self.blocks():
                total[start : start + len(block)] = block.mean(axis=1, dtype=np.float64)
            return total
        total = np.zeros(len(self.train_ids))
        for j in range(len(self.query_ids)):
            total += _scaled_ranks(np.asarray(self.values[:, j]))
        return total / max(1, len(self.query_ids))

    def harm(self) -> np.ndarray:
        """``float64[" train"]`` Per-example score turned so that higher means more suspect: drop these first."""
        values = self.per_example()
        return values if self.suspect == "high" else -values

    def top(self, k: int = 10) -> "pl.DataFrame":
        """The k strongest proponents and k strongest opponents of every query.

        Cost: one pass over the matrix; memory for one block and k rows.

        Returns:
            Columns ``query_id``, ``side`` (``"proponent"``: helps most, ``"opponent"``: harms most), ``rank``
            (1 is strongest), ``train_id``, ``score``.
        """
        k = min(k, len(self.train_ids))
        return top_frame(
            self.train_ids,
            self.query_ids,
            proponents=extremes(self.blocks(), k, highest=True),
            opponents=extremes(self.blocks(), k, highest=False),
        )

    def check_finite(self) -> "Scores":
        """These scores, if all are finite.

        Raises:
            NumericsError: Naming the first training example and query with NaN or infinity.
        """
        for start, block in self.blocks():
            bad = np.argwhere(~np.isfinite(block))
            if len(bad):
                i, j = bad[0]
                raise NumericsError(
                    f"{self.method}: the score of training example {str(self.train_ids[start + i])!r} for query "
                    f"{str(self.query_ids[j])!r} is {block[i, j]} ({len(bad)} such scores in this block).",
                    fix="look at this example and query for extreme values, raise the damping, or use float64.",
                )
        return self

    def save(self, path: str | Path) -> Path:
        """Write the scores to a folder: ``values.npy``, ``ids.json``, ``scores.json``, and ``errors.npz`` if known.

        Raises:
            DataError: If ``path`` exists and is not a scores folder.
        """
        path = Path(path)
        if path.exists() and not (path / "scores.json").exists():
            raise DataError(f"{path} exists and holds no scores.", fix="choose another path.")
        part = path.with_name(path.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        np.save(part / "values.npy", self.values)
        if self.uncertainty is not None:
            np.savez(part / _ERRORS, **vars(self.uncertainty))
        write_scores_header(self, part)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Scores":
        """Scores from a folder written by :meth:`save`; the values stay on disk, memory-mapped.

        Raises:
            DataError: If the folder holds no scores, or scores of a newer format.
        """
        path = Path(path)
        if not (path / "scores.json").exists():
            raise DataError(
                f"{path}: no scores here (scores.json is missing).", fix="give a folder of Scores.save."
            )
        head = json.loads((path / "scores.json").read_text(encoding="utf-8"))
        if head["format"] > _FORMAT:
            raise DataError(
                f"{path}: scores of format {head['format']}, this version reads up to {_FORMAT}.",
                fix="upgrade steelyard.",
            )
        ids = json.loads((path / "ids.json").read_text(encoding="utf-8"))
        return cls(
            values=np.load(path / "values.npy", mmap_mode="r", allow_pickle=False),
            train_ids=np.array(ids["train"], dtype=str),
            query_ids=np.array(ids["query"], dtype=str),
            method=head["method"],
            unit=head["unit"],
            measurement=Measurement(**head["measurement"]),
            axis=head["axis"],
            suspect=head["suspect"],
            train_checksum=head["train_checksum"],
            query_checksum=head["query_checksum"],
            provenance=Provenance.from_json(head["provenance"]),
            uncertainty=_uncertainty(path / _ERRORS),
        )


def _uncertainty(path: Path) -> Uncertainty | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as kept:
        over = {"over": str(kept["over"])} if "over" in kept else {}
        return Uncertainty(kept["pairs"], kept["examples"], float(kept["freedom"]), **over)


def write_scores_header(scores: Scores, folder: Path) -> None:
    """Write everything but the values: ids, meaning of the axes, direction and provenance."""
    head: dict[str, Any] = {
        "steelyard": "scores",
        "format": _FORMAT,
        "method": scores.method,
        "unit": scores.unit,
        "measurement": asdict(scores.measurement),
        "axis": scores.axis,
        "suspect": scores.suspect,
        "direction": "values[train, query]: positive = removing the training example makes the query's "
        "measurement worse = training on it helps",
        "train_checksum": scores.train_checksum,
        "query_checksum": scores.query_checksum,
        "provenance": scores.provenance.to_json(),
    }
    ids = {"train": [str(i) for i in scores.train_ids], "query": [str(i) for i in scores.query_ids]}
    (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
    (folder / "scores.json").write_text(json.dumps(head, indent=1), encoding="utf-8")


def _scaled_ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return 2.0 * (rankdata(values) - 1) / max(1, len(values) - 1) - 1.0


def stack(blocks: Iterable[np.ndarray], out: np.ndarray) -> np.ndarray:
    """Write consecutive row blocks into ``out`` (an array or a memory-map) and give it back."""
    start = 0
    for block in blocks:
        out[start : start + len(block)] = block
        start += len(block)
    return out
