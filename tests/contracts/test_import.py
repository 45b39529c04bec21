"""``import steelyard`` loads no framework and is quick; neither do the parts that need none."""

import json
import subprocess
import sys

import pytest

FRAMEWORKS = (
    "torch", "sklearn", "polars", "pyarrow", "altair", "transformers", "datasets", "pandas", "typer", "rich", "jinja2",
)  # fmt: skip
LIMIT_SECONDS = 0.3
_TRIES = 5

_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {frameworks!r} if name in sys.modules]]))
"""


def _import(module: str) -> tuple[float, list[str]]:
    program = _PROGRAM.format(module=module, frameworks=FRAMEWORKS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded


def test_importing_the_package_loads_no_framework_and_is_quick():
    found = [_import("steelyard") for _ in range(_TRIES)]
    assert all(loaded == [] for _, loaded in found), found[0][1]
    assert min(seconds for seconds, _ in found) < LIMIT_SECONDS


@pytest.mark.parametrize(
    "module", ["steelyard.records", "steelyard.problem", "steelyard.score", "steelyard.maths"]
)
def test_parts_without_a_framework_import_without_one(module):
    _, loaded = _import(module)
    assert "torch" not in loaded and "sklearn" not in loaded, loaded


def test_the_list_of_methods_is_read_without_torch():
    program = (
        "import sys, steelyard as sy\n"
        "assert [sy.score.card(name) for name in sy.score.METHODS]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
