"""Tables that paste into a paper, and CSV that a spreadsheet cannot run."""

import polars as pl

from steelyard.cli.show import markdown, number, table, write_csv


def test_columns_are_aligned_and_numbers_to_the_right():
    text = table(("name", "score"), [("a", "1.5"), ("longer", "-12")], width=80)
    assert text.splitlines() == ["name    score", "------  -----", "a         1.5", "longer    -12"]


def test_long_cells_wrap_to_the_width():
    text = table(("name", "about"), [("x", "words " * 40)], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("words") == 40


def test_heads_wrap_before_cells_and_settings_are_not_cut_in_two():
    name = "mflyt(methods=loss,self_influence,grad_dot)"
    text = table(("system", "effective examples"), [(name, "75.5")], width=54).splitlines()
    assert text[0].split() == ["system", "effective"] and name in text[3]
    text = table(("system", "effect"), [(name, "0.25")], width=30).splitlines()
    assert [line.split()[0] for line in text[2:]] == ["mflyt(methods=loss,", "self_influence,", "grad_dot)"]
    text = table(("system", "effect"), [("x" * 50, "0.25")], width=30)
    assert max(map(len, text.splitlines())) <= 30 and text.count("x") == 50


def test_control_characters_do_not_reach_the_terminal():
    assert "\x1b" not in table(("id",), [("\x1b[31mred",)], width=80)
    assert "\x1b" not in markdown(("id",), [("\x1b]0;title\x07",)])


def test_bars_are_escaped_in_markdown():
    assert markdown(("a",), [("x|y",)]).splitlines()[-1] == "| x\\|y |"


def test_numbers():
    assert number(None) == ""
    assert number(0.123456) == "0.1235"


def test_formulas_are_defused_in_csv(tmp_path):
    path = tmp_path / "out.csv"
    frame = pl.DataFrame({"id": ["=1+1", "+2", "-3", "@x", "plain"], "value": [-1.0, 2.0, 3.0, 4.0, 5.0]})
    write_csv(frame, path)
    back = pl.read_csv(path)
    assert back["id"].to_list() == ["'=1+1", "'+2", "'-3", "'@x", "plain"]
    assert back["value"].to_list() == [-1.0, 2.0, 3.0, 4.0, 5.0]
