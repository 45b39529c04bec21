"""The script that installs peers says what is wrong before it installs anything."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers.sh"


@pytest.mark.parametrize(
    ("name", "source", "code", "words"),
    [
        ("tree", "", 2, "no environment is named tree: give torch, pydvl, logix, bergson or trees."),
        ("trees", ".", 1, "TREE_INFLUENCE_SOURCE=. holds no setup.py of tree_influence 0.1.7."),
    ],
)
def test_wrong_names_and_sources_are_refused(tmp_path, name, source, code, words):
    folder = tmp_path / "peers"
    found = subprocess.run(
        ["bash", str(SCRIPT), str(folder), name],
        env={**os.environ, "TREE_INFLUENCE_SOURCE": source},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (found.returncode, found.stderr.strip()) == (code, words)
    assert not folder.exists()
