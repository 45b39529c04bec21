"""From texts, prompts with completions, messages and token sequences to tokens, and which of them are predicted.

One internal format: all tokens of all examples one after another, with the place where each example starts, and
beside every token whether the loss counts it and which characters it stands for. Padding happens in the batch
(``transformers_table.py``), truncation happens here and is counted, and nothing else is ever dropped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from steelyard.errors import DataError, ModelError
from steelyard.learners.transformers_chat import rendered, transcript
from steelyard.learners.transformers_settings import Task, Text
from steelyard.learners.transformers_spans import Marked, Span, measured_tokens, within
from steelyard.records import Examples

Form = Literal["text", "pair", "messages", "tokens"]

COUNTED = "counted"
"""Column beside token sequences: 1 where the loss counts the token."""
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Reading:
    """How examples become tokens.

    Attributes:
        tokenizer: As transformers loads it; None where examples are token sequences.
        task: What the model does.
        text: How text is treated.
        max_length: Tokens beyond which an example is cut; None: none may be longer than the context.
        context: Tokens that the model can read; None where it has no limit.
        vocabulary: Rows of the model's embedding.
    """

    tokenizer: Any
    task: Task
    text: Text
    max_length: int | None
    context: int | None
    vocabulary: int


@dataclass(frozen=True, eq=False)
class Encoded:
    """Tokens of many examples, one after another.

    Attributes:
        tokens: Token numbers.
        starts: Where each example starts, and the end of the last.
        counted: Whether the loss counts the prediction of this token.
        types: Segment of each token for models that read sentence pairs; None for others.
        places: First character of each token in the example's text, and the one after its last.
        texts: What the tokens are made of; empty where examples were token sequences.
        measured: Tokens of the span that a query names; None where none does.
        cut: Tokens that each example lost to ``max_length``.
    """

    tokens: Int[np.ndarray, " token"]
    starts: Int[np.ndarray, " bound"]
    counted: Bool[np.ndarray, " token"]
    types: Int[np.ndarray, " token"] | None
    places: Int[np.ndarray, "token 2"]
    texts: tuple[str, ...]
    measured: Bool[np.ndarray, " token"] | None
    cut: Int[np.ndarray, " example"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " example"]:
        """Tokens per example."""
        return np.diff(self.starts)

    def spans(self) -> list[list[Span]]:
        """Characters of every token of every example."""
        return [
            [(int(a), int(b)) for a, b in self.places[begin:end]]
            for begin, end in zip(self.starts[:-1], self.starts[1:], strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Piece:
    """The tokens of one example, before they are put together.

    Attributes:
        tokens: Token numbers.
        places: Characters of each.
        text: What they are made of.
        parts: Character ranges that the loss counts; None: all of it.
        types: Segments, or None.
        counted: Given beside token sequences.
        cut: Tokens lost.
    """

    tokens: np.ndarray
    places: np.ndarray
    text: str = ""
    parts: tuple[Span, ...] | None = None
    types: np.ndarray | None = None
    counted: np.ndarray | None = None
    cut: int = 0


def form_of(examples: Examples) -> Form:
    """What the input columns hold: told from their number and from the first value.

    Raises:
        DataError: If they are neither texts, messages nor token sequences.
    """
    first = [_first(examples, name) for name in examples.inputs]
    if all(isinstance(value, str) for value in first) and len(first) in (1, 2):
        return "text" if len(first) == 1 else "pair"
    if len(first) == 1 and isinstance(first[0], list | np.ndarray) and len(first[0]):
        if isinstance(first[0][0], dict):
            return "messages"
        if np.asarray(first[0]).dtype.kind in "iu" and np.asarray(first[0]).ndim == 1:
            return "tokens"
    shown = ", ".join(
        f"{name!r} ({type(v).__name__})" for name, v in zip(examples.inputs, first, strict=True)
    )
    raise DataError(
        f"{examples.source}: a language model reads a text, a prompt and a completion, messages or token "
        f"sequences; the input columns are {shown}.",
        fix="name the column with text=..., or give columns prompt and completion, or messages.",
    )


def encode(examples: Examples, reading: Reading, *, spans: bool = False) -> Encoded:
    """The tokens of all examples.

    Cost: one run of the tokenizer over the texts.

    Args:
        examples: With inputs of one form, see :func:`form_of`.
        reading: Tokenizer, task and limits.
        spans: Whether the column ``span`` says which tokens are measured.

    Raises:
        DataError: If an example is empty, has no token to predict, is longer than the model's context without a
            ``max_length``, or holds a token that the model does not know; names the example.
        ModelError: If a tokenizer or a chat template is needed and there is none.
    """
    form = form_of(examples)
    if form != "tokens" and reading.tokenizer is None:
        raise ModelError(
            f"{examples.source} holds texts, but there is no tokenizer.",
            fix="give tokenizer=AutoTokenizer.from_pretrained(folder), or a folder that has one.",
        )
    pieces: list[Piece] = []
    for start in range(0, len(examples), _BLOCK):
        block = examples.take(slice(start, start + _BLOCK))
        found = list(_pieces(block, form, reading))
        pieces += [_fitted(piece, str(block.ids[i]), block.source, reading) for i, piece in enumerate(found)]
    counted = [_counted(piece, reading) for piece in pieces]
    _check(examples, pieces, counted, reading)
    measured = None
    if spans:
        marks = [Marked(piece.text, piece.places, piece.parts, inside=form == "pair") for piece in pieces]
        measured = measured_tokens(examples, marks)
    typed = bool(pieces) and pieces[0].types is not None
    return Encoded(
        tokens=np.concatenate([piece.tokens for piece in pieces]),
        starts=np.cumsum([0, *(len(piece.tokens) for piece in pieces)]),
        counted=np.concatenate(counted),
        types=np.concatenate([piece.types for piece in pieces if piece.types is not None]) if typed else None,
        places=np.concatenate([piece.places for piece in pieces]),
        texts=tuple(piece.text for piece in pieces),
        measured=measured,
        cut=np.array([piece.cut for piece in pieces], dtype=np.int64),
    )


def describe_cuts(examples: Examples, encoded: Encoded, reading: Reading) -> tuple[str, ...]:
    """What truncation did, in words; nothing if nothing was cut."""
    rows = np.flatnonzero(encoded.cut)
    if not len(rows):
        return ()
    named = ", ".join(repr(str(examples.ids[row])) for row in rows[:3]) + (", …" if len(rows) > 3 else "")
    return (
        f"{len(rows)} of {len(examples)} examples of {examples.source} were cut at the {reading.text.cut} to "
        f"{reading.max_length} tokens ({int(encoded.cut.sum())} tokens lost): {named}.",
    )


def _pieces(block: Examples, form: Form, reading: Reading) -> Iterator[Piece]:
    columns = [[*_values(block, name)] for name in block.inputs]
    if form == "tokens":
        yield from _given(block, columns[0])
    elif reading.task == "classifier":
        chats = [
            transcript(value, reading.tokenizer, reading.text, _name(block, i))
            if form == "messages"
            else value
            for i, value in enumerate(columns[0])
        ]
        yield from _sentences(chats, columns[1] if form == "pair" else None, reading)
    elif form == "messages":
        found = [
            rendered(value, reading.tokenizer, reading.text, _name(block, i))
            for i, value in enumerate(columns[0])
        ]
        texts = [text for text, _ in found]
        parts = [spans for _, spans in found]
        yield from _tokenised(texts, parts, reading, special=False)
    elif form == "pair":
        for i, completion in enumerate(columns[1]):
            if not completion:
                raise DataError(
                    f"{_name(block, i)} has an empty {block.inputs[1]}, so there is nothing to predict.",
                    fix="fill it in or remove the example; for queries, let the model answer (--answer 64).",
                )
        texts = [a + b for a, b in zip(*columns, strict=True)]
        parts = [((len(a), len(a) + len(b)),) for a, b in zip(*columns, strict=True)]
        yield from _tokenised(texts, parts, reading, special=True)
    else:
        yield from _tokenised(columns[0], [None] * len(block), reading, special=True)


def _given(block: Examples, sequences: Sequence[Any]) -> Iterator[Piece]:
    marks = _values(block, COUNTED) if COUNTED in block.columns else [None] * len(block)
    for sequence, mark in zip(sequences, marks, strict=True):
        tokens = np.asarray(sequence, dtype=np.int64)
        counted = None if mark is None else np.asarray(mark, dtype=bool)
        yield Piece(tokens, np.zeros((len(tokens), 2), dtype=np.int64), counted=counted)


def _tokenised(
    texts: Sequence[str], parts: Sequence[tuple[Span, ...] | None], reading: Reading, *, special: bool
) -> Iterator[Piece]:
    tokenizer = reading.tokenizer
    fast = bool(tokenizer.is_fast)
    if not fast and any(part is not None for part in parts):
        raise ModelError(
            f"{type(tokenizer).__name__} does not say which characters a token stands for, so the completion "
            "cannot be told from the prompt.",
            fix="save the fast tokenizer of this model (tokenizer.json) beside it.",
        )
    found = tokenizer(
        list(texts), add_special_tokens=special, return_offsets_mapping=fast, return_attention_mask=False,
        return_token_type_ids=False, verbose=False,
    )  # fmt: skip
    end = tokenizer.eos_token_id if reading.text.end_token and special else None
    for i, text in enumerate(texts):
        tokens = list(found["input_ids"][i])
        places = [(int(a), int(b)) for a, b in found["offset_mapping"][i]] if fast else [(0, 0)] * len(tokens)
        part = parts[i]
        if end is not None and (not tokens or tokens[-1] != end):
            tokens.append(end)
            places.append((len(text), len(text)))
        if end is not None and part is not None:
            # The end of the completion is predicted too; it stands for no character.
            places[-1] = (len(text), len(text) + 1)
            part = (*part, (len(text), len(text) + 1))
        yield Piece(
            np.array(tokens, dtype=np.int64), np.array(places, dtype=np.int64).reshape(-1, 2), text, part
        )


def _sentences(first: Sequence[str], second: Sequence[str] | None, reading: Reading) -> Iterator[Piece]:
    """Texts for a classifier: the tokenizer's own frame of special tokens, and its own truncation."""
    tokenizer, fast = reading.tokenizer, bool(reading.tokenizer.is_fast)
    for i, text in enumerate(first):
        pair = second[i] if second is not None else None
        found = tokenizer(text, pair, return_offsets_mapping=fast, verbose=False)
        cut = 0
        if reading.max_length is not None and len(found["input_ids"]) > reading.max_length:
            whole = len(found["input_ids"])
            side = "right" if reading.text.cut == "end" else "left"
            before, tokenizer.truncation_side = tokenizer.truncation_side, side
            found = tokenizer(
                text, pair, truncation=True, max_length=reading.max_length,
                return_offsets_mapping=fast, verbose=False,
            )  # fmt: skip
            tokenizer.truncation_side = before
            cut = whole - len(found["input_ids"])
        tokens = np.array(found["input_ids"], dtype=np.int64)
        places = np.array(found["offset_mapping"] if fast else [(0, 0)] * len(tokens), dtype=np.int64)
        if pair is not None and fast:
            places[np.array([part == 1 for part in found.sequence_ids()])] += len(text)
        types = np.array(found["token_type_ids"]) if "token_type_ids" in found else None
        yield Piece(tokens, places.reshape(-1, 2), text + (pair or ""), types=types, cut=cut)


