"""Models of any kind, recognised without importing their framework.

An object of a framework can only arrive if the framework is loaded: looking into ``sys.modules`` is enough.
"""

import sys
from pathlib import Path
from typing import Any

from steelyard.errors import ModelError, SettingError
from steelyard.learners.boosted_kinds import SUFFIXES, kind_of
from steelyard.problem import Learner, Problem


def problem_of(model: Any, train: Any = None, query: Any = None, *, seed: int = 0) -> Problem:
    """The problem that a model of any kind poses.

    Args:
        model: A ``Problem`` (then without data), a learner, a trained ``torch.nn.Module``, a transformers or PEFT
            model (its folder, or a ``.gguf`` file), boosted trees (or a file of them), or a fitted scikit-learn
            estimator.
        train: Training examples: anything that ``sy.read`` takes.
        query: Queries, likewise.
        seed: Seed of the model that is explained, where the learner trains it.

    Raises:
        ModelError: If the model is of another kind.
        SettingError: If data is missing, or given twice.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import Ridge
        >>> x, y = np.eye(3), np.array([1.0, 2.0, 3.0])
        >>> len(problem_of(Ridge().fit(x, y), (x, y), (x[:1], y[:1])).train)
        3
    """
    if isinstance(model, Problem):
        if train is not None or query is not None:
            raise SettingError(
                "A Problem has its data already, and train or query is given too.",
                fix="leave out train and query, or give problem.learner instead of the problem.",
            )
        return model
    if train is None or query is None:
        raise SettingError(
            f"{type(model).__name__} without {'training examples' if train is None else 'queries'}.",
            fix="give train= and query=: arrays, a Dataset, a table or a path.",
        )
    return Problem(learner_of(model), train, query, seed=seed)


def learner_of(model: Any) -> Learner:
    """The learner for a trained model of any kind; a learner comes back as it is.

    Raises:
        ModelError: If no learner knows this kind of model.
    """
    if isinstance(model, type):
        raise ModelError(
            f"{model.__name__} is a class, not a model.", fix=f"give an instance: {model.__name__}(...)."
        )
    if isinstance(model, str | Path):
        return _from_folder(Path(model))
    torch, sklearn = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    transformers, peft = sys.modules.get("transformers"), sys.modules.get("peft")
    for found, kind in ((transformers, "PreTrainedModel"), (peft, "PeftModel")):
        if found is not None and isinstance(model, getattr(found, kind)):
            return _language(model)
    if torch is not None and isinstance(model, torch.nn.Module):
        from steelyard.learners import Torch

        return Torch(model, trained=True)
    if kind_of(model) is not None:
        from steelyard.learners import Boosted

        return Boosted(model, trained=True)
    if sklearn is not None and isinstance(model, sklearn.BaseEstimator):
        from steelyard.learners import Sklearn

        return Sklearn(model, trained=True)
    if isinstance(model, Learner):
        return model
    raise ModelError(
        f"{type(model).__module__}.{type(model).__qualname__} is no model that Steelyard knows.",
        fix="give a torch.nn.Module, a transformers model, boosted trees, a scikit-learn estimator, or a learner: an "
        "object with the methods of steelyard.problem.Learner.",
    )


def is_language_model(path: Path) -> bool:
    """Whether this is what a transformers model is kept in: a folder, or a ``.gguf`` file."""
    return path.is_dir() or path.suffix == ".gguf"


def _from_folder(path: Path) -> Learner:
    if path.suffix in SUFFIXES:
        from steelyard.learners import Boosted

        return Boosted(path)
    if not is_language_model(path):
        raise ModelError(
            f"{path} is no folder of a model.",
            fix="give the folder that save_pretrained wrote, a .gguf file, boosted trees as .txt, .json, .ubj or .cbm, "
            "or the loaded model itself.",
        )
    from steelyard.learners import Transformers

    return Transformers(path, trained=True)


def _language(model: Any) -> Learner:
    from steelyard.learners import Transformers

    # A model loaded from a folder knows it, and its tokenizer lies beside it.
    folder = Path(str(model.config.name_or_path or ""))
    beside = folder if (folder / "tokenizer_config.json").is_file() else None
    return Transformers(model, tokenizer=beside, trained=True)
