"""LoRA adapters: new ones, trained ones from a folder, and drawing them again for another fit."""

import warnings
from pathlib import Path
from typing import Any, cast

import peft
import safetensors
import safetensors.torch
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from steelyard.errors import ModelError, SettingError
from steelyard.learners.transformers_settings import LoRA, Task

_TASKS = {"causal": "CAUSAL_LM", "classifier": "SEQ_CLS"}
_ADAPTER = "default"


def with_adapters(net: nn.Module, lora: LoRA, task: Task) -> nn.Module:
    """The model with new adapters, drawn from torch's generator; all else is frozen.

    Raises:
        SettingError: If the model has no layers of those names.
    """
    names = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),
        target_modules=names,
        lora_dropout=float(lora.dropout),
        task_type=_TASKS[task],
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in net.modules()),
    )
    try:
        return _put(net, config)
    except ValueError as error:
        layers = sorted(
            {name.rpartition(".")[2] for name, m in net.named_modules() if isinstance(m, nn.Linear)}
        )
        raise SettingError(
            f"LoRA(target_modules={lora.target_modules!r}): {error}",
            fix=f"name layers of this model, such as {', '.join(layers[:8])}, or give 'all-linear'.",
        ) from error


def put_on(net: nn.Module, folder: Path, *, base: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The model with a trained adapter, still trainable, and notes.

    Args:
        net: The base.
        folder: What ``save_pretrained`` of a PEFT model wrote.
        base: Where the base came from.

    Raises:
        ModelError: If the adapter is no LoRA adapter, was trained on another base, or lies there only as pickle.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds no adapter_config.json.", fix="give the folder that a PEFT model was saved to."
        )
    config: Any = peft.PeftConfig.from_pretrained(str(folder))
    if config.peft_type != peft.PeftType.LORA:
        raise ModelError(
            f"{folder} is an adapter of type {config.peft_type}, only LoRA adapters are known.",
            fix="merge it into the model (merge_and_unload) and give that.",
        )
    # PEFT warns about another name than that of the base; here it is compared, and noted, with the shapes.
    named, config.base_model_name_or_path, config.inference_mode = config.base_model_name_or_path, None, False
    values = _values(folder)
    try:
        adapted: Any = _put(net, config)
    except ValueError as error:
        raise _other_base(folder, named, base, str(error)) from error
    expected = peft.get_peft_model_state_dict(adapted)
    for name in sorted({*expected, *values}):
        given = tuple(values[name].shape) if name in values else None
        wanted = tuple(expected[name].shape) if name in expected else None
        if given != wanted:
            found = f"{name} is {given or 'missing'} in the adapter, the base asks for {wanted or 'nothing there'}"
            raise _other_base(folder, named, base, found)
    peft.set_peft_model_state_dict(adapted, values)
    same = not named or Path(named).name == Path(base).name
    return cast(nn.Module, adapted), () if same else (
        f"the adapter names {named!r} as its base; it was put on {base}.",
    )


def draw_again(net: nn.Module) -> None:
    """New values for all adapters, drawn from torch's generator; their product is zero again.

    Raises:
        ModelError: If there are no LoRA layers.
    """
    layers = [module for module in net.modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise ModelError("the model has no LoRA layers to draw again.", fix="give start='given'.")
    with torch.no_grad():
        for layer in layers:
            layer.reset_lora_parameters(_ADAPTER, True)


def _put(net: nn.Module, config: Any) -> nn.Module:
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that newer versions of it warn about.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return cast(nn.Module, peft.get_peft_model(cast(Any, net), config))


def _values(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelError(
            f"{folder} holds no adapter_model.safetensors.",
            fix="save the adapter with save_pretrained(..., safe_serialization=True).",
        )
    try:
        return safetensors.torch.load_file(str(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}", fix="copy the adapter again.") from error


def _other_base(folder: Path, named: Any, base: str, why: str) -> ModelError:
    return ModelError(
        f"the adapter in {folder} was trained on another base ({named!r}) than {base}: {why}",
        fix=f"give the base that it was trained on: {named!r}.",
    )
