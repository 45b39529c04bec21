"""The pages are true: their Python runs, their links lead somewhere, and what is made from code is current."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import steelyard as sy
from tests.contracts.tree import ROOT, files, name, top_files

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PAGES_THAT_RUN = (
    "docs/api.md",
    "README.md",
    "docs/families/dynamics.md",
    "docs/families/values.md",
    "docs/families/verification.md",
    "docs/families/bayesian.md",
    "docs/families/surrogates.md",
    "docs/families/trees.md",
)
_COMMANDS = (
    "attribute",
    "value",
    "clean",
    "select",
    "harden",
    "choose",
    "verify",
    "leaderboard",
    "report",
    "methods",
    "demo",
    "act-compare",
)


def _pages() -> list[Path]:
    return [path for path in [*files(".md"), *top_files()] if path.suffix == ".md"]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", _PAGES_THAT_RUN)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="the page trains a torch model")
    monkeypatch.chdir(tmp_path)
    blocks = _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    session: dict[str, object] = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), session)


@pytest.mark.parametrize("page", _pages(), ids=name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), f"{name(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in _anchors(there), f"{name(page)} links to {target}"


def test_pages_made_from_code_are_current(generate):
    assert generate.stale() == [], "run `make docs`"


def test_pages_of_figures_show_the_recorded_results():
    from benchmarks.figures import pages

    for path, wanted in pages().items():
        assert path.read_text(encoding="utf-8") == wanted, f"{path.name}: run `python -m benchmarks.figures`"


def test_every_method_command_and_check_has_its_section(generate):
    sections = {page: _anchors(ROOT / "docs" / page) for page in ("methods.md", "commands.md", "checks.md")}
    assert sections["methods.md"] >= set(sy.score.METHODS)
    assert sections["commands.md"] >= set(_COMMANDS)
    codes = {re.match(r"SY\d{3}", check.__doc__).group().lower() for check in sy.report.checks.ALL}
    assert sections["checks.md"] >= codes


def test_decisions_are_numbered_and_complete():
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        missing = [
            part
            for part in ("Context", "Options", "Decision", "Consequence", "Confirmed by")
            if part not in text
        ]
        assert not missing, f"{name(page)} lacks {missing}"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}
