"""Settings of the transformers learner that belong together. Nothing here imports a framework."""

from dataclasses import dataclass
from typing import Literal

from steelyard.errors import SettingError

Task = Literal["causal", "classifier"]


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters: the only parameters that are trained and attributed to.

    A layer ``W x`` becomes ``W x + alpha / rank * B A x`` with A drawn at random and B zero at the start.

    Attributes:
        rank: Rows of A.
        alpha: Scale of the update, times rank.
        target_modules: Names of the layers that get an adapter, as PEFT takes them; ``"all-linear"``: every
            linear layer but the output layer.
        dropout: On the adapters' inputs, in fits only.

    Raises:
        SettingError: If a value has no meaning.

    Source: Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
    """

    rank: int = 8
    alpha: float | int = 16
    target_modules: str | tuple[str, ...] = "all-linear"
    dropout: float | int = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SettingError(f"LoRA: rank={self.rank}.", fix="give 1 or more, such as rank=8.")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"LoRA: dropout={self.dropout}.", fix="give a share in [0, 1).")
        if not self.target_modules:
            raise SettingError("LoRA: target_modules is empty.", fix="name layers, or give 'all-linear'.")


@dataclass(frozen=True, kw_only=True)
class Text:
    """How text becomes tokens.

    Attributes:
        cut: Which side of an example that is longer than ``max_length`` is lost: its ``"end"`` or its
            ``"start"``. What is cut is reported.
        end_token: Whether the end-of-text token, where the tokenizer has one, is appended to texts and
            completions, and counts in the loss. Messages are as their chat template writes them.
        chat_template: Template for messages in place of the tokenizer's own.

    Raises:
        SettingError: If ``cut`` is something else.
    """

    cut: Literal["end", "start"] = "end"
    end_token: bool = True
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.cut not in ("end", "start"):
            raise SettingError(f"Text: cut={self.cut!r}.", fix="give 'end' or 'start'.")


@dataclass(frozen=True, kw_only=True)
class Files:
    """How a model is opened from its folder.

    Attributes:
        task: ``"causal"`` or ``"classifier"``; ``None``: what the model's configuration says it is.
        gguf_file: Name of the GGUF file in the folder, where that is the model.
        remote_code: Run Python code that lies in the model's folder. It can do anything that you can.
        attention: Implementation of attention, as transformers calls it; ``None``: its default.
        device: Where the model goes: ``"cpu"``, ``"cuda"``.
        labels: Number of classes, where a classifier gets a new last layer.
    """

    task: Task | None = None
    gguf_file: str | None = None
    remote_code: bool = False
    attention: Literal["sdpa", "eager"] | None = None
    device: str = "cpu"
    labels: int | None = None
