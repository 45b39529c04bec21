"""No file names a path of one machine or a host of a package registry, and none leaves work undone."""

import re

from tests.contracts.tree import files, name, top_files

# Written in pieces, so that this file passes its own test.
_PLACES = "|".join(("tmp", "work", "opt", "root", "home"))
_MACHINE = re.compile(rf"(?<![\w.:/-])/(?:{_PLACES})/[A-Za-z]")
_HOSTS = re.compile(
    "|".join(("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npm", "deb" + r"\.debian"))
)
_UNDONE = re.compile(
    r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "Not" + "ImplementedError")) + r")\b"
)


def _found(pattern: re.Pattern[str], *suffixes: str) -> list[str]:
    hits = []
    for path in [*files(*suffixes), *top_files()]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                hits.append(f"{name(path)}:{number}: {line.strip()[:100]}")
    return hits


def test_no_path_of_one_machine():
    assert not _found(_MACHINE)


def test_no_host_of_a_registry():
    assert not _found(_HOSTS)


def test_nothing_is_left_undone():
    assert not _found(_UNDONE, ".py")
