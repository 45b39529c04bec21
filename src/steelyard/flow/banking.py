"""Banks of fits in three calls: build one, let a run take fits from it, say what it holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.collect import bank as banks
from steelyard.flow.problems import problem_of
from steelyard.problem import Problem
from steelyard.run import Run, read_manifest
from steelyard.run.files import size_of
from steelyard.run.packs import count_kept

if TYPE_CHECKING:
    from steelyard.collect.bank import Bank, Design
    from steelyard.collect.fits import Purpose


def build_bank(  # noqa: PLR0913 - a problem, and the fits that are made of it
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    path: str | Path,
    fits: int,
    design: "Design" = "half",
    purpose: "Purpose" = "scoring",
    seeds: int = 1,
    seed: int = 0,
) -> "Bank":
    """Make a bank of fits, or go on with one.

    Args:
        model: As for ``attribute``.
        train: As for ``attribute``.
        query: As for ``attribute``.
        path: Folder of the bank.
        fits: How many in all.
        design: Which examples each fit sees: see :class:`steelyard.collect.bank.Bank`.
        purpose: Who may read it: ``"scoring"`` or ``"verification"``.
        seeds: Training seeds.
        seed: As for ``attribute``.

    Raises:
        RunError: If the folder holds something else, or a bank of other data or another model.
    """
    problem = problem_of(model, train, query, seed=seed)
    return banks.build(path, problem, fits=fits, design=design, purpose=purpose, seeds=seeds)


def use_bank(path: str | Path | None, problem: Problem, run: Run, *, purpose: "Purpose") -> None:
    """Let a run take the fits that a bank has instead of making them; nothing if there is no bank.

    Raises:
        RunError: If it is no bank, or one of other data, another model or seed, or for the other purpose.
    """
    if path is not None:
        banks.lend(path, problem, run, purpose=purpose)


def bank_facts(path: str | Path) -> dict[str, Any]:
    """What a bank is of and how far it is, as plain values.

    Raises:
        RunError: If it is no bank.
    """
    folder = Path(path).expanduser().resolve()
    found = banks.open_bank(folder)
    finished = (folder / "fits.npz").exists()
    facts: dict[str, Any] = {
        "bank": str(folder),
        "design": found.design,
        "purpose": found.purpose,
        "fits": found.fits,
        "seeds": found.seeds,
        "seed": found.seed,
        "kept": count_kept(folder, f"fits/{found.purpose}"),
        "bytes": size_of(folder),
        "checksums": dict(found.checksums),
        "steelyard": found.steelyard,
    }
    if (folder / "manifest.json").exists():
        manifest = read_manifest(folder)
        facts |= {"seconds": manifest.cost.seconds, "notes": list(manifest.notes)}
    if finished:
        fits = banks.read_fits(folder)
        facts |= {
            "finished": len(fits.values),
            "failed": int(np.isnan(fits.values).all(axis=1).sum()),
            "train": len(fits.train_ids),
            "query": len(fits.query_ids),
            "share": float((fits.weightings != 0).mean()),
        }
    return facts
