"""Files and functions small enough to be read, and no file whose name says nothing."""

import ast

from tests.contracts.tree import files, name

LONGEST_FILE = 400
LONGEST_FUNCTION = 50  # lines of its body without docstring; the aim is 40, this is the wall
BANNED = {"utils", "util", "helpers", "helper", "common", "base", "manager", "handler", "misc"}

# File to reason. A file stands here because splitting it would part what has to be read together.
LONG_FILES: dict[str, str] = {
    "src/steelyard/problem.py": "every capability on one page, which is what a new learner's author reads",
    "src/steelyard/learners/torch.py": "one class that answers every protocol; its parts are in torch_*.py already",
    "src/steelyard/learners/sklearn.py": "the same, for the parts in sklearn_*.py",
    "src/steelyard/learners/transformers.py": "the same, for the parts in transformers_*.py",
}
LONG_FUNCTIONS: dict[str, str] = {
    "src/steelyard/verify/by_subsets.py:lds": "half of it is the one record that it fills",
    "src/steelyard/verify/calibration.py:calibration": "half of it is the one record that it fills",
}


def test_files_are_short():
    long = {
        name(p): n
        for p in files(".py", under=("src",))
        if (n := len(p.read_text().splitlines())) > LONGEST_FILE
    }
    assert set(long) == set(LONG_FILES), f"over {LONGEST_FILE} lines, or no longer so: {long}"


def test_functions_are_short():
    long: dict[str, int] = {}
    for path in files(".py", under=("src",)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lines = _lines_of_body(node)
                if lines > LONGEST_FUNCTION:
                    long[f"{name(path)}:{node.name}"] = lines
    assert set(long) == set(LONG_FUNCTIONS), f"over {LONGEST_FUNCTION} lines, or no longer so: {long}"


def test_names_of_files_say_something():
    vague = [name(path) for path in files(".py") if path.stem.strip("_") in BANNED]
    assert not vague


def test_every_folder_of_the_package_says_what_lives_there():
    for path in files(".py", under=("src",)):
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            assert len(text) > 60 and "placeholder" not in text.lower(), name(path)


def _lines_of_body(node: ast.FunctionDef) -> int:
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    start = (first.end_lineno or first.lineno) + 1 if documented else first.lineno
    return (node.end_lineno or start) - start + 1