def _fitted(piece: Piece, example: str, source: str, reading: Reading) -> Piece:
    """The piece, cut to the length that was asked for; refused where only the model's context limits it."""
    count = len(piece.tokens)
    if reading.context is not None and reading.max_length is None and count > reading.context:
        raise DataError(
            f"{source}: example {example!r} has {count} tokens, but the model reads at most {reading.context}.",
            fix=f"cut such examples with max_length={reading.context}, on the command line --max-length "
            f"{reading.context} (the report says which), or split them.",
        )
    if reading.max_length is None or count <= reading.max_length:
        return piece
    kept = (
        slice(0, reading.max_length) if reading.text.cut == "end" else slice(count - reading.max_length, None)
    )
    return replace(
        piece,
        tokens=piece.tokens[kept],
        places=piece.places[kept],
        types=None if piece.types is None else piece.types[kept],
        counted=None if piece.counted is None else piece.counted[kept],
        cut=piece.cut + count - reading.max_length,
    )


def _counted(piece: Piece, reading: Reading) -> np.ndarray:
    if reading.task == "classifier":
        return np.zeros(len(piece.tokens), dtype=bool)
    if piece.counted is not None:
        counted = piece.counted.copy()
    elif piece.parts is None:
        counted = np.ones(len(piece.tokens), dtype=bool)
    else:
        counted = within(piece.places, piece.parts)
    counted[:1] = False  # nothing comes before the first token to predict it from
    return counted


