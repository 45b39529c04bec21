"""Options that several commands share, spelled the same everywhere."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.errors import SettingError
from steelyard.flow.scoring import AUTO
from steelyard.score import by_name

if TYPE_CHECKING:
    from steelyard.score.driver import Method as AnyMethod


class Parts(StrEnum):
    """What scores can be taken apart by."""

    TOKEN = "token"
    MODULE = "module"
    LAYER = "layer"
    HEAD = "head"


class Proposers(StrEnum):
    """What can propose candidates."""

    BM25 = "bm25"
    TFIDF = "tfidf"
    EMBEDDING_COSINE = "embedding_cosine"


Model = Annotated[
    str,
    typer.Argument(
        help="file.py:function or package.module:function that returns a Problem, a learner, or "
        "(learner, train, query); or the folder of a language model (or a .gguf file); or boosted trees as .txt "
        "(LightGBM), .json, .ubj (XGBoost) or .cbm (CatBoost); or a scikit-learn model as .skops or .joblib with "
        "--trust; or a task that comes with Steelyard (`steelyard bank recipes`).",
        metavar="MODEL",
        show_default=False,
    ),
]
Train = Annotated[
    str | None,
    typer.Option(help="Training examples: JSONL (.gz, .zst), CSV, Parquet, Arrow, .npz.", metavar="FILE"),
]
Query = Annotated[str | None, typer.Option(help="Queries: what to explain. Same formats.", metavar="FILE")]
TextColumn = Annotated[str | None, typer.Option(help="Name of the text column.", metavar="NAME")]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", "--label", help="Name of the label column.", metavar="NAME")
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Names of the feature columns, between commas. Default: all but label, id and weight.",
        metavar="NAMES",
    ),
]
Parameter = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        help="Boosted trees: a training parameter, such as eta=0.1, for refits of a model whose file does not hold "
        "them (XGBoost). Repeatable.",
        metavar="NAME=VALUE",
    ),
]
IdColumn = Annotated[
    str | None, typer.Option(help="Name of the id column; else ids come from content.", metavar="NAME")
]
Method = Annotated[
    str, typer.Option(help="A method; `steelyard methods` lists them. auto: one that suits.", metavar="NAME")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="A setting of the method, such as damping=0.1. Repeatable.", metavar="NAME=VALUE"
    ),
]
Out = Annotated[
    str, typer.Option(help="Run folder. The same command continues what is in it.", metavar="RUN")
]
OutOfConfig = Annotated[
    str | None,
    typer.Option(
        "--out",
        help="Run folder. The same command continues what is in it.",
        metavar="RUN",
        show_default="runs/ and the name of CONFIG",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the model that is explained, where it is trained here.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open model files that can run code when they are opened.")
]
Adapter = Annotated[
    str | None, typer.Option(help="Language models: folder of a LoRA adapter to put on MODEL.", metavar="DIR")
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Language models: cut longer examples to so many tokens; the report says which.", min=2
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="Language models: float32 (default), bfloat16, float16 or float64.", metavar="NAME"),
]
MeasurementName = Annotated[
    str | None,
    typer.Option(
        "--measurement",
        help="Language models and boosted trees: loss (default), log_probability, margin; span (of the column span) or "
        "lead.",
        metavar="NAME",
    ),
]
Answer = Annotated[
    int | None,
    typer.Option(
        help="Language models: ask about the model's own answers, of at most so many tokens.", min=1
    ),
]
RecipeOf = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        help="Language models: how MODEL was trained, or is to be, so that refits are possible: epochs, lr, optimiser "
        "(adamw, adam, sgd), batch_size, schedule, warmup, weight_decay, momentum, checkpoints, reduction (sum, mean); "
        "for new adapters lora_rank, lora_alpha, lora_targets, lora_dropout; base=DIR, the model before its training. "
        "Repeatable.",
        metavar="NAME=VALUE,...",
    ),
]
Split = Annotated[
    Parts | None,
    typer.Option(help="Take the scores that the report shows apart by token, module, layer or head."),
]
CandidateCount = Annotated[
    int | None,
    typer.Option(
        "--candidates",
        help="Score only so many training examples per query, proposed by a cheap method; the report says what was "
        "not scored.",
        min=1,
        metavar="COUNT",
    ),
]
CandidatesBy = Annotated[Proposers, typer.Option(help="What proposes the candidates.")]
Bank = Annotated[
    str | None,
    typer.Option(help="Take fits from this bank where it has them: see `steelyard bank`.", metavar="DIR"),
]
TimeBudget = Annotated[
    float | None,
    typer.Option(
        help="Refuse what is predicted to take more seconds, and say what can be had. Fits that are there already "
        "are predicted as if they were not.",
        min=0.0,
        metavar="SECONDS",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Make fits as Ray tasks: local (one started here, for this command), auto (the one that runs on this "
        "machine), or HOST:PORT of a cluster that this machine belongs to. The results are the same.",
        metavar="ADDRESS",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Json = Annotated[
    bool, typer.Option("--json", help="Results as JSON on standard output, progress as JSON lines.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard what is in the run folder.")]


def method_of(name: str, settings: list[str] | None) -> "AnyMethod | str":
    """The method with its settings; ``"auto"``, which has none, as it is.

    Raises:
        SettingError: If there is no such method or setting, or ``"auto"`` is given settings.
    """
    if name != AUTO:
        return by_name(name, pairs(settings))
    if settings:
        raise SettingError(
            f"--set {settings[0]} without a method to set it for.", fix="name the method: --method ekfac"
        )
    return AUTO


def pairs(given: list[str] | None, option: str = "--set") -> dict[str, str]:
    """``["damping=0.1"]`` as a mapping.

    Raises:
        SettingError: If an entry has no equals sign, or a name comes twice.
    """
    found: dict[str, str] = {}
    for entry in given or []:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"{option} {entry!r} is not NAME=VALUE.", fix=f"write {option} NAME=VALUE.")
        if name.strip() in found:
            raise SettingError(f"{option} names {name.strip()!r} twice.", fix="give each setting once.")
        found[name.strip()] = value.strip()
    return found


def number_of(text: str) -> int | float | str:
    """A value as the number that it is, else as text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
