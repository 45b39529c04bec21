import re
from dataclasses import replace
from xml.etree import ElementTree

import altair as alt
import numpy as np
import pytest

from steelyard.report import evidence_charts
from steelyard.report.charts import concentration, distribution, of_scores, recovery
from steelyard.report.svg import INKS, draw
from tests.report import cases


def colours(svg: str) -> set[str]:
    found = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg))
    return found - {"none", "transparent"}


@pytest.fixture(scope="module")
def figures(digits_report):
    return (*of_scores(digits_report), *evidence_charts.of_evidence(digits_report))


def test_one_drawing_serves_both_schemes(figures):
    for figure in figures:
        assert colours(figure.svg) <= set(INKS), figure.title
        assert "style=" not in figure.svg and "<style" not in figure.svg


def test_every_chart_is_named_and_has_its_numbers(figures):
    assert len(figures) == 7
    for figure in figures:
        drawn = ElementTree.fromstring(figure.svg)
        assert drawn.get("role") == "img" and drawn.find("title").text == figure.title
        assert drawn.find("desc").text == figure.says
        assert figure.rows and all(len(row) == len(figure.head) for row in figure.rows)


def test_only_listed_elements_survive():
    data = alt.Data(values=[{"x": 1, "name": "<script>alert(1)</script>", "link": "https://example.org"}])
    chart = alt.Chart(data, title="<b>&\"'").mark_point().encode(x="x:Q", y="name:N", href="link:N")
    drawn = draw(chart, key="k", title="</title><script>", description="a & b")
    elements = {e.tag for e in ElementTree.fromstring(drawn).iter()}
    assert elements <= {"svg", "g", "path", "rect", "line", "text", "circle", "tspan", "title", "desc"}
    assert "example.org" not in drawn and "<script" not in drawn and "&lt;script" in drawn


def test_distribution_counts_every_example_once():
    values = np.array([-1.0, -0.001, 0.0, 0.001, 2.0, 2.0])
    figure = distribution(values, unit="nats", signed=True)
    assert sum(int(row[2]) for row in figure.rows) == 6
    assert figure.says == "6 scores from −1 to 2, median 0.0005; 33\u00a0% are negative."
    assert any(row[1] == "0" for row in figure.rows)  # an edge at zero: no bar mixes signs
    assert sum(int(row[2]) for row in distribution(np.zeros(5), unit="nats", signed=True).rows) == 5


def test_concentration_and_recovery_by_hand():
    values = np.array([9.0, -1.0, *np.zeros(18)])
    assert "tenth of the examples holds 100\u00a0%" in concentration(values).says
    known = np.zeros(20, bool)
    known[:4] = True
    order = np.arange(20.0)
    figure = recovery({"A": order[::-1].copy(), "B": order}, known, name="flipped")
    assert figure.says == "In the most suspect tenth are 50\u00a0% by A, 0\u00a0% by B; by chance 10\u00a0%."
    assert figure.rows[-1] == ("B", "100.0\u00a0%", "100.0\u00a0%")


def test_the_plan_among_random_plans_counts_those_it_beats(digits_report):
    proof = cases.retraining(digits_report.plans[0])
    table = {
        "arm": ["full", "full", "plan", "plan", "random 1", "random 1", "random 2", "random 2"],
        "seed": [0, 1] * 4,
        "improvement": [0.0, 0.0, 0.2, 0.4, 0.5, 0.3, 0.1, None],
    }
    figure = evidence_charts.arms(replace(proof, table=table), key="k")
    assert dict(figure.rows) == {"plan": "0.3", "random 1": "0.4", "random 2": "0.1"}
    assert "better than 1 of 2 random plans" in figure.says


def test_intervals_without_end_are_left_out_of_the_drawing_only(digits_report):
    endless = replace(cases.lds("EKFAC()", 0.1), interval=(float("-inf"), float("inf")))
    (figure,) = evidence_charts.of_evidence(replace(digits_report, evidence=(endless,)))
    assert figure.rows[0] == ("EKFAC", "estimate", "0.1", "−∞ to ∞")


def test_two_pieces_of_evidence_of_one_name_stay_apart(digits_report):
    same = (cases.lds("EKFAC()", 0.1), cases.lds("EKFAC()", 0.4))
    (figure,) = evidence_charts.of_evidence(replace(digits_report, evidence=same))
    assert [row[0] for row in figure.rows] == ["EKFAC", "EKFAC", "EKFAC (2)", "EKFAC (2)"]
