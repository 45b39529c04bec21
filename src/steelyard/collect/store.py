"""The gradient store: projected gradients of many training examples on disk, written once, asked often.

A store is a folder. ``store.json`` says whose gradients these are (checksums of model, data and settings) and how
they are laid out. Every build or append is a part, every part a row of shards:

    store.json
    model.npz                     the fitted model, where it was trained here or has names of its own
    part-0000/ids.npy, weights.npy
    part-0000/shard-00000.npy     [row, feature] in the store's number type, memory-mapped when read
    part-0000/shard-00000.npz     scales [row, layer], lengths [row] and the checksum of the shard

A shard is there in full or not at all. Rows are positions, never ids: two equal texts are two rows.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from jaxtyping import Float

from steelyard.errors import RunError
from steelyard.run.files import size_of, write_atomically, write_json

NAME = "store.json"
FORMAT = 1
Number = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class StoreSettings:
    """How gradients are made into rows.

    Attributes:
        dimension: Numbers per layer at most: 256 is rank 16 from both sides.
        dtype: Number type on the disk; ``"float16"`` and ``"int8"`` with one scale per row and layer.
        modules: Patterns of the layers to use, as in a shell.
        features: Numbers per example at most, in all; 0 is no limit. Divided evenly among the layers.
        seed: Of the projection.
    """

    dimension: int = 256
    dtype: Number = "int8"
    modules: tuple[str, ...] = ("*",)
    features: int = 0
    seed: int = 0


@dataclass(frozen=True)
class StorePart:
    """What one build or append brought.

    Attributes:
        rows: Number of examples.
        shard: Rows per shard.
        checksum: Of the examples.
        source: Where they came from.
        finished: Whether all shards are there.
        agreement: Rank agreement with float32, measured on a sample when the part was finished.
    """

    rows: int
    shard: int
    checksum: str
    source: str
    finished: bool = False
    agreement: dict[str, float] = field(default_factory=dict)

    def bounds(self) -> list[slice]:
        """Rows of every shard, within the part."""
        return [slice(start, min(start + self.shard, self.rows)) for start in range(0, self.rows, self.shard)]


@dataclass(frozen=True)
class StoreManifest:
    """What is written about a store.

    Attributes:
        model: Checksum of learner and fitted parameters.
        settings: How gradients were made into rows.
        names: Of the layers, in the order of their columns.
        widths: Numbers per layer.
        l2: Coefficient of the penalty in the mean training loss.
        parts: In the order of their rows.
        versions: Of the software that began it.
    """

    model: str
    settings: StoreSettings
    names: tuple[str, ...]
    widths: tuple[int, ...]
    l2: float
    parts: tuple[StorePart, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[slice, ...]:
        """Where each layer's numbers are."""
        stops = np.cumsum(self.widths).tolist()
        return tuple(slice(stop - width, stop) for stop, width in zip(stops, self.widths, strict=True))


@dataclass(frozen=True, eq=False)
class Shard:
    """Some rows of a store.

    Attributes:
        start: Position of the first row in the store.
        data: ``[row, feature]`` As on the disk, mapped.
        scales: ``float32["row layer"]`` What each layer's numbers are to be multiplied by; None for float32.
    """

    start: int
    data: np.ndarray
    scales: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Store:
    """A store that is open for reading.

    Attributes:
        folder: Where it is.
        manifest: What is written about it.
        ids: ``str[" row"]``
        weights: ``float64[" row"]`` Weight of every example in the training loss.
        lengths: ``float32[" row"]`` Euclidean length of every row before it was rounded.
    """

    folder: Path
    manifest: StoreManifest
    ids: np.ndarray
    weights: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """Numbers per row."""
        return sum(self.manifest.widths)

    @property
    def nbytes(self) -> int:
        """Bytes on the disk, everything included."""
        return size_of(self.folder)

    def shards(self) -> Iterator[Shard]:
        """All rows, in order, mapped into memory."""
        start = 0
        for number, part in enumerate(self.manifest.parts):
            for k, rows in enumerate(part.bounds()):
                path = shard_path(self.folder, number, k)
                # Copy-on-write, because torch warns of memory that it may not write to.
                data = np.load(path, mmap_mode="c", allow_pickle=False)
                yield Shard(start, data, read_facts(path)["scales"] if self.scaled else None)
                start += rows.stop - rows.start

    @property
    def scaled(self) -> bool:
        """Whether rows have scales."""
        return self.manifest.settings.dtype != "float32"

    def verify(self) -> None:
        """Compare every byte of every shard with its checksum.

        Raises:
            RunError: Naming the first shard that is damaged.
        """
        for number, part in enumerate(self.manifest.parts):
            for k in range(len(part.bounds())):
                path = shard_path(self.folder, number, k)
                data = np.load(path, mmap_mode="r", allow_pickle=False)
                if zlib.crc32(np.ascontiguousarray(data).data) != int(read_facts(path)["crc"]):
                    raise RunError(
                        f"{path}: the bytes differ from their checksum.",
                        fix="delete this file and give the build command again; it writes only what is missing.",
                    )


def open_store(folder: str | Path) -> Store:
    """A finished store, for reading. The shards are mapped, not read.

    Raises:
        RunError: If it is no store, is not finished, or lacks a file.
    """
    folder = Path(folder)
    manifest = read_store_manifest(folder)
    for number, part in enumerate(manifest.parts):
        if not part.finished:
            have = sum(shard_path(folder, number, k).exists() for k in range(len(part.bounds())))
            raise RunError(
                f"{folder}: part {number} ({part.source}) is not finished: {have} of {len(part.bounds())} shards.",
                fix="give the same build command again; it goes on with the first shard that is missing.",
            )
    try:
        columns = [_columns(folder, number, part) for number, part in enumerate(manifest.parts)]
    except FileNotFoundError as error:
        raise RunError(
            f"{error.filename}: the file is missing.",
            fix="give the build command again; it writes what is missing.",
        ) from error
    ids, weights, lengths = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Store(folder, manifest, ids, weights, lengths)


