"""Opening language models: a local folder, a GGUF file or a module; adapters put on; nothing downloaded or run.

Weights are read from safetensors or by ``torch.load`` with ``weights_only``, never from the network. Python code in
a model's folder is run only where ``Files(remote_code=True)`` says so.
"""

import copy
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn

from steelyard.errors import ModelError, SettingError
from steelyard.learners.torch_training import seeded
from steelyard.learners.transformers_adapters import put_on, with_adapters
from steelyard.learners.transformers_settings import Files, LoRA, Task, Text
from steelyard.learners.transformers_text import Reading

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length")
_UNLIMITED = 10**9
_FEWEST = 0.8  # of the embedding's rows that a matching tokenizer knows; the rest pads to round sizes


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model that is ready, and what belongs to it.

    Attributes:
        net: The model, with adapters if there are any.
        tokenizer: Its tokenizer; None if there is none.
        task: What it does.
        source: Where it came from, for people.
        adapted: Whether only adapters are trained.
        notes: What was found on the way.
    """

    net: nn.Module
    tokenizer: Any
    task: Task
    source: str
    adapted: bool
    notes: tuple[str, ...] = ()


def open_model(
    model: Any, tokenizer: Any, *, adapter: Any, lora: LoRA | None, files: Files, dtype: str | None
) -> Loaded:
    """The model with its tokenizer and adapters.

    Args:
        model: A folder with ``config.json``, one with ``adapter_config.json``, a ``.gguf`` file, or a module.
        tokenizer: A tokenizer, a folder, or None: that of the model's folder, if it has one.
        adapter: Folder of a trained adapter, or None.
        lora: New adapters, or None.
        files: How to open it.
        dtype: Number type; None: float32 from a folder, its own for a module.

    Raises:
        ModelError: If there is no such model, it needs code from its folder, its weights are incomplete, an
            adapter was trained on another base, or the tokenizer is another model's.
        SettingError: If settings contradict one another.
    """
    if adapter is not None and lora is not None:
        raise SettingError(
            "Transformers: adapter= and lora= are both given.",
            fix="give the trained adapter, or new adapters, not both.",
        )
    if dtype is not None and dtype not in _DTYPES:
        raise SettingError(f"Transformers: dtype={dtype!r}.", fix=f"give one of {', '.join(_DTYPES)}.")
    if isinstance(model, nn.Module):
        loaded = _from_module(model, tokenizer, files, dtype)
    else:
        folder, adapter, files = _resolve(Path(model), adapter, files)
        loaded = _from_folder(folder, tokenizer, files, dtype)
    adapted = loaded.adapted
    if adapter is not None:
        net, notes = put_on(loaded.net, Path(adapter), base=loaded.source)
        loaded, adapted = replace(loaded, net=net, notes=loaded.notes + notes), True
    if lora is not None:
        with seeded(0, device_of(loaded.net)):
            net = with_adapters(loaded.net, lora, loaded.task)
        loaded, adapted = replace(loaded, net=net), True
    check_tokenizer(loaded.net, loaded.tokenizer)
    return replace(loaded, adapted=adapted)


def device_of(net: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(net.parameters()).device


def context_of(net: nn.Module, tokenizer: Any) -> int | None:
    """How many tokens the model reads at most: the smaller of its positions and its tokenizer's limit."""
    config = cast(Any, net).config
    config = config.get_text_config() if isinstance(config, transformers.PretrainedConfig) else config
    found = [
        value for name in _CONTEXTS if isinstance(value := getattr(config, name, None), int) and value > 0
    ]
    limit = getattr(tokenizer, "model_max_length", None)
    if isinstance(limit, int | float) and 0 < limit < _UNLIMITED:
        found.append(int(limit))
    return min(found, default=None)


def vocabulary_of(net: nn.Module) -> int:
    """Rows of the input embedding."""
    return int(cast(Any, net).get_input_embeddings().weight.shape[0])


def padding_of(net: nn.Module, tokenizer: Any) -> int:
    """The token that fills up shorter examples; the model's configuration learns it where it has none.

    Classifiers that read their last token find it by this number.
    """
    known = (getattr(tokenizer, "pad_token_id", None), cast(Any, net).config.pad_token_id,
             getattr(tokenizer, "eos_token_id", None), 0)  # fmt: skip
    padding = next(int(value) for value in known if isinstance(value, int) and value >= 0)
    if cast(Any, net).config.pad_token_id is None:
        cast(Any, net).config.pad_token_id = padding
    return padding


