"""MODEL_DIR on the command line: a language model or text classifier from a local folder; nothing is downloaded."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard.cli.recipe import completed, start_of, training_of
from steelyard.errors import DataError
from steelyard.problem import Problem
from steelyard.records import Examples

if TYPE_CHECKING:
    from steelyard.learners import Transformers


@dataclass(frozen=True)
class LanguageOptions:
    """How a model in a folder is opened and asked, as given on the command line.

    Attributes:
        adapter: Folder of a LoRA adapter to put on it.
        max_length: Tokens to which longer examples are cut.
        dtype: Number type to compute in.
        measurement: What is asked about queries; None: the loss, or the log-probability of a generated answer.
        answer: Most tokens of an answer that the model is to give to every query itself; None: queries bring theirs.
        recipe: How the model was trained, or is to be, by name: see ``cli/recipe.py``; empty: it is not trained again.
    """

    adapter: str | None = None
    max_length: int | None = None
    dtype: str | None = None
    measurement: str | None = None
    answer: int | None = None
    recipe: dict[str, str] = field(default_factory=dict[str, str])

    def given(self) -> bool:
        """Whether any of them is."""
        return self != LanguageOptions()


def resolved(path: Path, options: LanguageOptions) -> LanguageOptions:
    """The options with what the folders say about the training beyond what was given; as they are without a recipe.

    Raises:
        SettingError: If the recipe lacks what nobody can guess, or names what there is not.
    """
    if not options.recipe:
        return options
    folders = [path, *([Path(options.adapter)] if options.adapter else [])]
    return replace(options, recipe=completed(options.recipe, folders))


def open_folder(path: Path, options: LanguageOptions, *, trust: bool) -> "Transformers":
    """The learner for the model in a folder: as it is, and trained again where a recipe says how.

    Args:
        path: A folder with ``config.json`` or ``adapter_config.json``, or a ``.gguf`` file.
        options: How to open it.
        trust: Whether code that lies in the folder may be run.

    Raises:
        SettingError: If the recipe lacks what nobody can guess, or does not fit the model.
    """
    # Read when transformers is imported: whatever a folder names, nothing is fetched.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from steelyard.learners import Files, Transformers

    opened: dict[str, Any] = {
        "adapter": options.adapter,
        "max_length": options.max_length,
        "dtype": options.dtype,
        "measurement": options.measurement or ("log_probability" if options.answer else "loss"),
        "files": Files(remote_code=trust),
    }
    if not options.recipe:
        return Transformers(path, **opened, trained=True)
    adapted = options.adapter is not None or not (
        path.suffix == ".gguf" or (path / "config.json").is_file() or any(path.glob("*.gguf"))
    )
    training = training_of(resolved(path, options).recipe, adapted=adapted, model=path)
    if training.reduction is not None:
        opened["reduction"] = training.reduction
    return Transformers(
        path,
        **opened,
        recipe=training.recipe,
        lora=training.lora,
        start=start_of(training, options.dtype, trust=trust),
        trained=adapted or training.base is not None,
    )


def language_problem(
    learner: "Transformers", train: Examples, query: Examples, *, answer: int | None, seed: int
) -> Problem:
    """The problem, where queries are answered by the model first if that was asked for.

    Raises:
        DataError: If queries are to be answered, but have neither a prompt nor messages.
    """
    if answer is None:
        return Problem(learner, train, query, seed=seed)
    return Problem(
        learner,
        train,
        learner.answer(learner.explained(train), _open(query, train), tokens=answer),
        seed=seed,
    )


def _open(query: Examples, train: Examples) -> Examples:
    """Queries with room for an answer: a prompt alone gets an empty completion."""
    if query.inputs == train.inputs:
        return query
    if len(train.inputs) != 2 or query.inputs != train.inputs[:1]:
        raise DataError(
            f"{query.source}: queries to be answered have the columns {list(query.inputs)}.",
            fix="give them a prompt, or messages, as the training examples have.",
        )
    empty = np.full(len(query), "", dtype=object)
    return replace(query, columns={**query.columns, train.inputs[1]: empty}, inputs=train.inputs)