def _columns(folder: Path, number: int, part: StorePart) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = part_path(folder, number)
    paths = [shard_path(folder, number, k) for k in range(len(part.bounds()))]
    for path in paths:
        path.stat()
    lengths = [read_facts(path)["lengths"] for path in paths]
    return np.load(place / "ids.npy"), np.load(place / "weights.npy"), np.concatenate(lengths)


def read_store_manifest(folder: Path) -> StoreManifest:
    """What is written about the store in a folder.

    Raises:
        RunError: If it is no store, is damaged, or has the layout of another version of Steelyard.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{folder} is not a gradient store ({NAME} is missing).",
            fix="make one with `steelyard index build`, or check the path.",
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}.", fix="restore the file, or build anew.") from error
    if not isinstance(content, dict) or content.get("steelyard") != "store":
        raise RunError(f"{path} was not written by Steelyard.", fix="choose another path.")
    if content.get("format") != FORMAT:
        raise RunError(
            f"{folder} is a store of format {content.get('format')}; this version reads format {FORMAT}.",
            fix="build it again, or use the version that wrote it.",
        )
    return _manifest_of(content)


def _manifest_of(content: dict[str, Any]) -> StoreManifest:
    settings = content["settings"]
    return StoreManifest(
        model=content["model"],
        settings=StoreSettings(**{**settings, "modules": tuple(settings["modules"])}),
        names=tuple(content["names"]),
        widths=tuple(content["widths"]),
        l2=float(content["l2"]),
        parts=tuple(StorePart(**part) for part in content["parts"]),
        versions=content["versions"],
    )


def write_store_manifest(folder: Path, manifest: StoreManifest) -> None:
    """Write the manifest atomically."""
    write_json(folder, folder / NAME, {"steelyard": "store", "format": FORMAT, **asdict(manifest)})


def with_part(manifest: StoreManifest, number: int, part: StorePart) -> StoreManifest:
    """The manifest with one part added or replaced."""
    return replace(manifest, parts=(*manifest.parts[:number], part, *manifest.parts[number + 1 :]))


def part_path(folder: Path, number: int) -> Path:
    """Where a part is."""
    return folder / f"part-{number:04d}"


def shard_path(folder: Path, number: int, k: int) -> Path:
    """Where a shard of a part is."""
    return part_path(folder, number) / f"shard-{k:05d}.npy"


def write_shard(
    folder: Path, path: Path, rows: Float[np.ndarray, "row feature"], manifest: StoreManifest
) -> None:
    """Round and write the rows of a shard; its facts go first, so that the shard's file says that all is there."""
    data, scales = rounded(rows, manifest.columns, manifest.settings.dtype)
    facts = {
        "lengths": np.linalg.norm(rows, axis=1).astype(np.float32),
        "crc": np.array(zlib.crc32(data.data), dtype=np.int64),
    }
    if scales is not None:
        facts["scales"] = scales

    def write_facts(file: BinaryIO) -> None:
        np.savez(file, **facts)  # pyright: ignore[reportArgumentType] - its stubs mistake names for options

    write_atomically(folder, path.with_suffix(".npz"), write_facts)
    write_array(folder, path, data)


def write_array(folder: Path, path: Path, array: np.ndarray) -> None:
    """Write one array atomically, in NumPy's own format."""
    write_atomically(
        folder, path, lambda file: np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    )


def read_facts(path: Path) -> dict[str, np.ndarray]:
    """Scales, lengths and checksum of a shard.

    Raises:
        RunError: If the file is damaged.
    """
    try:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise RunError(
            f"{path.with_suffix('.npz')} is damaged: {error}.",
            fix="delete it and its shard and give the build command again.",
        ) from error


def rounded(
    rows: Float[np.ndarray, "row feature"], columns: Sequence[slice], dtype: Number
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows in a number type, and what each row's numbers of each layer are to be multiplied by.

    Layers differ in size by orders of magnitude, and gradients are often too small for float16 as they are: so each
    row and layer is divided by its largest number first (127 times that for int8).
    """
    rows = np.asarray(rows, dtype=np.float32)
    if dtype == "float32":
        return np.ascontiguousarray(rows), None
    scales = np.stack([np.abs(rows[:, part]).max(axis=1, initial=0.0) for part in columns], axis=1)
    scales = (scales / (127.0 if dtype == "int8" else 1.0)).astype(np.float32)
    data = np.empty(rows.shape, dtype=dtype)
    for number, part in enumerate(columns):
        divided = np.divide(
            rows[:, part],
            scales[:, number, None],
            out=np.zeros_like(rows[:, part]),
            where=scales[:, number, None] > 0,
        )
        data[:, part] = np.rint(divided) if dtype == "int8" else divided
    return data, scales


def restored(
    data: np.ndarray, scales: np.ndarray | None, columns: Sequence[slice]
) -> Float[np.ndarray, "row feature"]:
    """The inverse of :func:`rounded`, up to rounding, in float32."""
    rows = data.astype(np.float32)
    if scales is not None:
        for number, part in enumerate(columns):
            rows[:, part] *= scales[:, number, None]
    return rows
