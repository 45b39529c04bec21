"""Report: everything one page says, as data; the pictures are made from it and it can be saved without them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from steelyard.records.evidence import Evidence
from steelyard.records.examples import Examples
from steelyard.records.plan import Plan
from steelyard.records.provenance import Provenance
from steelyard.records.scores import Scores
from steelyard.records.token_scores import PartScores, TokenScores

Outcome = Literal["passed", "failed", "not_applicable", "skipped", "muted"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one coded check.

    Attributes:
        code: ``"SY101"``; stable, documented, muteable.
        title: What the check is about, in a few words.
        outcome: How it came out; ``"not_applicable"`` is a result, not a failure.
        detail: What was seen, with numbers.
        fix: What to do if it failed.
    """

    code: str
    title: str
    outcome: Outcome
    detail: str
    fix: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """One run, ready to be shown in a terminal or as one HTML file.

    Attributes:
        title: Headline.
        verdict: The answer in words, one or two sentences.
        scores: The scores asked for first, then the baselines.
        train: The training examples, for showing those that matter.
        query: The queries.
        plans: Plans made from the scores.
        evidence: What the verifier found, controls included.
        findings: Outcomes of the coded checks.
        splits: Scores of pairs that are shown, taken apart by token, module, layer or head.
        truth: Known facts about training examples by name (``"flipped"``: ids), if any.
        provenance: Of the whole run.
    """

    title: str
    verdict: str
    scores: tuple[Scores, ...]
    train: Examples
    query: Examples
    plans: tuple[Plan, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()
    splits: tuple[TokenScores | PartScores, ...] = ()
    truth: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
