"""What training data does to models: attribute, value, clean, verify by retraining.

    import steelyard as sy

    scores = sy.attribute(model, train, query, method="ekfac")
    plan = sy.act.drop(scores, fraction=0.02)
    proof = sy.verify.by_retraining(problem, plan)
    sy.report.html(scores, plan, proof, path="report.html")

Everything is loaded when it is first used; importing this package loads no framework.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steelyard import act as act
    from steelyard import data as data
    from steelyard import errors as errors
    from steelyard import learners as learners
    from steelyard import report as report
    from steelyard import run as run
    from steelyard import score as score
    from steelyard import verify as verify
    from steelyard.data import read as read
    from steelyard.errors import SteelyardError as SteelyardError
    from steelyard.flow import attribute as attribute
    from steelyard.flow import clean as clean
    from steelyard.flow import value as value
    from steelyard.problem import Problem as Problem
    from steelyard.records import Cost as Cost
    from steelyard.records import Evidence as Evidence
    from steelyard.records import Examples as Examples
    from steelyard.records import Finding as Finding
    from steelyard.records import Measurement as Measurement
    from steelyard.records import Plan as Plan
    from steelyard.records import Provenance as Provenance
    from steelyard.records import Report as Report
    from steelyard.records import Scores as Scores
    from steelyard.run import open_run as open_run

_MODULES = ("act", "data", "errors", "learners", "report", "run", "score", "verify")
_NAMES = {
    "attribute": "flow",
    "clean": "flow",
    "value": "flow",
    "read": "data",
    "open_run": "run",
    "Problem": "problem",
    "Cost": "records",
    "Evidence": "records",
    "Examples": "records",
    "Finding": "records",
    "Measurement": "records",
    "Plan": "records",
    "Provenance": "records",
    "Report": "records",
    "Scores": "records",
    "SteelyardError": "errors",
}

__all__ = [*_MODULES, *_NAMES]  # pyright: ignore[reportUnsupportedDunderAll] - every name is above, lazily


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"steelyard.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"steelyard.{_NAMES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("steelyard")
        except PackageNotFoundError:
            return "unknown (not installed)"
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
