"""Examples made from examples: queries with the model's own answers, and packed blocks of tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners.transformers_chat import prompted
from steelyard.learners.transformers_table import POSITIONS
from steelyard.learners.transformers_text import COUNTED, Encoded, Reading, form_of
from steelyard.records import Examples


def answered(model: nn.Module, queries: Examples, reading: Reading, padding: int, tokens: int) -> Examples:
    """The queries with the most probable answer, token by token, in place of their completions.

    Cost: one forward pass per token of each answer.

    Args:
        model: In evaluation mode.
        queries: With a prompt and a completion, or with messages; what the assistant said last is replaced.
        reading: Tokenizer and limits.
        padding: Token that generation may fill up with.
        tokens: Most tokens per answer.

    Raises:
        CapabilityError: If the model is a classifier, or the queries are neither prompts nor messages.
        DataError: If a query leaves no room for an answer, or its answer is empty.
    """
    form = form_of(queries)
    if reading.task != "causal" or form not in ("pair", "messages"):
        raise CapabilityError(
            f"a {reading.task} model cannot answer queries that are {form}.",
            fix="give queries with a prompt and a completion (it may be empty), or messages.",
        )
    name = queries.inputs[1 if form == "pair" else 0]
    values: list[Any] = []
    for row in range(len(queries)):
        one = queries.row(row)
        place = f"{queries.source}: example {str(queries.ids[row])!r}"
        if form == "pair":
            values.append(_answer(model, str(one[queries.inputs[0]]), reading, padding, tokens, place))
        else:
            turns = _before_answer(one[name])
            prompt = prompted(turns, reading.tokenizer, reading.text, place)
            found = _answer(model, prompt, reading, padding, tokens, place, special=False)
            values.append([*turns, {"role": "assistant", "content": found}])
    column = np.fromiter(values, dtype=object, count=len(values))
    return queries.with_column(name, column, f"{queries.checksum}|answered {tokens}")


def packed(examples: Examples, encoded: Encoded, length: int, *, apart: bool = False) -> Examples:
    """Blocks of ``length`` tokens from the examples in order; the last block holds what is left.

    Args:
        examples: For their ids.
        encoded: Their tokens.
        length: Tokens per block.
        apart: Whether positions are told, from 0 at the start of every example and block; the first token of an
            example, which nothing of it predicts, then does not count.

    Raises:
        SettingError: If ``length`` is below 2.
    """
    if length < 2:
        raise SettingError(f"packed: length={length}.", fix="give at least 2 tokens per block.")
    owner = np.repeat(np.arange(len(encoded)), encoded.lengths)
    cuts = range(0, len(encoded.tokens), length)
    place, counted = np.arange(len(encoded.tokens)), encoded.counted
    if apart:
        begins = np.union1d(encoded.starts[:-1], np.array(cuts))
        place = place - begins[np.searchsorted(begins, place, side="right") - 1]
        counted = counted & (place > 0)
    blocks = [slice(begin, begin + length) for begin in cuts if counted[begin + 1 : begin + length].any()]
    columns: dict[str, Sequence[Any]] = {
        "tokens": [encoded.tokens[block].tolist() for block in blocks],
        COUNTED: [counted[block].astype(int).tolist() for block in blocks],
        "sources": [examples.ids[np.unique(owner[block])].tolist() for block in blocks],
    }
    if apart:
        columns[POSITIONS] = [place[block].tolist() for block in blocks]
    return Examples(
        ids=np.array([f"block-{k:06d}" for k in range(len(blocks))]),
        columns={
            name: np.fromiter(found, dtype=object, count=len(blocks)) for name, found in columns.items()
        },
        inputs=("tokens",),
        label=None,
        checksum=f"{examples.checksum}|packed {length}{' apart' if apart else ''}",
        source=f"{examples.source}, packed to {length} tokens",
    )


def _before_answer(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    turns = [dict(turn) for turn in messages]
    return turns[:-1] if turns and turns[-1].get("role") == "assistant" else turns


def _answer(  # noqa: PLR0913 - one call site per kind of query
    model: nn.Module,
    prompt: str,
    reading: Reading,
    padding: int,
    tokens: int,
    place: str,
    *,
    special: bool = True,
) -> str:
    tokenizer: Any = reading.tokenizer
    given = tokenizer(prompt, add_special_tokens=special, return_tensors="pt", return_token_type_ids=False)
    given = given.to(next(model.parameters()).device)
    width = given["input_ids"].shape[1]
    if reading.context is not None and width + tokens > reading.context:
        raise DataError(
            f"{place}: {width} tokens of prompt and {tokens} of answer are more than the model's context of "
            f"{reading.context}.",
            fix="ask for fewer tokens, or shorten the prompt.",
        )
    with torch.no_grad():
        found = cast(Any, model).generate(
            **given, do_sample=False, max_new_tokens=tokens, pad_token_id=padding
        )
    answer = tokenizer.decode(found[0, width:], skip_special_tokens=True)
    if not answer.strip():
        raise DataError(
            f"{place}: the model's answer is empty.", fix="change the prompt, or give the completion."
        )
    return answer
