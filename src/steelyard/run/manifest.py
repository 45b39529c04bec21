"""manifest.json: what a run was asked for, how far it came, with which versions, and what it took."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from steelyard.errors import RunError, SettingError
from steelyard.records import Cost
from steelyard.records.provenance import versions
from steelyard.run.files import write_json

FORMAT = 1
"""Version of the layout of run folders; raised when older folders can no longer be read."""

NAME = "manifest.json"

_SHOWN = 200

Status = Literal["running", "interrupted", "finished"]


@dataclass(frozen=True)
class Manifest:
    """What is written about a run.

    Attributes:
        request: The request as given, in plain JSON values.
        status: ``"running"`` also stands in the folder of a run that was killed.
        started: When the first session began (UTC, ISO 8601).
        finished: When the last one finished; None before.
        sessions: How often the run was begun or resumed.
        versions: Python, platform and loaded libraries of the last session.
        predicted: What the last session predicted the whole run to take.
        cost: What all sessions together took.
        notes: What was done less or differently than asked.
    """

    request: Mapping[str, Any]
    status: Status = "running"
    started: str = ""
    finished: str | None = None
    sessions: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    predicted: Cost | None = None
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of SHA-256 over the request; the order of its settings does not matter."""
        text = json.dumps(self.request, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_versions(self, loaded: Mapping[str, str]) -> "Manifest":
        """The manifest with the libraries loaded now; a change since an earlier session becomes a note."""
        both = sorted(self.versions.keys() & loaded.keys())
        changes = [
            f"{name} {self.versions[name]} -> {loaded[name]}"
            for name in both
            if self.versions[name] != loaded[name]
        ]
        note = f"resumed with other versions than before: {', '.join(changes)}"
        notes = dict.fromkeys((*self.notes, *((note,) if changes else ())))
        return replace(self, versions={**self.versions, **loaded}, notes=tuple(notes))


def begun(request: Mapping[str, Any]) -> Manifest:
    """The manifest of a run that begins now.

    Raises:
        SettingError: If the request is not made of plain JSON values.
    """
    try:
        plain = json.loads(json.dumps(request))
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"the request of a run cannot be written as JSON: {error}.",
            fix="give numbers, texts, lists and dictionaries with text keys; paths as str(path).",
        ) from error
    return Manifest(request=plain, started=now(), versions=versions())


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically.

    Raises:
        RunError: If the disk is full or the folder may not be written.
    """
    head = {"steelyard": "run", "format": FORMAT, "fingerprint": manifest.fingerprint}
    write_json(folder, folder / NAME, head | asdict(manifest))


def read_manifest(folder: str | Path) -> Manifest:
    """What is written about the run in a folder.

    Args:
        folder: A run folder, finished or still with ``.part`` at the end of its name.

    Raises:
        RunError: If it is no run folder, is damaged, or has the layout of another version of Steelyard.
    """
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{folder} is not a run folder ({NAME} is missing).", fix="choose another path."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            f"{path} is damaged: {error}.", fix="restore the file, or begin anew elsewhere."
        ) from error
    if not isinstance(content, dict) or content.get("steelyard") != "run":
        raise RunError(f"{path} was not written by a run of Steelyard.", fix="choose another path.")
    if content.get("format") != FORMAT:
        raise RunError(
            f"{folder} is a run folder of format {content.get('format')}, this version of Steelyard "
            f"({versions().get('steelyard', 'unknown')}) reads format {FORMAT}; it was written by "
            f"{content.get('versions', {}).get('steelyard', 'an unknown version')}.",
            fix="use the version that wrote it, choose another path (--out), or discard it (--fresh).",
        )
    return _from_json(content)


def _from_json(content: Mapping[str, Any]) -> Manifest:
    return Manifest(
        request=content["request"],
        status=content["status"],
        started=content["started"],
        finished=content["finished"],
        sessions=content["sessions"],
        versions=content["versions"],
        predicted=None if content["predicted"] is None else Cost(**content["predicted"]),
        cost=Cost(**content["cost"]),
        notes=tuple(content["notes"]),
    )


def resumed(old: Manifest, wanted: Manifest) -> Manifest:
    """The old manifest for one more session."""
    return replace(old, status="running", finished=None, sessions=old.sessions + 1).with_versions(
        wanted.versions
    )


def check_same_request(folder: Path, old: Manifest, wanted: Manifest) -> None:
    """Nothing if both ask for the same.

    Raises:
        RunError: Naming every setting that differs, with its old and its new value.
    """
    if old.request == wanted.request:
        return
    before, after = _flat(old.request), _flat(wanted.request)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    fix = "choose another folder (--out), or discard what is there (--fresh, fresh=True)."
    if changed == ["checksums.learner"]:
        raise RunError(
            f"{folder}: the model's parameters or settings changed since the run began; all else is equal.",
            fix=f"restore the model as it was to continue this run, or {fix}",
        )
    lines = [f"\n    {name}: {_short(before.get(name))} -> {_short(after.get(name))}" for name in changed]
    raise RunError(f"{folder} holds a run of another request. What differs:{''.join(lines)}", fix=fix)


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        items = [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
        return {place: text for key, item in items for place, text in _flat(item, key).items()}
    return {name: json.dumps(value)}


def _short(text: str | None) -> str:
    if text is None:
        return "(not set)"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
