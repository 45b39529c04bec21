"""The files of the source tree, as the contract tests look at them."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("src", "tests", "benchmarks", "docs", "examples", ".ci")
_SKIPPED = {"__pycache__", ".cache", ".pytest_cache"}
_TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".html", ".css", ".js", ".json", ""}


def files(*suffixes: str, under: tuple[str, ...] = _FOLDERS) -> Iterator[Path]:
    """Files below the folders with one of the suffixes, or of any text kind, in order."""
    wanted = set(suffixes) or _TEXT
    for folder in under:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in wanted and not _SKIPPED & set(path.parts):
                yield path


def top_files() -> Iterator[Path]:
    """Text files at the top of the tree."""
    for path in sorted(ROOT.iterdir()):
        if path.is_file() and (path.suffix in _TEXT or path.name in {"Makefile", "LICENSE"}):
            yield path


def name(path: Path) -> str:
    """The path as it is written in a message."""
    return path.relative_to(ROOT).as_posix()
