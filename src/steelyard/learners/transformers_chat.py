"""Messages to text by a chat template, and which characters the assistant wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.errors import DataError, ModelError
from steelyard.learners.transformers_settings import Text

Span = tuple[int, int]


def rendered(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, text: Text, name: str
) -> tuple[str, tuple[Span, ...]]:
    """The text of a conversation, and the character ranges of the assistant's turns.

    A turn is what the template adds when the message is added after the prompt for it: the end-of-turn mark
    belongs to it, the header before it does not. That works with every template whose text only grows, also
    those that do not mark the assistant's tokens themselves.

    Args:
        messages: ``[{"role": ..., "content": ...}, ...]``.
        tokenizer: Its template is used, unless ``text`` brings one.
        text: Settings.
        name: Names the example in errors.

    Raises:
        ModelError: If there is no template.
        DataError: If there is no turn of an assistant, or the template rewrites earlier turns.
    """
    template = _template(tokenizer, text)
    turns = [dict(message) for message in messages]
    whole = _applied(turns, tokenizer, template, name, prompt=False)
    spans: list[Span] = []
    for i, turn in enumerate(turns):
        if turn.get("role") != "assistant":
            continue
        if not turn.get("content"):
            raise DataError(
                f"{name}: the assistant's message {i + 1} is empty.", fix="fill it in or remove it."
            )
        before = _applied(turns[:i], tokenizer, template, name, prompt=True)
        after = _applied(turns[: i + 1], tokenizer, template, name, prompt=False)
        if not (after.startswith(before) and whole.startswith(after)):
            raise DataError(
                f"{name}: the chat template rewrites what comes before message {i + 1}, so the assistant's words "
                "cannot be found in its text.",
                fix="give columns prompt and completion, or another Text(chat_template=...).",
            )
        spans.append((len(before), len(after)))
    if not spans:
        raise DataError(
            f"{name}: no message is by the role 'assistant', so there is nothing to predict.",
            fix="add the answer as a message of the assistant.",
        )
    return whole, tuple(spans)


def transcript(messages: Sequence[Mapping[str, Any]], tokenizer: Any, text: Text, name: str) -> str:
    """The text of a conversation, whoever speaks in it.

    Raises:
        ModelError: If there is no template.
        DataError: If the template does not take these messages.
    """
    turns = [dict(message) for message in messages]
    return _applied(turns, tokenizer, _template(tokenizer, text), name, prompt=False)


def prompted(turns: Sequence[Mapping[str, Any]], tokenizer: Any, text: Text, name: str) -> str:
    """The text of a conversation up to where the assistant's answer begins.

    Raises:
        ModelError: If there is no template.
        DataError: If the template does not take these messages.
    """
    return _applied(turns, tokenizer, _template(tokenizer, text), name, prompt=True)


def _template(tokenizer: Any, text: Text) -> str:
    template = text.chat_template or tokenizer.chat_template
    if template is None:
        raise ModelError(
            "the data holds messages, but the tokenizer has no chat template.",
            fix="give Text(chat_template=...), or data with columns prompt and completion.",
        )
    return template


def _applied(
    turns: Sequence[Mapping[str, Any]], tokenizer: Any, template: str, name: str, *, prompt: bool
) -> str:
    import jinja2

    if not turns:
        return ""
    try:
        return tokenizer.apply_chat_template(
            list(turns), chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
    except jinja2.TemplateError as error:
        raise DataError(
            f"{name}: the chat template does not take these messages: {error}",
            fix="give messages with the roles that the template knows, each with role and content.",
        ) from error
