"""Many small results in one file: for results that are made together, such as the fits of a block.

A file of its own takes milliseconds to be flushed to the disk, longer than many a small fit. A pack is an ordinary kept
file (see :mod:`steelyard.run.store`) whose arrays have one more axis, and which lists its keys; it is there in full
or not at all, and every byte of it is checked when it is read.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from steelyard.run import store

Arrays = Mapping[str, np.ndarray]

_FOLDER = "packs"
_KEYS = "keys"
_EACH = "each-"


class Packs:
    """The packs of one run folder; read when the first key is asked for."""

    def __init__(self, folder: Path, damaged: Callable[[str], None]) -> None:
        """Nothing is read yet.

        Args:
            folder: The run folder.
            damaged: Told, in a sentence, of every pack that cannot be used.
        """
        self._folder = folder
        self._damaged = damaged
        self._lock = threading.Lock()
        self._places: dict[str, tuple[Arrays, int]] | None = None

    def find(self, key: str) -> Arrays | None:
        """The arrays of the key, read-only because they are parts of larger ones; None if no pack has it."""
        arrays, row = self._known().get(key, (None, 0))
        return None if arrays is None else {name: _frozen(array[row, ...]) for name, array in arrays.items()}

    def has(self, key: str) -> bool:
        """Whether a pack has it."""
        return key in self._known()

    def add(self, entries: Mapping[str, Arrays]) -> int:
        """Write the entries, those that are alike in names, types and shapes into one pack; bytes written.

        Raises:
            SettingError: If a key has characters that keys may not have.
            RunError: If an array cannot be kept, the disk is full, or the folder may not be written.
        """
        known, written = self._known(), 0
        for keys in _alike(entries):
            arrays = {name: np.stack([entries[key][name] for key in keys]) for name in entries[keys[0]]}
            digest = hashlib.blake2b("\n".join(keys).encode(), digest_size=12).hexdigest()
            whole = {_KEYS: np.array(keys), **{_EACH + name: array for name, array in arrays.items()}}
            written += store.write_arrays(self._folder, f"{_FOLDER}/{digest}", whole)
            with self._lock:
                known.update((key, (arrays, row)) for row, key in enumerate(keys))
        return written

    def _known(self) -> dict[str, tuple[Arrays, int]]:
        with self._lock:
            if self._places is None:
                self._places = {
                    key: (arrays, row)
                    for keys, arrays in _read(self._folder, self._damaged)
                    for row, key in enumerate(keys)
                }
            return self._places


def count_kept(folder: Path, prefix: str) -> int:
    """How many results the run folder keeps under keys ``PREFIX/NAME``, by themselves or in packs.

    Packs that are damaged do not count.
    """
    alone = {path.stem for path in store.kept_path(folder, f"{prefix}/x").parent.glob("*.npz")}
    packed = {key for keys, _ in _read(folder, lambda _: None) for key in keys}
    return len(alone | {key.removeprefix(f"{prefix}/") for key in packed if key.startswith(f"{prefix}/")})


def _read(folder: Path, damaged: Callable[[str], None]) -> Iterator[tuple[list[str], Arrays]]:
    for path in sorted(store.kept_path(folder, f"{_FOLDER}/x").parent.glob("*.npz")):
        found = store.read_arrays(folder, f"{_FOLDER}/{path.stem}")
        if isinstance(found, store.Damaged):
            damaged(
                f"{_FOLDER}/{path.stem} in {folder.name} is damaged on the disk and was not used: {found.reason}"
            )
        elif found is not None:
            arrays = {name.removeprefix(_EACH): array for name, array in found.items() if name != _KEYS}
            yield [str(key) for key in found[_KEYS]], arrays


def _alike(entries: Mapping[str, Arrays]) -> list[list[str]]:
    groups: dict[tuple[tuple[str, str, tuple[int, ...]], ...], list[str]] = {}
    for key, arrays in entries.items():
        kind = tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())
        groups.setdefault(kind, []).append(store.checked_key(key))
    return list(groups.values())


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array).view()
    array.flags.writeable = False
    return array
