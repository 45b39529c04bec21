import numpy as np
import polars as pl

from steelyard.report import build, for_spreadsheet, to_frames


def test_frames_hold_everything(digits_report):
    frames = to_frames(digits_report, k=3)
    assert frames["scores"].columns == ["train_id", "EKFAC", "ClassSimilarity", "Random", "flipped"]
    np.testing.assert_array_equal(frames["scores"]["EKFAC"], digits_report.scores[0].per_example())
    assert frames["scores"]["flipped"].sum() == 20
    assert frames["top"].height == 30 * 2 * 3
    assert frames["evidence"]["estimate"].to_list() == [e.estimate for e in digits_report.evidence]
    assert frames["plans"].filter(pl.col("action") == "drop").height == 30
    assert frames["plans"].filter(pl.col("action") == "relabel")["label"].null_count() == 0
    assert frames["findings"]["code"].to_list()[0] == "SY101"


def test_empty_parts_have_their_columns(digits_report):
    frames = to_frames(build(digits_report.scores[0]))
    assert frames["evidence"].height == frames["plans"].height == 0
    assert "verdict" in frames["evidence"].columns and "reason" in frames["plans"].columns


def test_formulas_are_quoted_for_spreadsheets():
    frame = pl.DataFrame(
        {"text": ["=1+1", "+x", "-2", "@a", "\t=x", " =x", "plain", "a=b", None], "n": range(9)}
    )
    quoted = for_spreadsheet(frame)["text"].to_list()
    assert quoted == ["'=1+1", "'+x", "'-2", "'@a", "'\t=x", "' =x", "plain", "a=b", None]
