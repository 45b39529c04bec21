"""Learners: one adapter per framework, which trains models of that kind and answers for them.

A learner satisfies the protocols of :mod:`steelyard.problem`. Everything that is particular to a framework
lives here (or, for backward passes, in ``gradients/`` and ``collect/``); no method, plan or report may. The
names below are loaded when they are first used, so that a framework is imported only by those who use it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from steelyard.errors import CapabilityError
from steelyard.learners.recipes import SGD as SGD
from steelyard.learners.recipes import Adam as Adam
from steelyard.learners.recipes import AdamW as AdamW
from steelyard.learners.recipes import Stage as Stage
from steelyard.learners.recipes import Stages as Stages
from steelyard.learners.transformers_settings import Files as Files
from steelyard.learners.transformers_settings import LoRA as LoRA
from steelyard.learners.transformers_settings import Text as Text

if TYPE_CHECKING:
    from steelyard.learners.boosted import Boosted as Boosted
    from steelyard.learners.factorisation import Factorisation as Factorisation
    from steelyard.learners.factorisation import ratings_of as ratings_of
    from steelyard.learners.sklearn import Sklearn as Sklearn
    from steelyard.learners.torch import Torch as Torch
    from steelyard.learners.torch_losses import Loss as Loss
    from steelyard.learners.transformers import Transformers as Transformers

_HOMES = {
    "Boosted": "steelyard.learners.boosted",
    "Factorisation": "steelyard.learners.factorisation",
    "ratings_of": "steelyard.learners.factorisation",
    "Loss": "steelyard.learners.torch_losses",
    "Sklearn": "steelyard.learners.sklearn",
    "Torch": "steelyard.learners.torch",
    "Transformers": "steelyard.learners.transformers",
}
_NEEDS = {"torch": ("PyTorch", "torch"), "transformers": ("transformers", "hf"), "peft": ("PEFT", "hf")}

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Boosted",
    "Factorisation",
    "Files",
    "LoRA",
    "Loss",
    "Sklearn",
    "Stage",
    "Stages",
    "Text",
    "Torch",
    "Transformers",
    "ratings_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _NEEDS:
            raise
        package, extra = _NEEDS[error.name]
        raise CapabilityError(
            f"{name} needs {package}, which is not installed.", fix=f"pip install 'steelyard[{extra}]'."
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
