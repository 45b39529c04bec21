"""Opening a run folder: begun in ``NAME.part``, resumed after any end, renamed to ``NAME`` when finished."""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from steelyard.errors import RunError, SettingError
from steelyard.run.cost import Meter
from steelyard.run.files import TEMPORARY, explained, is_refusal, refused, size_of, sync_folders
from steelyard.run.lock import locked
from steelyard.run.manifest import (
    NAME,
    Manifest,
    begun,
    check_same_request,
    read_manifest,
    resumed,
    write_manifest,
)
from steelyard.run.progress import Display, Show, display
from steelyard.run.run import Run


@contextmanager
def open_run(
    path: str | Path, request: Mapping[str, Any], *, show: Show = "auto", fresh: bool = False
) -> Iterator[Run]:
    """A run in a folder, which survives errors, Ctrl-C and kill -9.

    Whatever was kept until then is used when the same call is made again. The work is done in ``PATH.part``,
    which is renamed to ``PATH`` at the end of the ``with`` block; if that ends with an exception,
    ``PATH.part`` stays. If ``PATH`` is there already and was asked for the same, the run comes back with
    ``finished=True`` and writes nothing. No other process can open the folder meanwhile.

    Args:
        path: Where the run shall be.
        request: Everything the result depends on, as plain JSON values. If checksums of data and model are
            given as ``{"checksums": {"train": …, "query": …, "learner": …}}``, a changed model is told apart
            from others.
        show: Where progress goes: ``"auto"`` shows bars if standard error is a terminal, ``"json"`` writes
            JSON lines to standard error, ``"quiet"`` shows nothing.
        fresh: Whether to discard what an earlier run left at ``PATH`` and ``PATH.part``.

    Raises:
        RunError: If the folder is in use, holds a run of another request or another format or something else,
            the disk is full, or writing is not permitted.
        SettingError: If the path is no name for a folder or the request is not plain JSON.

    Example:
        >>> import numpy as np, tempfile
        >>> from steelyard.run import open_run
        >>> with tempfile.TemporaryDirectory() as place:
        ...     for _ in range(2):
        ...         with open_run(f"{place}/squares", {"count": 3}) as run:
        ...             kept = run.keep("squares", lambda: {"values": np.arange(3) ** 2})
        ...             print(run.finished, kept["values"])
        False [0 1 4]
        True [0 1 4]
    """
    target = _target(path)
    wanted = begun(request)
    shown = display(show)
    old = None if fresh else _finished(target, wanted)
    if old is not None:
        facts = {"run": str(target), "resumed": False, "finished": True}
        shown.say("start", f"{target} is finished already ({old.finished})", facts)
        yield Run(meter=Meter(old.cost), shown=shown, folder=target, manifest=old)
        return
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if not fresh and _finished(target, wanted) is not None:
            raise RunError(
                f"{target} was finished just now by another process.", fix="give the same command again."
            )
        part = target.with_name(target.name + ".part")
        run = _begin(target, part, wanted, shown=shown, fresh=fresh)
        try:
            yield run
            _finish(run, part, target, shown)
        except BaseException as error:
            _interrupt(run, part, error, shown)
            if isinstance(error, OSError) and is_refusal(error, part):
                raise refused(error, part) from error
            raise


def _target(path: str | Path) -> Path:
    target = Path(path).expanduser().resolve()
    if not target.name:
        raise SettingError(
            f"{str(path)!r} cannot be a run folder.", fix="give a path such as runs/first (--out)."
        )
    return target


def _finished(target: Path, wanted: Manifest) -> Manifest | None:
    if _is_empty(target):
        return None
    manifest = read_manifest(target)
    check_same_request(target, manifest, wanted)
    return manifest


def _is_empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _keeps_nothing(part: Path) -> bool:
    """Whether nothing would be lost with this folder: it is of a run that ended before its first result."""
    if not part.exists():
        return True
    if not part.is_dir() or any(entry.name not in (TEMPORARY, NAME) for entry in part.iterdir()):
        return False
    return _is_run(part) or not (part / NAME).exists()


def _begin(target: Path, part: Path, wanted: Manifest, *, shown: Display, fresh: bool) -> Run:
    with explained(part):
        if fresh:
            _discard(target, part)
        manifest = wanted
        if not fresh and not _keeps_nothing(part):
            old = read_manifest(part)
            check_same_request(part, old, wanted)
            manifest = resumed(old, wanted)
        part.mkdir(exist_ok=True)
        shutil.rmtree(part / TEMPORARY, ignore_errors=True)
        write_manifest(part, manifest)
        sync_folders(part.parent, part.parent)
    again = manifest.sessions > 1
    text = f"resuming {part}, begun {manifest.started}, so far {manifest.cost}"
    facts = {"run": str(target), "resumed": again, "finished": False}
    shown.say("start", text if again else f"keeping the run in {part}", facts)
    before = replace(manifest.cost, disk_bytes=size_of(part))
    return Run(meter=Meter(before), shown=shown, folder=part, manifest=manifest)


def _discard(target: Path, part: Path) -> None:
    """Empty both folders, if they are run folders; after a kill, an older run or none remains."""
    for folder, disposable in ((target, _is_empty(target)), (part, _keeps_nothing(part))):
        if not disposable and not _is_run(folder):
            raise RunError(
                f"{folder} is not a run folder, so it is not discarded.", fix="choose another path (--out)."
            )
    part.mkdir(exist_ok=True)
    bin_ = part / TEMPORARY / secrets.token_hex(8)
    bin_.mkdir(parents=True)
    if target.exists():
        target.rename(bin_ / "finished")
    for entry in part.iterdir():
        if entry.name not in (TEMPORARY, NAME):
            entry.rename(bin_ / entry.name)


def _is_run(folder: Path) -> bool:
    """Whether the folder was written by a run, of whatever format."""
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("steelyard") == "run"


def _finish(run: Run, part: Path, target: Path, shown: Display) -> None:
    run.save("finished")
    shutil.rmtree(part / TEMPORARY, ignore_errors=True)
    if not _is_empty(target):
        raise RunError(
            f"{target} was put there by something else during the run, which is complete in {part}.",
            fix="move the other thing away and give the same command again.",
        )
    with explained(part):
        sync_folders(part, part)
        part.rename(target)
        sync_folders(target.parent, target.parent)
    run.folder = target
    cost = run.manifest.cost
    facts = {"status": "finished", "run": str(target), "cost": asdict(cost)}
    shown.say("finish", f"measured:  {cost}; kept in {target}", facts)


def _interrupt(run: Run, part: Path, error: BaseException, shown: Display) -> None:
    """Leave what was kept, and say where; nothing is left of a run that kept nothing."""
    if run.folder != part or not part.exists():
        return
    if _keeps_nothing(part):
        shutil.rmtree(part, ignore_errors=True)
        return
    text = f"What was kept is in {part}; the same command resumes there."
    try:
        run.save("interrupted")
    except RunError as refusal:
        # The first error matters more: what was kept resumes even if the manifest does not say how it ended.
        text += f" The manifest could not be written: {refusal.problem}"
    error.add_note(text)
    shown.say("finish", text, {"status": "interrupted", "run": str(part), "cost": asdict(run.cost)})
