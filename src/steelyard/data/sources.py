"""Demo data that needs no download: scikit-learn's digits and the text of Python's own reference.

Splits come from hashes of seed and position, not from a random number generator, so that they are the same in
every version of every library.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from steelyard.data.assemble import from_columns
from steelyard.data.kinds import INTEGER, TEXT, Kind, Source, objects, row_number
from steelyard.data.roles import Roles
from steelyard.errors import SettingError
from steelyard.records import Examples

_CLASSES = 10
_SHORT = 3


class Digits(NamedTuple):
    """Handwritten digits as training examples and queries.

    Attributes:
        train: Columns ``input`` (``float32[64]``, an 8 by 8 image in [0, 1]) and ``label``; ids such as
            ``digit-0007``.
        query: The same for queries, with no label changed.
        flipped: ``str[" flipped"]`` Ids of the training examples whose label was changed, in training order.
    """

    train: Examples
    query: Examples
    flipped: np.ndarray

    def original_labels(self) -> Int64[np.ndarray, " train"]:
        """Labels of the training examples before any was changed."""
        return _load_digits()[1][_digit_positions(self.train.ids)]


class Passages(NamedTuple):
    """Passages of Python's reference as training examples and queries.

    Attributes:
        train: Columns ``text`` and ``topic``; ids such as ``assignment/0003``.
        query: The same for queries; every topic in here is also in ``train``.
    """

    train: Examples
    query: Examples


def digits(train: int = 1000, query: int = 150, *, flip: float = 0.0, seed: int = 0) -> Digits:
    """Scans of handwritten digits from scikit-learn (1,797 of 8 by 8 pixels), some training labels changed.

    Args:
        train: Training examples.
        query: Queries; none of them is a training example.
        flip: Fraction of the training labels that are changed to another class.
        seed: Chooses the split and the changed labels.

    Raises:
        SettingError: If there are not that many digits, or ``flip`` is not a fraction.

    Example:
        >>> data = digits(100, 10, flip=0.05)
        >>> len(data.train), len(data.query), len(data.flipped)
        (100, 10, 5)
    """
    images, labels = _load_digits()
    if train < 1 or query < 1 or train + query > len(images):
        raise SettingError(
            f"digits(train={train}, query={query}): there are {len(images)} digits.",
            fix=f"ask for at least one of each and at most {len(images)} together.",
        )
    if not 0 <= flip <= 1:
        raise SettingError(f"digits(flip={flip}): expected a fraction.", fix="give a number from 0 to 1.")
    order = np.argsort(_hashes("digits split", seed, len(images)), kind="stable")
    chosen, asked = np.sort(order[:train]), np.sort(order[train : train + query])
    hashes = _hashes("digits flip", seed, len(images))[chosen]
    changed = np.sort(np.argsort(hashes, kind="stable")[: round(flip * train)])
    given = labels[chosen].copy()
    step = 1 + (hashes[changed] >> np.uint64(8)) % np.uint64(_CLASSES - 1)
    given[changed] = (given[changed] + step.astype(np.int64)) % _CLASSES
    training = _digit_examples(images, chosen, given)
    return Digits(training, _digit_examples(images, asked, labels[asked]), training.ids[changed])


def python_docs(
    characters: int = 500, *, train: int | None = None, query: int = 60, seed: int = 0
) -> Passages:
    """Passages of the reference that ``help()`` shows: about 0.45 MB of English technical prose on 79 topics.

    Topics are cut at paragraph ends. Queries come from topics that keep at least one training passage, so
    that a topic is a natural ground truth. The text is that of the running Python, so checksums differ
    between Python versions.

    Args:
        characters: Length at which a passage ends; paragraphs longer than that are cut at line ends.
        train: Training passages; all that are not queries by default.
        query: Query passages.
        seed: Chooses the split.

    Raises:
        SettingError: If there are not that many passages.

    Example:
        >>> data = python_docs(500, query=20)
        >>> set(data.query.columns["topic"]) <= set(data.train.columns["topic"])
        True
    """
    if characters < 1 or query < 1:
        raise SettingError(
            f"python_docs({characters}, query={query}): expected positive numbers.",
            fix="give at least 1 of each.",
        )
    names, topics, texts = _passages(characters)
    order = np.argsort(_hashes("python docs split", seed, len(texts)), kind="stable").tolist()
    asked = _spare(order, topics, query)
    rest = [position for position in order if position not in asked]
    if train is not None:
        rest = _cover(rest, topics, {topics[position] for position in asked})[:train]
    if len(asked) < query or (train is not None and len(rest) < max(train, len({topics[p] for p in asked}))):
        raise SettingError(
            f"python_docs({characters}, train={train}, query={query}): the reference has {len(texts)} such "
            "passages, "
            f"and every topic of a query needs a training passage.",
            fix="ask for fewer queries, more training passages, or shorter passages (characters).",
        )
    return Passages(
        _passage_examples(names, topics, texts, sorted(rest)),
        _passage_examples(names, topics, texts, sorted(asked)),
    )


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (np.asarray(images) / 16).astype(np.float32), np.asarray(labels, dtype=np.int64)


def _digit_positions(ids: np.ndarray) -> np.ndarray:
    return np.array([int(name.removeprefix("digit-")) for name in ids.tolist()], dtype=np.int64)


def _digit_examples(images: np.ndarray, positions: np.ndarray, labels: np.ndarray) -> Examples:
    return from_columns(
        {"input": images[positions], "label": labels},
        {"input": Kind("number", "float32", images.shape[1:]), "label": INTEGER},
        Roles(("input",), "label", "id", text=False),
        [f"digit-{position:04d}" for position in positions.tolist()],
        _nowhere("digits"),
    )


def _passage_examples(
    names: list[str], topics: list[str], texts: list[str], positions: list[int]
) -> Examples:
    return from_columns(
        {
            "text": objects([texts[position] for position in positions], len(positions)),
            "topic": objects([topics[position] for position in positions], len(positions)),
        },
        {"text": TEXT, "topic": TEXT},
        Roles(("text",), None, "id", text=True),
        [names[position] for position in positions],
        _nowhere("python docs"),
    )


def _nowhere(name: str) -> Source:
    return Source(name, lambda: iter(()), row_number)


def _passages(characters: int) -> tuple[list[str], list[str], list[str]]:
    """Names, topics and texts of all passages, in the order of the topics' names."""
    from pydoc_data.topics import topics as reference

    names: list[str] = []
    topics: list[str] = []
    texts: list[str] = []
    for topic in sorted(reference):
        for position, text in enumerate(_cut(reference[topic], characters)):
            names.append(f"{topic}/{position:04d}")
            topics.append(topic)
            texts.append(text)
    return names, topics, texts


