"""``--recipe``: how the model in a folder was trained, so that it can be trained again without some examples.

What the folder itself says is read: ``trainer_state.json`` of transformers' Trainer for epochs and batch size,
``adapter_config.json`` for the adapter. Only what is missing is asked for.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard.errors import SettingError
from steelyard.score.settings import parse_values

if TYPE_CHECKING:
    from torch import nn

    from steelyard.learners import LoRA
    from steelyard.learners.recipes import Single

_STATE = "trainer_state.json"
_STEPS = {
    "epochs": int,
    "lr": float,
    "batch_size": int,
    "schedule": str,
    "warmup": float,
    "weight_decay": float,
    "checkpoints": int,
}
_LORA = {"lora_rank": int, "lora_alpha": float, "lora_targets": str, "lora_dropout": float}
_KNOWN = {
    **_STEPS,
    **_LORA,
    "momentum": float,
    "optimiser": str,
    "base": str,
    "reduction": str,
}
EXAMPLE = "--recipe epochs=3,lr=2e-4,batch_size=8"


@dataclass(frozen=True)
class Training:
    """How a model was trained, or is to be.

    Attributes:
        recipe: Optimiser, epochs, learning rates.
        lora: New adapters, which are then trained here; None where there are none, or where they come trained.
        base: Folder of the model before its training; None if MODEL is that model, or an adapter says where to start.
        reduction: ``"sum"`` or ``"mean"`` of an example's token losses; None: the learner's default.
    """

    recipe: "Single"
    lora: "LoRA | None"
    base: str | None
    reduction: str | None


def recipe_pairs(given: list[str] | None) -> dict[str, str]:
    """``["epochs=3,lr=2e-4"]`` as a mapping; a piece without an equals sign belongs to the value before it.

    Raises:
        SettingError: If there is no name, or a name comes twice.
    """
    found: dict[str, str] = {}
    for entry in given or []:
        name = ""
        for piece in entry.split(","):
            first, equals, value = piece.partition("=")
            if equals and first.strip() and first.strip() not in found:
                name = first.strip()
                found[name] = value.strip()
            elif not equals and name:
                found[name] += f",{piece.strip()}"
            else:
                raise SettingError(
                    f"--recipe {entry!r}: {piece!r} is not NAME=VALUE, or names what was given before.",
                    fix=f"write {EXAMPLE}",
                )
    return found


def completed(given: Mapping[str, str], folders: list[Path]) -> dict[str, str]:
    """What was given, and what a ``trainer_state.json`` in one of the folders says beyond it.

    Raises:
        SettingError: If epochs or learning rate are given nowhere, or a name is unknown.
    """
    read: dict[str, str] = {}
    for folder in folders:
        read = _trainer_state(folder) | read
    found = {**read, **given}
    missing = [name for name in ("epochs", "lr") if name not in found]
    if missing:
        said = f" {_STATE} says {', '.join(f'{k}={v}' for k, v in read.items())}." if read else ""
        raise SettingError(
            f"--recipe does not say {' and '.join(missing)}.{said}",
            fix=f"add what the training used: {EXAMPLE}",
        )
    parse_values(_KNOWN, found, owner="--recipe")
    return found


def training_of(found: Mapping[str, str], *, adapted: bool, model: Path) -> Training:
    """The recipe and where trainings start.

    Args:
        found: From :func:`completed`.
        adapted: Whether MODEL comes with a trained adapter.
        model: Folder of the model.

    Raises:
        SettingError: If a value has no meaning, or nothing says where trainings start.
    """
    values = parse_values(_KNOWN, found, owner="--recipe")
    adapters = {name.removeprefix("lora_"): value for name, value in values.items() if name in _LORA}
    if adapted and (adapters or "base" in values):
        raise SettingError(
            "--recipe describes new adapters or another base, but MODEL has a trained adapter, which says both.",
            fix="leave out lora_rank, lora_alpha, lora_targets, lora_dropout and base.",
        )
    if not adapted and not adapters and "base" not in values:
        raise SettingError(
            "--recipe does not say where trainings start.",
            fix=f"add base=DIR, the model before its training (base={model} if it is still untrained), or lora_rank=8 "
            "for new adapters; or name a trained adapter with --adapter.",
        )
    base = values.get("base")
    untrained = base is not None and Path(base).resolve() == model.resolve()
    return Training(_recipe(values), _lora(adapters), None if untrained else base, values.get("reduction"))


def base_model(folder: str, dtype: str | None, trust: bool) -> "nn.Module":  # noqa: FBT001 - called by functools.partial
    """The model before its training, opened anew for every fit."""
    from steelyard.learners import Files
    from steelyard.learners.transformers_load import open_model

    opened = open_model(folder, None, adapter=None, lora=None, files=Files(remote_code=trust), dtype=dtype)
    return opened.net


def start_of(training: Training, dtype: str | None, *, trust: bool) -> Any:
    """Where fits start: a function that opens the base, or what the learner does by itself."""
    if training.base is None:
        return None
    return functools.partial(base_model, training.base, dtype, trust)


def _lora(adapters: Mapping[str, Any]) -> "LoRA | None":
    if not adapters:
        return None
    from steelyard.learners import LoRA

    named = dict(adapters)
    targets = named.pop("targets", None)
    if targets is not None:
        named["target_modules"] = targets if targets == "all-linear" else tuple(targets.split(","))
    return LoRA(**named)


def _recipe(values: Mapping[str, Any]) -> "Single":
    from steelyard.learners.recipes import SGD, Adam, AdamW

    kinds = {"adamw": AdamW, "adam": Adam, "sgd": SGD}
    name = str(values.get("optimiser", "adamw")).lower()
    if name not in kinds:
        raise SettingError(f"--recipe optimiser={name!r}.", fix="give adamw, adam or sgd.")
    steps = {key: value for key, value in values.items() if key in _STEPS}
    if "momentum" in values:
        if name != "sgd":
            raise SettingError(
                f"--recipe momentum with optimiser={name}.", fix="give optimiser=sgd, or leave it out."
            )
        steps["momentum"] = values["momentum"]
    return kinds[name](**steps)


def _trainer_state(folder: Path) -> dict[str, str]:
    """Epochs and batch size as transformers' Trainer noted them; nothing where it did not."""
    path = folder / _STATE
    if not path.is_file():
        return {}
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{path} cannot be read: {error}", fix="remove it, and give --recipe in full."
        ) from error
    found: dict[str, str] = {}
    epochs, size = state.get("num_train_epochs"), state.get("train_batch_size")
    if isinstance(epochs, int | float) and epochs >= 1 and epochs == int(epochs):
        found["epochs"] = str(int(epochs))
    if isinstance(size, int) and size > 0:
        found["batch_size"] = str(size)
    return found
