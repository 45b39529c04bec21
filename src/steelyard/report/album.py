"""Training examples as cards: drawn once each, with their scores and what is known about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steelyard.records import Plan, Report, Scores
from steelyard.report.about import scores_of
from steelyard.report.noise import drowned
from steelyard.report.selection import Neighbours, View, shown_ids
from steelyard.report.showing import Columns, Gallery, Kind, Shown
from steelyard.report.tokens import Piece, highlighted, largest
from steelyard.report.wording import clean_line, number, signed


@dataclass(frozen=True)
class Card:
    """One training example with its score.

    Attributes:
        shown: The example.
        side: ``"for"``, ``"against"``, ``"noise"`` or empty: how it is coloured, always beside a sign.
        score: Its score as text, with its sign.
        bar: Length of the bar under it, from 0 to 100.
        why: Reason that a plan gives, if it is there for one.
        change: What a plan changes, such as ``"3 → 8"``.
        marks: Names of what is known about it.
        alt: Accessible name.
        tokens: Its text with what each token did to the query, where scores were taken apart by token.
    """

    shown: Shown
    side: str
    score: str
    bar: float
    why: str = ""
    change: str = ""
    marks: tuple[str, ...] = ()
    alt: str = ""
    tokens: tuple[Piece, ...] = ()


class Album:
    """The training examples of a page, drawn once each, with their scores and what is known about them."""

    def __init__(self, report: Report, view: View) -> None:
        trains, queries = shown_ids(report, view)
        self.report = report
        self.train = Gallery(report.train, trains, view.show)
        self.query = Gallery(report.query, queries, view.show)
        self._noise = _drowned(report.scores[0], set(trains), set(queries))
        self._truth = {name: frozenset(ids) for name, ids in report.truth.items()}

    @property
    def kind(self) -> Kind:
        """How training examples are drawn."""
        return self.train.kind

    def asked(self, found: Neighbours) -> Shown:
        """The query, by the columns that its examples are shown by."""
        return self.query.show(found.query, columns=self._columns(found))

    def near(self, found: Neighbours, side: str) -> tuple[Card, ...]:
        """Cards of one side of a query; bars of both sides have one scale, and differences in rows are marked.

        Args:
            found: The query with its strongest examples.
            side: ``"for"`` or ``"against"``.
        """
        pairs = found.proponents if side == "for" else found.opponents
        longest = max((abs(score) for _, score in (*found.proponents, *found.opponents)), default=0.0) or 1.0
        beside, columns = self.query.values(found.query), self._columns(found)
        cards = [
            self._card(example, score, side, abs(score) / longest, beside, columns)
            if (example, found.query) not in self._noise
            else self._grey(self._card(example, score, "noise", abs(score) / longest, beside, columns))
            for example, score in pairs
        ]
        everyone = [example for example, _ in (*found.proponents, *found.opponents)]
        size = largest(self.report, found.query, everyone)
        return tuple(
            replace(card, tokens=highlighted(self.report, found.query, example, size))
            for card, (example, _) in zip(cards, pairs, strict=True)
        )

    def suspects(self, scored: Sequence[tuple[str, float]]) -> tuple[Card, ...]:
        """Cards of examples with their per-example scores, coloured by what these say."""
        return tuple(
            self._card(example, score, _side(score, self.report.scores[0]), 0.0) for example, score in scored
        )

    def planned(self, plan: Plan, count: int) -> tuple[Card, ...]:
        """Cards of the first examples of a plan, with reasons, changes and the scores that it was made from."""
        made_from = scores_of(plan, self.report)
        values = dict(zip(made_from.train_ids.tolist(), made_from.per_example().tolist(), strict=True))
        cards: list[Card] = []
        for i, example in enumerate(str(e) for e in plan.ids[:count]):
            shown = self.train.show(example)
            change = ""
            if plan.labels is not None and plan.previous is not None:
                change = f"{clean_line(plan.previous[i], limit=40)} → {clean_line(plan.labels[i], limit=40)}"
            elif plan.weights is not None:
                change = f"weight {number(float(plan.weights[i]))}"
            score = values.get(example)
            cards.append(
                Card(
                    shown,
                    side="" if score is None else _side(score, made_from),
                    score="" if score is None else signed(score),
                    bar=0.0,
                    why=clean_line(plan.reasons[i], limit=300),
                    change=change,
                    marks=self._marks(example),
                    alt=shown.name("training example"),
                )
            )
        return tuple(cards)

    def _columns(self, found: Neighbours) -> Columns | None:
        everyone = [example for example, _ in (*found.proponents, *found.opponents)]
        return self.train.columns(self.query.values(found.query), everyone)

    def _card(  # noqa: PLR0913 - an example, its score, and what it is shown beside
        self,
        example: str,
        score: float,
        side: str,
        share: float,
        beside: Mapping[str, Any] | None = None,
        columns: Columns | None = None,
    ) -> Card:
        shown = self.train.show(example, beside=beside, columns=columns)
        name = shown.name("training example")
        return Card(shown, side, signed(score), round(100 * share, 1), marks=self._marks(example), alt=name)

    def _grey(self, card: Card) -> Card:
        return replace(card, marks=(*card.marks, "within noise"), alt=f"{card.alt}, score within noise")

    def _marks(self, example: str) -> tuple[str, ...]:
        return tuple(clean_line(name, limit=40) for name, ids in self._truth.items() if example in ids)


def _drowned(scores: Scores, trains: set[str], queries: set[str]) -> frozenset[tuple[str, str]]:
    """Those of the pairs that a page shows whose score is noise, by id of training example and query."""
    found = drowned(scores)
    if found is None:
        return frozenset()
    rows = [(i, str(example)) for i, example in enumerate(scores.train_ids) if str(example) in trains]
    columns = [(j, str(query)) for j, query in enumerate(scores.query_ids) if str(query) in queries]
    return frozenset((example, query) for i, example in rows for j, query in columns if found[i, j])


def _side(score: float, scores: Scores) -> str:
    if score == 0 or (scores.unit == "rank" and scores.axis == "pair"):
        return ""
    harmful = score > 0 if scores.suspect == "high" else score < 0
    return "against" if harmful else "for"
