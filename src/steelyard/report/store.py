"""A report on disk, without pickle and without the model: records beside the few examples that are shown.

report.json             title, verdict, findings, truth, provenance, names of the other files
scores/00-EKFAC/        as written by Scores.save; 00 was asked for, the others are baselines
plans/00-drop.jsonl     as written by Plan.save
evidence/00-lds.json    as written by Evidence.save
splits/00-token.json    as written by TokenScores.save or PartScores.save, with .npz
shown/train.json        ids and columns of the examples shown; numbers in train.npz
shown/query.json        likewise
"""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from steelyard.errors import DataError
from steelyard.records import (
    Evidence,
    Examples,
    Finding,
    PartScores,
    Plan,
    Provenance,
    Report,
    Scores,
    TokenScores,
)
from steelyard.report.selection import View, shown_ids
from steelyard.report.showing import at_hand, objects, plain

_FORMAT = 1
_HEAD = "report.json"


def save(report: Report, folder: str | Path, *, view: View | None = None) -> Path:
    """Write a report to a folder, from which :func:`load` gives a report that renders to the same page.

    Everything is written to a folder beside it and renamed at the end. Of the examples, only those are kept
    that the page shows.

    Args:
        report: What to write.
        folder: Where to; an earlier report there is replaced.
        view: What the page shows; a later page with a larger view shows ids for what was not kept.

    Returns:
        The folder.

    Raises:
        DataError: If ``folder`` exists and holds no report.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / _HEAD).exists():
        raise DataError(f"{folder} exists and holds no report.", fix="choose another folder.")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name in ("scores", "plans", "evidence", "splits", "shown"):
        (part / name).mkdir(parents=True)
    trains, queries = shown_ids(report, view or View())
    head = {
        "steelyard": "report",
        "format": _FORMAT,
        "title": report.title,
        "verdict": report.verdict,
        "findings": [asdict(finding) for finding in report.findings],
        "truth": {name: list(ids) for name, ids in report.truth.items()},
        "provenance": report.provenance.to_json(),
        "scores": [s.save(part / "scores" / _file_name(i, s.name)).name for i, s in enumerate(report.scores)],
        "plans": [
            p.save(part / "plans" / f"{_file_name(i, p.action)}.jsonl").name
            for i, p in enumerate(report.plans)
        ],
        "evidence": [
            e.save(part / "evidence" / f"{_file_name(i, e.metric)}.json").name
            for i, e in enumerate(report.evidence)
        ],
        "splits": [
            {"by": by, "name": s.save(part / "splits" / _file_name(i, by)).name}
            for i, s in enumerate(report.splits)
            for by in ("token" if isinstance(s, TokenScores) else s.by,)
        ],
    }
    _save_examples(at_hand(report.train, trains), part / "shown" / "train")
    _save_examples(at_hand(report.query, queries), part / "shown" / "query")
    _write(part / _HEAD, head)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def load(folder: str | Path) -> Report:
    """A report from a folder written by :func:`save`; scores stay on disk, memory-mapped.

    Raises:
        DataError: If the folder holds no report, or one of a newer format.
    """
    folder = Path(folder)
    if not (folder / _HEAD).exists():
        raise DataError(
            f"{folder}: no report here ({_HEAD} is missing).", fix="give a folder of report.save."
        )
    head = json.loads((folder / _HEAD).read_text(encoding="utf-8"))
    if head.get("steelyard") != "report" or head["format"] > _FORMAT:
        raise DataError(
            f"{folder / _HEAD}: not a report of format {_FORMAT} or older.",
            fix="give a folder of report.save, or upgrade steelyard.",
        )
    return Report(
        title=head["title"],
        verdict=head["verdict"],
        scores=tuple(Scores.load(folder / "scores" / name) for name in head["scores"]),
        train=_load_examples(folder / "shown" / "train"),
        query=_load_examples(folder / "shown" / "query"),
        plans=tuple(Plan.load(folder / "plans" / name) for name in head["plans"]),
        evidence=tuple(Evidence.load(folder / "evidence" / name) for name in head["evidence"]),
        findings=tuple(Finding(**finding) for finding in head["findings"]),
        splits=tuple(
            (TokenScores if kept["by"] == "token" else PartScores).load(folder / "splits" / kept["name"])
            for kept in head.get("splits", ())
        ),
        truth={name: tuple(ids) for name, ids in head["truth"].items()},
        provenance=Provenance.from_json(head["provenance"]),
    )


def _save_examples(examples: Examples, stem: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    columns: dict[str, Any] = {}
    for name in examples.columns:
        values = np.asarray(examples.column(name)[:])
        if values.dtype.kind in "biufc":
            key = f"column-{len(arrays)}"
            arrays[key], columns[name] = values, {"array": key}
        else:
            # What JSON has no word for is shown as its str, so that is what is kept.
            columns[name] = {"values": [plain(value) for value in values]}
    head = {
        "ids": [str(i) for i in examples.ids],
        "inputs": list(examples.inputs),
        "label": examples.label,
        "checksum": examples.checksum,
        "source": examples.source,
        "columns": columns,
    }
    _write(stem.with_suffix(".json"), head)
    with stem.with_suffix(".npz").open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())


def _load_examples(stem: Path) -> Examples:
    head = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(stem.with_suffix(".npz"), allow_pickle=False) as arrays:
        columns = {
            name: arrays[kept["array"]] if "array" in kept else objects(kept["values"])
            for name, kept in head["columns"].items()
        }
    return Examples(
        np.array(head["ids"], dtype=str),
        columns,
        inputs=tuple(head["inputs"]),
        label=head["label"],
        checksum=head["checksum"],
        source=head["source"],
    )


def _file_name(index: int, name: str) -> str:
    return f"{index:02}-{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:40]}"


def _write(path: Path, values: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(values, indent=1))
        file.flush()
        os.fsync(file.fileno())