def _cut(text: str, characters: int) -> list[str]:
    pieces = [paragraph.strip("\n") for paragraph in text.split("\n\n") if paragraph.strip()]
    pieces = [part for piece in pieces for part in _lines(piece, characters)]
    passages: list[str] = []
    for piece in pieces:
        if passages and len(passages[-1]) + len(piece) < characters:
            passages[-1] += "\n\n" + piece
        else:
            passages.append(piece)
    if len(passages) > 1 and len(passages[-1]) * _SHORT < characters:
        tail = passages.pop()
        passages[-1] += "\n\n" + tail
    return passages


def _lines(paragraph: str, characters: int) -> list[str]:
    """The paragraph, in parts of whole lines if it is too long."""
    if len(paragraph) <= characters:
        return [paragraph]
    parts: list[str] = []
    for line in paragraph.split("\n"):
        if parts and len(parts[-1]) + len(line) < characters:
            parts[-1] += "\n" + line
        else:
            parts.append(line)
    return parts


def _spare(order: list[int], topics: list[str], count: int) -> set[int]:
    """The first passages in that order that leave their topic another one."""
    left = {topic: topics.count(topic) for topic in set(topics)}
    chosen: set[int] = set()
    for position in order:
        if len(chosen) < count and left[topics[position]] > 1:
            left[topics[position]] -= 1
            chosen.add(position)
    return chosen


def _cover(order: list[int], topics: list[str], needed: set[str]) -> list[int]:
    """That order, with the first passage of every needed topic moved to the front."""
    first = {topics[position]: position for position in reversed(order) if topics[position] in needed}
    front = set(first.values())
    return sorted(front, key=order.index) + [position for position in order if position not in front]


def _hashes(purpose: str, seed: int, count: int) -> np.ndarray:
    digests = (
        hashlib.blake2b(f"{purpose}/{seed}/{position}".encode(), digest_size=8).digest()
        for position in range(count)
    )
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
