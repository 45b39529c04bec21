"""Banks: fits made beforehand on a seeded design, kept in a folder that many runs read.

A bank is a folder of kept fits, laid out as in a run folder, beside ``bank.json`` (what it was made of) and
``fits.npz`` (masks, seeds and outcomes of all of them together). A run that borrows from a bank finds the fits that
it would make itself and makes the others. Rows of a design do not depend on how many there are, so a bank can grow.

A bank is for scoring or for verification, never for both: their seeds and their keys differ, and each refuses the
other's.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from steelyard.collect import coalitions, pace
from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import Outcomes, Purpose, outcomes
from steelyard.collect.players import players_of
from steelyard.errors import RunError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost
from steelyard.records.provenance import versions
from steelyard.run import Run, generator, stream
from steelyard.run.cost import Meter
from steelyard.run.files import explained, size_of, write_atomically, write_json
from steelyard.run.lock import locked
from steelyard.run.manifest import NAME as MANIFEST
from steelyard.run.manifest import begun, read_manifest
from steelyard.run.packs import count_kept
from steelyard.run.pool import Workers
from steelyard.run.progress import Show, display

Design = Literal["half", "uniform", "bootstrap", "leave-one-out"]
FORMAT = 1
_FACTS, _FITS = "bank.json", "fits.npz"
_BLOCK = 2048


@dataclass(frozen=True)
class Bank:
    """What a bank was made of.

    Attributes:
        design: Which examples a fit sees. ``"half"``: each example with probability 1/2 (for verification: exactly
            half of them); ``"uniform"``: each with a probability drawn anew for every fit; ``"bootstrap"``: as many
            draws with replacement as there are examples; ``"leave-one-out"``: all but one.
        purpose: Who may read it.
        seeds: Training seeds: rows take turns with them for scoring; every row has each of them for verification and
            for ``"leave-one-out"``.
        fits: How many fits were asked for.
        seed: Of the problem.
        checksums: Of training examples, queries and learner.
        steelyard: Version that made it.
        request: What the command line was given, to find model and data again; empty if made in Python.
        format: Version of the layout.
    """

    design: Design
    purpose: Purpose
    seeds: int
    fits: int
    seed: int
    checksums: Mapping[str, str]
    steelyard: str
    request: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class Fits:
    """The fits of a bank.

    Attributes:
        weightings: ``float64["fit train"]`` 0 for absent examples.
        numbers: ``int64[" fit"]`` Number of the training seed of each.
        values: ``float64["fit query"]`` Measurement of every query; NaN where the fit failed.
        train_ids: ``str[" train"]``
        query_ids: ``str[" query"]``
    """

    weightings: np.ndarray
    numbers: np.ndarray
    values: np.ndarray
    train_ids: np.ndarray
    query_ids: np.ndarray


def build(  # noqa: PLR0913 - what is fitted, and how
    path: str | Path,
    problem: Problem,
    *,
    fits: int,
    design: Design = "half",
    purpose: Purpose = "scoring",
    seeds: int = 1,
    show: Show = "auto",
    request: Mapping[str, Any] | None = None,
    time_budget: float | int | None = None,
    workers: Workers | None = None,
) -> Bank:
    """Make a bank, or go on with one of the same problem and design until it has so many fits.

    Each fit is kept as soon as it or its block is finished; after a kill, the same call goes on.

    Cost: those of the fits that are missing.

    Args:
        path: Folder of the bank.
        problem: Learner, training examples, queries.
        fits: How many in all.
        design: Which examples each fit sees: see :class:`Bank`.
        purpose: Who may read it.
        seeds: Training seeds.
        show: Where progress goes.
        request: What the command line was given.
        time_budget: Seconds that the missing fits may take by prediction; None: any.
        workers: Who makes the fits; None: this process, or processes of its own where that pays.

    Raises:
        RunError: If the folder holds something else, or a bank of other data, another model, design, purpose, seed or
            version; or another process works on it.
        SettingError: If fits or seeds are below 1, there is no such design, or the fits would take longer than the
            budget; it says how many can be had.
    """
    if fits < 1 or seeds < 1 or design not in get_args(Design):
        raise SettingError(
            f"bank: fits={fits}, seeds={seeds}, design={design!r}.",
            fix=f"give at least one of each, and one of {', '.join(get_args(Design))}.",
        )
    folder = Path(path).expanduser().resolve()
    wanted = Bank(
        design, purpose, seeds, fits, problem.seed, problem.checksums(), _version(), dict(request or {})
    )
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        known = _begun(folder, wanted)
        with _working(folder, known, show) as run:
            run.allowed, run.workers = time_budget, workers
            done = count_kept(folder, f"fits/{purpose}")
            pace.predict(problem, run, Cost(fits=max(0, known.fits - done)))
            _fill(folder, problem, known, run)
    return known


def open_bank(path: str | Path) -> Bank:
    """What a bank was made of.

    Raises:
        RunError: If the folder is no bank, or of another version.
    """
    folder = Path(path).expanduser().resolve()
    if not (folder / _FACTS).exists():
        raise RunError(
            f"{folder} is no bank of fits.", fix="make one: steelyard bank build MODEL --out DIR --fits 500."
        )
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        found = Bank(**facts)
    except (ValueError, TypeError) as error:
        raise RunError(
            f"{folder / _FACTS} cannot be read: {error}.", fix="build the bank again in another folder."
        ) from error
    if found.format != FORMAT or found.steelyard != _version():
        raise RunError(
            f"{folder} was made by Steelyard {found.steelyard} (format {found.format}); this is {_version()} "
            f"(format {FORMAT}), whose fits may differ.",
            fix=f"install Steelyard {found.steelyard}, or build the bank again in another folder.",
        )
    return found


def lend(path: str | Path, problem: Problem, run: Run, *, purpose: Purpose) -> Bank:
    """Let a run take fits from a bank instead of making them.

    Args:
        path: Folder of the bank.
        problem: Of the run.
        run: Takes what :func:`~steelyard.collect.fits.outcomes` asks for, where the bank has it.
        purpose: What the run does.

    Raises:
        RunError: If it is no bank, or one of other data, another model or seed, or for the other purpose.
    """
    folder = Path(path).expanduser().resolve()
    found = open_bank(folder)
    if found.purpose != purpose:
        other = "verification would no longer be independent of the scores"
        raise RunError(
            f"{folder} is a bank for {found.purpose}, not for {purpose}: {other}.",
            fix=f"build another one with --purpose {purpose}.",
        )
    _same(folder, found, replace(found, seed=problem.seed, checksums=problem.checksums()))
    run.borrow(folder)
    run.note(
        f"fits were taken from a bank of {found.fits} ({found.design}, for {found.purpose}) where it had them"
    )
    return found


def read_fits(path: str | Path) -> Fits:
    """All fits of a bank, as of the last time that :func:`build` finished.

    Raises:
        RunError: If it is no bank, or none of its fits was finished.
    """
    folder = Path(path).expanduser().resolve()
    open_bank(folder)
    if not (folder / _FITS).exists():
        raise RunError(f"{folder} has no finished fits yet.", fix="give the command that builds it again.")
    with np.load(folder / _FITS, allow_pickle=False) as kept:
        train_ids = kept["train_ids"]
        masks = np.unpackbits(kept["masks"], axis=1, count=len(train_ids)).astype(np.float64)
        return Fits(
            kept.get("weightings", masks), kept["numbers"], kept["values"], train_ids, kept["query_ids"]
        )


def rows(problem: Problem, bank: Bank, wanted: range) -> tuple[Float[np.ndarray, "fit train"], list[int]]:
    """Weightings and seed numbers of these rows of a bank's design.

    For scoring they are the rows that methods draw (``banzhaf`` and ``datamodels`` halves, ``data_oob`` bootstrap
    samples, ``leave_one_out``); for verification, after the full set, those of ``lds`` and ``loo``.
    """
    numbers = [k % bank.seeds for k in wanted]
    if bank.purpose == "scoring" and bank.design != "leave-one-out":
        return _scoring_rows(problem, bank.design, wanted), numbers
    places = np.array([k // bank.seeds for k in wanted], dtype=np.int64)
    last = int(places.max(initial=0))
    full = np.ones((1, len(problem.train)))
    return np.concatenate([full, _repeated_rows(problem, bank, last)])[places], numbers


def _scoring_rows(problem: Problem, design: Design, wanted: range) -> np.ndarray:
    # Methods draw among the examples that are present, in the order of their ids.
    players, seed = players_of(problem.train), problem.seed
    if design == "half":
        return players.weightings(coalitions.independent(seed, len(players), wanted, probability=0.5))
    if design == "uniform":
        return players.weightings(coalitions.levels(seed, len(players), wanted))
    return coalitions.bags(seed, len(players), wanted)[:, players.owner] * (players.owner >= 0)


def _repeated_rows(problem: Problem, bank: Bank, count: int) -> np.ndarray:
    """Rows that are fitted with every seed, after the full set."""
    total, rest = len(problem.train), range(count)
    if bank.design == "leave-one-out":
        order = np.arange(total)
        if bank.purpose == "verification":
            order = generator(problem.seed, "verification", "loo").permutation(total)
        found = np.ones((count, total))
        found[np.arange(count), order[np.arange(count) % total]] = 0.0
        return found
    if bank.design == "half":
        return random_subsets(problem, count, fraction=0.5, name="verification/lds")
    seed = stream(problem.seed, "verification", "bank")
    if bank.design == "uniform":
        return coalitions.levels(seed, total, rest).astype(np.float64)
    return coalitions.bags(seed, total, rest)


def _fill(folder: Path, problem: Problem, bank: Bank, run: Run) -> None:
    parts: list[Outcomes] = []
    weightings: list[np.ndarray] = []
    numbers: list[int] = []
    for low in range(0, bank.fits, _BLOCK):
        drawn, own = rows(problem, bank, range(low, min(low + _BLOCK, bank.fits)))
        parts.append(outcomes(problem, drawn, own, run, purpose=bank.purpose))
        weightings.append(drawn)
        numbers += own
    drawn = np.concatenate(weightings)
    arrays = {
        "masks": np.packbits(drawn != 0, axis=1),
        "numbers": np.array(numbers, dtype=np.int64),
        "values": np.concatenate([part.values for part in parts]),
        "train_ids": problem.train.ids.astype(str),
        "query_ids": problem.query.ids.astype(str),
    }
    if not np.isin(drawn, (0.0, 1.0)).all():
        arrays["weightings"] = drawn
    write_atomically(folder, folder / _FITS, lambda file: np.savez(file, **arrays))


def _begun(folder: Path, wanted: Bank) -> Bank:
    if (folder / _FACTS).exists():
        known = open_bank(folder)
        _same(folder, known, wanted)
        request = known.request or wanted.request
        wanted = replace(wanted, fits=max(known.fits, wanted.fits), request=request)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} holds something else than a bank.", fix="choose another folder (--out).")
    with explained(folder):
        folder.mkdir(exist_ok=True)
        write_json(folder, folder / _FACTS, asdict(wanted))
    return wanted


def _same(folder: Path, known: Bank, wanted: Bank) -> None:
    differ = [
        f"{name} {getattr(known, name)!r} there, {getattr(wanted, name)!r} here"
        for name in ("design", "purpose", "seeds", "seed")
        if getattr(known, name) != getattr(wanted, name)
    ]
    differ += [
        f"the {name} ({known.checksums.get(name, '')[:12]} there, {checksum[:12]} here)"
        for name, checksum in wanted.checksums.items()
        if known.checksums.get(name) != checksum
    ]
    if differ:
        raise RunError(
            f"{folder} is a bank of something else: {'; '.join(differ)}.",
            fix="give the model, data and settings that it was built with, or another folder.",
        )


@contextmanager
def _working(folder: Path, bank: Bank, show: Show) -> Iterator[Run]:
    """The folder as a run that goes on; its manifest says what the fits took, whether they were finished or not."""
    manifest = begun({"command": "bank", "design": bank.design, "checksums": dict(bank.checksums)})
    before = Cost()
    if (folder / MANIFEST).exists():
        old = read_manifest(folder)
        manifest = replace(old, status="running", finished=None, sessions=old.sessions + 1)
        before = replace(old.cost, disk_bytes=size_of(folder))
    run = Run(meter=Meter(before), shown=display(show), folder=folder, manifest=manifest)
    try:
        yield run
    except BaseException as error:
        run.save("interrupted")
        error.add_note(f"What was kept is in {folder}; the same command goes on there.")
        raise
    run.save("finished")


def _version() -> str:
    return versions().get("steelyard", "source tree")
