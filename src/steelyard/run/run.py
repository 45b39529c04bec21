"""Run: where work is kept so that nothing is computed twice, how far it is, and what it costs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from steelyard.errors import RunError
from steelyard.records import Cost
from steelyard.records.provenance import versions
from steelyard.run import store
from steelyard.run.cost import Meter
from steelyard.run.files import explained, free_bytes, size_of
from steelyard.run.manifest import Manifest, Status, now, write_manifest
from steelyard.run.packs import Packs
from steelyard.run.pool import Workers
from steelyard.run.progress import Display, Progress, Silence

_SAVE_SECONDS = 1.0


class Run:
    """A piece of work under way, as :func:`open_run` and :func:`in_memory` give it.

    Callers keep every expensive result under a key of their own; a key says everything that the result
    depends on beyond the request of the run. Calls from several threads are safe for different keys.

    Attributes:
        folder: Where the work is kept, ``NAME.part`` until the run is finished; None in memory.
        finished: Whether it was finished before it was opened: what is kept can be read, nothing is written.
        allowed: Seconds that further work may take by the predictions made before it; None: any.
        workers: Who makes its fits, where the user asked for somebody; None: this process, or processes of its own
            where that pays.
    """

    def __init__(
        self, *, meter: Meter, shown: Display, folder: Path | None = None, manifest: Manifest | None = None
    ):
        self.folder = folder
        self.allowed: float | int | None = None
        self.workers: Workers | None = None
        self.finished = manifest is not None and manifest.status == "finished"
        self._meter = meter
        self._shown = shown
        self._manifest = manifest or Manifest(request={})
        self._predicted: Cost | None = None
        self._matrices: list[np.memmap] = []
        self._packs = None if folder is None else Packs(folder, self.note)
        self._lenders: dict[Path, Packs] = {}
        self._saved = time.monotonic()

    def __repr__(self) -> str:
        return f"Run({'in memory' if self.folder is None else str(self.folder)!r}, cost: {self.cost})"

    @property
    def manifest(self) -> Manifest:
        """The request, the sessions and the versions of this run; notes and cost as of the last save."""
        return self._manifest

    def has(self, key: str) -> bool:
        """Whether something is kept under the key, here or in a folder that is borrowed from."""
        return self._has_own(key) or any(
            store.kept_path(folder, key).exists() or packs.has(key) for folder, packs in self._lenders.items()
        )

    def borrow(self, folder: Path) -> None:
        """Take what another run folder keeps under the same keys before computing it; nothing is written there.

        What is taken is kept here too, so that this run stays complete by itself.
        """
        self._lenders[folder] = Packs(folder, self.note)

    def keep(self, key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
        """The arrays kept under the key, computed and kept first if there are none.

        What comes back is the same, bit by bit and in its memory layout, whether it was computed now or read,
        so that a resumed run and an uninterrupted one go on alike. A file that the disk has damaged is
        computed again, with a note. In memory, and for what a finished run lacks, it is only computed.

        Cost: that of ``compute`` once in the life of the run; then one read, with arrays from 32 MiB on
            mapped.

        Args:
            key: Parts of letters, digits, ``.``, ``_`` and ``-``, joined by ``/``:
                ``"score/EKFAC-1a2b/shard-003"``.
            compute: Gives the arrays: numbers, booleans or fixed-width text.

        Returns:
            Arrays in C order by the names that ``compute`` gave. Writing to them does not reach the folder.

        Raises:
            SettingError: If the key has other characters.
            RunError: If the disk is full or the folder may not be written; everything kept before is intact.
        """
        if self.folder is None:
            return self._lent(key) or _in_order(compute())
        found = store.read_arrays(self.folder, key)
        if isinstance(found, store.Damaged):
            self.note(
                f"what was kept as {key} was damaged on the disk and was computed again: {found.reason}"
            )
        found = found if isinstance(found, Mapping) else self._packed(key)
        if found is not None:
            return found
        arrays = self._lent(key) or _in_order(compute())
        if not self.finished:
            self._written(store.write_arrays(self.folder, key, arrays))
        return arrays

    def keep_together(
        self, made: Mapping[str, Mapping[str, np.ndarray]]
    ) -> Mapping[str, Mapping[str, np.ndarray]]:
        """Keep small results that were made together, and are kept together or not at all, in one file.

        Afterwards :meth:`has` and :meth:`keep` know each of them under its own key. In memory, and if the run is
        finished, nothing is written.

        Cost: one file for all that are alike in names, types and shapes, where :meth:`keep` takes one for each.

        Args:
            made: Arrays by key.

        Returns:
            The same arrays by key; what the folder has is read-only.

        Raises:
            SettingError: If a key has characters that keys may not have.
            RunError: If the disk is full or the folder may not be written; everything kept before is intact.
        """
        ordered = {key: _in_order(arrays) for key, arrays in made.items()}
        if self._packs is None or self.finished or not ordered:
            return ordered
        self._written(self._packs.add(ordered))
        return {key: self._packs.find(key) or ordered[key] for key in ordered}

    def take_lent(self, keys: Iterable[str]) -> None:
        """Take what other folders lend under these keys at once, in one file instead of one for each."""
        if self._packs is None or self.finished or not self._lenders:
            return
        lent = {key: self._lent(key) for key in keys if not self._has_own(key)}
        self.keep_together({key: arrays for key, arrays in lent.items() if arrays is not None})

    def matrix(
        self, key: str, shape: tuple[int, int], dtype: np.dtype | type | str = np.float32
    ) -> np.ndarray:
        """A matrix of zeros to fill; ``KEY.npy`` in the run folder, memory-mapped, from 32 MiB on.

        It is a place to put together what is kept, not a thing that is kept: after a kill it begins with
        zeros again.

        Args:
            key: As for :meth:`keep`.
            shape: Rows and columns.
            dtype: Type of its numbers.

        Raises:
            RunError: If the disk cannot hold it.
        """
        number = np.dtype(dtype)
        large = shape[0] * shape[1] * number.itemsize >= store.MAPPED_BYTES
        if self.folder is None or not large:
            return np.zeros(shape, number)
        if self.finished:
            return store.old_matrix(self.folder, key, shape, number)
        matrix = store.new_matrix(self.folder, key, shape, number)
        self._matrices.append(matrix)
        self._meter.spend(disk_bytes=matrix.nbytes)
        return matrix

    def path(self, *names: str) -> Path:
        """Where a result of that name belongs in the run folder; the folder above it exists afterwards.

        Until the run is finished this lies in ``NAME.part``: hand out no absolute path from it.

        Args:
            *names: Parts of the path, such as ``"scores", "EKFAC"``; the same characters as in keys.

        Raises:
            SettingError: If a name has other characters or belongs to the run folder itself.
            RunError: If the run is in memory.
        """
        folder = self._on_disk("/".join(names))
        path = store.result_path(folder, "/".join(names))
        if not self.finished:
            with explained(folder):
                path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def progress(self, what: str, total: int, *, unit: str = "examples") -> Iterator[Progress]:
        """Show a piece of work while it goes on; call ``advance`` on what comes back.

        Args:
            what: The work, in a few words.
            total: Units in all.
            unit: What is counted, in the plural.
        """
        bar = Progress(what, total, unit=unit, shown=self._shown, watch=self._meter.sample)
        try:
            yield bar
        finally:
            bar.close()

    def spend(self, *, gradients: float | int = 0, fits: int = 0) -> None:
        """Count gradient-equivalents and fits as spent; call it inside ``compute``."""
        self._meter.spend(gradients=gradients, fits=fits)

    def predict(self, cost: Cost) -> None:
        """Tell, before the work, what it is expected to take; several predictions add up.

        A disk that is too small for it becomes a note.
        """
        self._predicted = cost if self._predicted is None else self._predicted + cost
        self._shown.say("predicted", f"predicted: {cost}", asdict(cost))
        if self.folder is not None and cost.disk_bytes > (free := free_bytes(self.folder)):
            self.note(
                f"about {cost.disk_bytes / 2**20:,.0f} MiB will be written, but only {free / 2**20:,.0f} MiB "
                f"are free at {self.folder}"
            )

    def note(self, text: str) -> None:
        """Record what was done less or differently than asked; once, however often it is said."""
        if text not in self._manifest.notes:
            self._manifest = replace(self._manifest, notes=(*self._manifest.notes, text))
            self._shown.say("note", f"note: {text}", {"text": text})

    @property
    def notes(self) -> tuple[str, ...]:
        """Every note so far, those of earlier sessions included."""
        return self._manifest.notes

    @property
    def predicted(self) -> Cost | None:
        """What the work was predicted to take, if it was."""
        return self._predicted or self._manifest.predicted

    @property
    def cost(self) -> Cost:
        """What was spent so far, earlier sessions included; all that it took, if it was finished before."""
        return self._manifest.cost if self.finished else self._meter.read()

    def save(self, status: Status = "running") -> None:
        """Write the manifest now; it happens by itself about every second.

        Notes, versions, prediction and cost go into it.

        Args:
            status: What the manifest shall say about the run.

        Raises:
            RunError: If the run is in memory, the disk is full, or the folder may not be written.
        """
        folder = self._on_disk("the manifest")
        for matrix in self._matrices if status == "finished" else ():
            matrix.flush()
        cost = self.cost
        self._manifest = replace(
            self._manifest.with_versions(versions()),
            status=status,
            finished=now() if status == "finished" else None,
            predicted=self.predicted,
            cost=cost if status == "running" else replace(cost, disk_bytes=size_of(folder)),
        )
        write_manifest(folder, self._manifest)
        self._saved = time.monotonic()

    def _lent(self, key: str) -> Mapping[str, np.ndarray] | None:
        for folder, packs in self._lenders.items():
            found = store.read_arrays(folder, key) or packs.find(key)
            if isinstance(found, store.Damaged):
                self.note(f"{key} in {folder.name} is damaged on the disk and was not used: {found.reason}")
            elif found is not None:
                return found
        return None

    def _has_own(self, key: str) -> bool:
        if self.folder is None or self._packs is None:
            return False
        return store.kept_path(self.folder, key).exists() or self._packs.has(key)

    def _packed(self, key: str) -> Mapping[str, np.ndarray] | None:
        return None if self._packs is None else self._packs.find(key)

    def _written(self, disk_bytes: int) -> None:
        self._meter.spend(disk_bytes=disk_bytes)
        # Often enough that a kill loses a second of the account, seldom enough to cost nothing beside small results.
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self.save()

    def _on_disk(self, what: str) -> Path:
        if self.folder is None:
            raise RunError(
                f"{what}: a run in memory has no folder.",
                fix="open a run with steelyard.run.open_run(path, request).",
            )
        return self.folder


def in_memory() -> Run:
    """A run that keeps nothing and shows nothing: the default where a function is called without one."""
    return Run(meter=Meter(), shown=Silence())


def _in_order(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    # Sums over a transposed array round differently from those over its copy that was read from the disk.
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}
