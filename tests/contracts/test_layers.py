"""The layers of the package hold: import-linter, with the contracts of pyproject.toml."""

import subprocess
import sys

import pytest

from tests.contracts.tree import ROOT

pytest.importorskip("importlinter", reason="import-linter is not installed: pip install 'steelyard[dev]'")


def test_layers_hold():
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "0 broken" in done.stdout