def reading_of(loaded: Loaded, text: Text, max_length: int | None) -> Reading:
    """How examples become tokens for this model.

    Raises:
        SettingError: If ``max_length`` is below 2 or beyond the model's context.
    """
    context = context_of(loaded.net, loaded.tokenizer)
    if max_length is not None and (max_length < 2 or (context is not None and max_length > context)):
        raise SettingError(
            f"Transformers: max_length={max_length}, but the model reads "
            + (f"at most {context} tokens." if context else "texts of any length from 2 tokens."),
            fix=f"give a number from 2 to {context}." if context else "give 2 or more.",
        )
    return Reading(loaded.tokenizer, loaded.task, text, max_length, context, vocabulary_of(loaded.net))


def facts_of(tokenizer: Any) -> str:
    """What a tokenizer does with texts, as text: its vocabulary, rules and chat template."""
    if tokenizer is None:
        return ""
    backend = (
        tokenizer.backend_tokenizer.to_str()
        if tokenizer.is_fast
        else repr(sorted(tokenizer.get_vocab().items()))
    )
    return f"{backend}|{tokenizer.chat_template}|{tokenizer.eos_token_id}"


def check_tokenizer(net: nn.Module, tokenizer: Any) -> None:
    """Refuse a tokenizer that belongs to another model, as far as its size tells.

    Raises:
        ModelError: If it knows more tokens than the embedding has rows, or far fewer.
    """
    if tokenizer is None:
        return
    known, rows = len(tokenizer), vocabulary_of(net)
    if known > rows or known < _FEWEST * rows:
        raise ModelError(
            f"the tokenizer knows {known:,} tokens, but the model's embedding has {rows:,} rows: they do not belong "
            "together.",
            fix="give the tokenizer that the model was trained with, or resize the model's embedding to it "
            "(model.resize_token_embeddings) and train that.",
        )


def _from_module(model: nn.Module, tokenizer: Any, files: Files, dtype: str | None) -> Loaded:
    if not isinstance(cast(Any, getattr(model, "config", None)), transformers.PretrainedConfig):
        raise ModelError(
            f"{type(model).__name__} is no model of transformers: it has no configuration.",
            fix="use learners.Torch with loss=..., or give a transformers or PEFT model.",
        )
    net = copy.deepcopy(model)
    if dtype is not None:
        net = net.to(_DTYPES[dtype])
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    adapted = (
        bool(names) and len(names) < len(list(net.parameters())) and any("lora_" in name for name in names)
    )
    task = files.task or _task_of(cast(Any, net).config, type(model).__name__)
    return Loaded(net, _tokenizer(tokenizer, None, files), task, type(model).__name__, adapted)


def _resolve(path: Path, adapter: Any, files: Files) -> tuple[Path, Any, Files]:
    """The folder of the base, the adapter's folder, and the settings, from what was named as the model."""
    if path.suffix == ".gguf" and path.is_file():
        return path.parent, adapter, replace(files, gguf_file=path.name)
    if not path.is_dir():
        raise ModelError(
            f"{path} is no folder, and models are only read from local folders.",
            fix="download the model first, and give the folder that holds its config.json (or a .gguf file).",
        )
    if (path / "config.json").is_file() or files.gguf_file is not None:
        return path, adapter, files
    if (path / "adapter_config.json").is_file() and adapter is None:
        return _base_of(path), path, files
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return path, adapter, replace(files, gguf_file=ggufs[0].name)
    raise ModelError(
        f"{path} holds neither config.json nor adapter_config.json"
        + (f", and {len(ggufs)} .gguf files." if ggufs else "."),
        fix="give the folder that save_pretrained wrote, or name one .gguf file.",
    )


def _base_of(adapter: Path) -> Path:
    named = _json(adapter / "adapter_config.json").get("base_model_name_or_path") or ""
    for base in (Path(named), adapter / named):
        if named and (base / "config.json").is_file():
            return base
    raise ModelError(
        f"{adapter} is an adapter for {named!r}, which is no local folder.",
        fix="give the folder of the base as the model and this one as the adapter (--adapter on the command line).",
    )


