"""Where a record came from: settings as given and as resolved, versions, seeds, data checksums, cost."""

import functools
import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

_VERSIONED = ("steelyard", "numpy", "scipy", "scikit-learn", "torch", "transformers", "pyarrow", "polars")


@dataclass(frozen=True)
class Cost:
    """What a piece of work took, or is predicted to take.

    Attributes:
        gradients: Gradient-equivalents: forward and backward passes of one example through the model.
        fits: Trainings of a model from start to end.
        seconds: Wall-clock time.
        peak_bytes: Highest resident memory of the process, above what it held when work began.
        disk_bytes: Bytes written to the run folder.
    """

    gradients: float | int = 0.0
    fits: int = 0
    seconds: float | int = 0.0
    peak_bytes: int = 0
    disk_bytes: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            gradients=self.gradients + other.gradients,
            fits=self.fits + other.fits,
            seconds=self.seconds + other.seconds,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
            disk_bytes=self.disk_bytes + other.disk_bytes,
        )

    def __str__(self) -> str:
        parts: list[str] = []
        if self.seconds:
            parts.append(f"{self.seconds:.1f} s")
        if self.gradients:
            parts.append(f"{self.gradients:,.0f} gradient-equivalents")
        if self.fits:
            parts.append("1 fit" if self.fits == 1 else f"{self.fits} fits")
        if self.peak_bytes:
            parts.append(f"{self.peak_bytes / 2**20:,.0f} MiB peak")
        if self.disk_bytes:
            parts.append(f"{self.disk_bytes / 2**20:,.1f} MiB on disk")
        return ", ".join(parts) or "nothing"


@dataclass(frozen=True)
class Products:
    """Products of vectors with a curvature that a method will make: many vectors at once, so counting them misleads.

    Attributes:
        times: How many products, one after another.
        examples: How many the curvature is a sum over in each.
        vectors: How many are multiplied at once.
        curvature: As the method is told.
        precision: As the method is told.
        traced: Whether the curvature's trace is wanted as well, for an automatic damping.
    """

    times: float | int
    examples: int
    vectors: int
    curvature: str = "auto"
    precision: str = "auto"
    traced: bool = False

    @property
    def gradients(self) -> float:
        """Gradient-equivalents: a forward pass with its graph, and per vector one derivative of it each way."""
        return self.times * self.examples * (1 + 4 / 3 * self.vectors)


@dataclass(frozen=True)
class Provenance:
    """How a record was made; enough to make it again.

    Attributes:
        given: Settings as the user gave them.
        resolved: The same settings after every ``"auto"`` was decided, with the reason where there is one.
        versions: Python, platform and the libraries that were loaded.
        seeds: Every seed by the name of its stream.
        checksums: Content checksums of the data and the model by name.
        notes: What was done differently from what was asked: fallbacks, truncations, skipped parts.
        cost: What it took.
        predicted: What it was predicted to take, where a prediction was made.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cost: Cost = field(default_factory=Cost)
    predicted: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Provenance":
        """The inverse of :meth:`to_json`."""
        predicted = values.get("predicted")
        return cls(
            given=values.get("given", {}),
            resolved=values.get("resolved", {}),
            versions=values.get("versions", {}),
            seeds=values.get("seeds", {}),
            checksums=values.get("checksums", {}),
            notes=tuple(values.get("notes", ())),
            cost=Cost(**values.get("cost", {})),
            predicted=None if predicted is None else Cost(**predicted),
        )

    def with_notes(self, *notes: str) -> "Provenance":
        """The same provenance with further notes; a note already there is not repeated."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))


def versions() -> dict[str, str]:
    """Versions of Python, of the platform and of those libraries that are loaded in this process."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _VERSIONED:
        module = {"scikit-learn": "sklearn"}.get(name, name)
        if module in sys.modules or name == "steelyard":
            version = _installed(name)
            if version:
                found[name] = version
    return found


@functools.cache
def _installed(name: str) -> str | None:
    # Reading a package's metadata takes ten milliseconds; every record asks for the same few.
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