def _check(
    examples: Examples, pieces: Sequence[Piece], counted: Sequence[np.ndarray], reading: Reading
) -> None:
    for i, (piece, mark) in enumerate(zip(pieces, counted, strict=True)):
        if len(piece.tokens) == 0 or (reading.task == "causal" and not mark.any()):
            why = (
                f"after cutting it to {reading.max_length} tokens"
                if piece.cut
                else "in a text this short or empty"
            )
            raise DataError(
                f"{_name(examples, i)} has no token to predict {why}.",
                fix="raise max_length, cut at the other side (Text(cut='start')), or remove the example.",
            )
        highest = int(piece.tokens.max())
        if highest >= reading.vocabulary or int(piece.tokens.min()) < 0:
            raise DataError(
                f"{_name(examples, i)} holds token {highest}, but the model's embedding has "
                f"{reading.vocabulary} rows.",
                fix="use the tokenizer that the model was trained with.",
            )


def _values(examples: Examples, name: str) -> Sequence[Any]:
    return list(np.asarray(examples.column(name)[:]))


def _first(examples: Examples, name: str) -> Any:
    value = np.asarray(examples.column(name)[0:1])[0]
    return str(value) if isinstance(value, str) else value


def _name(examples: Examples, row: int) -> str:
    return f"{examples.source}: example {str(examples.ids[row])!r}"