def _from_folder(folder: Path, tokenizer: Any, files: Files, dtype: str | None) -> Loaded:
    if files.gguf_file is None:
        _check_code(folder, files)
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": files.remote_code}
    if files.gguf_file is not None:
        source["gguf_file"] = files.gguf_file
    config = _opened(folder, lambda: transformers.AutoConfig.from_pretrained(folder, **source))
    task = files.task or ("causal" if files.gguf_file else _task_of(config, str(folder)))
    kind = (
        transformers.AutoModelForCausalLM
        if task == "causal"
        else transformers.AutoModelForSequenceClassification
    )
    source["dtype"] = _DTYPES[dtype or "float32"]
    if files.attention is not None:
        source["attn_implementation"] = files.attention
    if files.labels is not None:
        source["num_labels"] = files.labels
    with seeded(0, torch.device("cpu")):
        net, facts = _opened(
            folder,
            lambda: kind.from_pretrained(folder, output_loading_info=True, weights_only=True, **source),
        )
    notes = _check_complete(folder, facts.get("missing_keys", ()), task)
    unused = sorted(name for name in facts.get("unexpected_keys", ()) if not name.endswith("position_ids"))
    if unused:
        notes += (f"{len(unused)} weights in {folder} are not used by a {task} model, such as {unused[0]}.",)
    net = net.to(files.device)
    return Loaded(net, _tokenizer(tokenizer, folder, files), task, str(folder), adapted=False, notes=notes)


def _check_code(folder: Path, files: Files) -> None:
    config = _json(folder / "config.json")
    native = config.get("model_type") in transformers.CONFIG_MAPPING
    if "auto_map" in config and not native and not files.remote_code:
        raise ModelError(
            f"{folder} is a model of type {config.get('model_type')!r} that runs Python code from its own folder "
            f"({', '.join(sorted(map(str, config['auto_map'].values())))}).",
            fix="read that code, and if you trust it give files=Files(remote_code=True) (--trust on the command "
            "line).",
        )


def _task_of(config: Any, name: str) -> Task:
    architectures = list(getattr(config, "architectures", None) or [name])
    if any("SequenceClassification" in found for found in architectures):
        return "classifier"
    if any("CausalLM" in found or "LMHeadModel" in found for found in architectures):
        return "causal"
    raise ModelError(
        f"{name} is a {', '.join(architectures)}: neither a causal language model nor a sequence classifier.",
        fix="give files=Files(task='causal') or Files(task='classifier', labels=...), if it can be loaded as one.",
    )


def _check_complete(folder: Path, missing: Any, task: Task) -> tuple[str, ...]:
    names = sorted(missing)
    body = [name for name in names if not name.startswith(("score.", "classifier.", "pre_classifier.", "pooler."))
            and ".pooler." not in name]  # fmt: skip
    if body or (names and task == "causal"):
        raise ModelError(
            f"{folder} lacks the weights of {len(names)} parameters, such as {(body or names)[0]}.",
            fix="give the folder of a complete model; its config.json must be of the same model as its weights.",
        )
    listed = ", ".join(names)
    return (f"the last layer is new, drawn under seed 0: {listed} are not in {folder}.",) if names else ()


def _tokenizer(given: Any, folder: Path | None, files: Files) -> Any:
    if given is not None and not isinstance(given, str | Path):
        return given
    place = Path(given) if given is not None else folder
    if place is None:
        return None
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": files.remote_code}
    if files.gguf_file is not None and given is None:
        source["gguf_file"] = files.gguf_file
    elif not any(
        (place / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    ):
        if given is None:
            return None
        raise ModelError(
            f"{place} holds no tokenizer.", fix="give the folder that the tokenizer was saved to."
        )
    return _opened(place, lambda: transformers.AutoTokenizer.from_pretrained(place, **source))


def _opened(folder: Path, load: Callable[[], Any]) -> Any:
    with _quiet():
        try:
            return load()
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, pickle.UnpicklingError) as error:
            raise ModelError(
                f"{folder} cannot be loaded: {type(error).__name__}: {error}",
                fix="check that the folder is complete (config.json, weights in safetensors, tokenizer.json), and "
                "that this version of transformers knows the model.",
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    # Progress is the run's to show; a bar per checkpoint shard would break its lines.
    # What it logs about missing and unused weights is checked, and comes back as notes.
    logging = transformers.utils.logging
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", fix="copy the model's folder again.") from error
