"""Evidence: what verification found, with interval, random control, power and cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from steelyard.records.files import read_record, write_record
from steelyard.records.provenance import Provenance

Verdict = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Evidence:
    """One finding of the verifier.

    Attributes:
        metric: ``"retraining"``, ``"lds"``, ``"qld"``, …: a name of ``flow.METRICS``.
        subject: What was verified, for people: the method or the plan.
        estimate: The effect or the correlation.
        interval: Confidence interval of the estimate at ``level``.
        level: Confidence level of the interval.
        unit: Unit of the estimate (nats, accuracy, correlation, AUC).
        better: Which way is good for the subject: ``"higher"`` or ``"lower"`` estimates.
        control: The same estimate for the random control, with its own interval where there is one.
        p_value: Of the estimate against the random control; None where the metric has no control.
        verdict: ``"confirmed"`` (better than random), ``"refuted"`` (worse or not better, with enough power to
            tell), ``"inconclusive"`` (noise exceeds signal).
        power: A sentence: the smallest effect that this design could have seen, and what would see more.
        table: Columns of detail, of equal length: one row per fit, query, fraction or subset.
        provenance: How it was found.
    """

    metric: str
    subject: str
    estimate: float
    interval: tuple[float, float]
    level: float
    unit: str
    better: Literal["higher", "lower"]
    control: Mapping[str, float]
    p_value: float | None
    verdict: Verdict
    power: str
    table: Mapping[str, list[Any]]
    provenance: Provenance = field(default_factory=Provenance)

    def summary(self) -> str:
        """One paragraph that pastes into a paper."""
        low, high = self.interval
        text = (
            f"{self.metric} of {self.subject}: {self.estimate:.4g} {self.unit} "
            f"[{low:.4g}, {high:.4g}] at {self.level:.0%}"
        )
        if "estimate" in self.control:
            text += f"; random control {self.control['estimate']:.4g}"
        if self.p_value is not None:
            text += f"; p = {self.p_value:.3g}"
        return f"{text}. {self.verdict.capitalize()}. {self.power}".strip()

    def save(self, path: str | Path) -> Path:
        """Write the evidence as one JSON file."""
        return write_record(path, "evidence", asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Evidence":
        """The inverse of :meth:`save`.

        Raises:
            DataError: If the file is not evidence.
        """
        return cls.from_json(read_record(path, "evidence", fix="give a file written by Evidence.save."))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Evidence":
        """Evidence from the plain values that ``asdict`` made of it."""
        provenance = Provenance.from_json(values["provenance"])
        return cls(**{**values, "interval": tuple(values["interval"]), "provenance": provenance})
