import io

from rich.console import Console

from steelyard.report import text


def test_the_report_in_a_terminal(digits_report):
    shown = text(digits_report)
    assert shown.startswith("EKFAC: 400 training examples, 30 queries\n✓ Confirmed: better than random\n")
    assert "lowered the loss of the queries by 0.012 nats more than dropping 30" in shown
    assert "SY203" in shown and "flipped" in shown and "Cost:" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_hostile_text_cannot_speak_to_the_terminal(hostile_report):
    file = io.StringIO()
    console = Console(file=file, width=160, force_terminal=True, color_system="truecolor")
    plain = text(hostile_report, console=console)
    assert "\x1b" not in plain and "\u202e" not in plain and "\x07" not in plain
    assert "[bold red]markup[/]" in " ".join(plain.split())
    assert "]8;;" not in file.getvalue().replace("⟨U+001B⟩]8;;", "")
    assert "\x1b[2J" not in file.getvalue() and "\x07" not in file.getvalue()
    file.getvalue().encode("utf-8")


def test_scores_alone_are_enough(digits_report):
    assert "Not verified" in text(digits_report.scores[0])
