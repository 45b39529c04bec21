"""The tasks of ``examples/compare.yaml``: real data that every machine has, noisy and mixed, and small networks."""

import importlib
import inspect
import locale
import unicodedata
from collections.abc import Callable

import numpy as np
from torch import nn

from steelyard.data import read
from steelyard.data.sources import digits as handwritten
from steelyard.flow.ground_truth import passages as reference_passages
from steelyard.learners import SGD, Adam, Torch
from steelyard.learners.small import PADDING, perceptron
from steelyard.problem import Problem

MODULES = ("argparse", "ast", "asyncio.base_events", "csv", "difflib", "email.message", "fractions", "heapq",
           "json.decoder", "logging", "pathlib", "random", "shutil", "statistics", "textwrap", "threading", "typing",
           "unittest.case", "urllib.parse", "zipfile")  # fmt: skip
LETTERS = " abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]'\"=_-\n"
BEFORE = 8  # characters that the next one is predicted from
TARGET = ("docstrings", "reference")


def digits() -> Problem:
    """Scans of digits; a fifth of the training labels is wrong, and the queries are threes, fives, eights and nines."""
    data = handwritten(train=1000, query=600, flip=0.2)
    asked = np.flatnonzero(np.isin(data.query.labels(), (3, 5, 8, 9)))
    wrong = np.where(np.isin(data.train.ids, data.flipped), "wrong", "right")
    train = data.train.with_column("source", wrong, f"{data.train.checksum}|source")
    recipe = SGD(lr=0.05, momentum=0.9, epochs=10, batch_size=32)
    return Problem(Torch(perceptron(64, 32, 10), recipe=recipe), train, data.query.take(asked))


def text(each: int = 400, asked: int = 300, seed: int = 0, targets: tuple[str, ...] = TARGET) -> Problem:
    """A character model of five sources of text in Python itself; the queries are docstrings and the reference.

    Args:
        each: Training characters per source.
        asked: Queries.
        seed: Of the draw.
        targets: Sources of the queries.
    """
    draw = np.random.default_rng(seed)
    train = [windows(name, read_source(), (0.0, 0.8), each, draw) for name, read_source in SOURCES.items()]
    query = [windows(name, SOURCES[name](), (0.8, 1.0), asked // len(targets), draw) for name in targets]
    learner = Torch(character_model, recipe=Adam(lr=3e-3, epochs=8, batch_size=32))
    return Problem(learner, joined(train), joined(query))


def passages() -> Problem:
    """A small transformer and passages of Python's reference; words of every second training passage are shuffled."""
    whole = reference_passages()
    train = whole.train
    order = np.argsort(train.ids, kind="stable")[::2]
    tokens, draw = train.column("tokens")[:].copy(), np.random.default_rng(0)
    for row in order:
        words = int((tokens[row] != PADDING).sum())
        tokens[row, :words] = draw.permutation(tokens[row, :words])
    source = np.full(len(train), "as written", dtype="<U10")
    source[order] = "shuffled"
    train = train.with_column("tokens", tokens, f"{train.checksum}|shuffled")
    return Problem(
        whole.learner, train.with_column("source", source, f"{train.checksum}|source"), whole.query
    )


def character_model() -> nn.Module:
    """The next character from those before it: embeddings and one hidden layer."""
    return nn.Sequential(
        nn.Embedding(len(LETTERS), 12),
        nn.Flatten(),
        nn.Linear(12 * BEFORE, 48),
        nn.Tanh(),
        nn.Linear(48, len(LETTERS)),
    )


def windows(
    name: str, characters: str, part: tuple[float, float], count: int, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random places in a part of a text: the characters before, the next one as the label, the source."""
    place = {letter: number for number, letter in enumerate(LETTERS)}
    codes = np.array([place[letter] for letter in characters.lower() if letter in place])
    low, high = (int(len(codes) * share) for share in part)
    starts = np.sort(draw.choice(high - low - BEFORE, count, replace=False)) + low
    rows = np.stack([codes[start : start + BEFORE + 1] for start in starts])
    names = np.array([f"{name}/{start:07d}" for start in starts])
    return {"id": names, "input": rows[:, :-1], "label": rows[:, -1], "source": np.array([name] * count)}


def joined(parts: list[dict[str, np.ndarray]]):
    """Examples of several sources."""
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    source = columns.pop("source")
    examples = read(columns, label="label", id="id")
    return examples.with_column("source", source, f"{examples.checksum}|source")


def _reference() -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _docstrings() -> str:
    found: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        for item in [module, *vars(module).values()]:
            if inspect.isfunction(item) or inspect.isclass(item) or inspect.ismodule(item):
                found.append(inspect.getdoc(item) or "")
    return "\n".join(dict.fromkeys(found))


def _code() -> str:
    return "\n".join(inspect.getsource(importlib.import_module(name)) for name in MODULES)


def _names() -> str:
    return "\n".join(unicodedata.name(chr(code), "") for code in range(0x20, 0x3000))


def _locales() -> str:
    return "\n".join(f"{alias} {name}" for alias, name in sorted(locale.locale_alias.items()))


SOURCES: dict[str, Callable[[], str]] = {
    "reference": _reference,
    "docstrings": _docstrings,
    "code": _code,
    "character names": _names,
    "locales": _locales,
}
