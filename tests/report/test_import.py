import subprocess
import sys

HEAVY = ("altair", "jinja2", "vl_convert", "rich", "polars", "pyarrow", "sklearn", "scipy.stats", "torch")


def test_importing_reports_loads_nothing_heavy():
    code = f"import sys, steelyard.report; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
