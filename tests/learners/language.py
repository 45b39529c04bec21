"""Tiny random language models, classifiers and a word tokenizer, made in the test: nothing is downloaded."""

from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from steelyard.data import read
from steelyard.records import Examples

_SAID = "the a steel yard beam weighs light heavy query example what is it one two three yes no user says"
WORDS = _SAID.split()
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def tokenizer(*, begin: bool = True, limit: int | None = None) -> Any:
    """A word-level tokenizer of 28 tokens that writes ``<s>`` first."""
    names = [*SPECIAL, *WORDS, "system", "assistant", ":", "."]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if begin:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 2)]
        )
    found = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    found.chat_template = TEMPLATE
    if limit is not None:
        found.model_max_length = limit
    return found


def llama(*, tied: bool = False, seed: int = 0, hidden: int = 8, **settings: Any) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=28, hidden_size=hidden, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, **settings,
    )  # fmt: skip
    return _made(transformers.LlamaForCausalLM, config, seed)


def gpt2(*, tied: bool = True, dropout: float = 0.1) -> Any:
    config = transformers.GPT2Config(
        vocab_size=28, n_positions=64, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=tied,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    return _made(transformers.GPT2LMHeadModel, config)


def bert(labels: int = 3) -> Any:
    config = transformers.BertConfig(
        vocab_size=28, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=64, num_labels=labels, pad_token_id=0,
    )  # fmt: skip
    return _made(transformers.BertForSequenceClassification, config)


def llama_classifier(labels: int = 3) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=28, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, num_labels=labels, pad_token_id=0,
    )  # fmt: skip
    return _made(transformers.LlamaForSequenceClassification, config)


def _made(kind: Any, config: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = kind(config)
        for parameter in net.parameters():  # small initial values would make every gradient alike
            parameter.data += 0.3 * torch.randn_like(parameter)
    return net.eval()


def sentences(count: int, *, seed: int = 0, most: int = 9) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, most))) for _ in range(count)]


def texts(count: int = 7, *, seed: int = 0) -> Examples:
    lines = sentences(count, seed=seed)
    return read([{"id": f"{seed}-{i}", "text": line} for i, line in enumerate(lines)])


def pairs(count: int = 7, *, seed: int = 0) -> Examples:
    prompts, completions = sentences(count, seed=seed), sentences(count, seed=seed + 100, most=5)
    rows = [
        {"id": f"{seed}-{i}", "prompt": f"{p} ", "completion": c}
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]
    return read(rows)


def chats(count: int = 5, *, seed: int = 0) -> Examples:
    lines, answers = sentences(2 * count, seed=seed), sentences(2 * count, seed=seed + 50)
    rows = [
        {
            "id": f"{seed}-{i}",
            "messages": [
                {"role": "user", "content": lines[i]},
                {"role": "assistant", "content": answers[i]},
                {"role": "user", "content": lines[count + i]},
                {"role": "assistant", "content": answers[count + i]},
            ],
        }
        for i in range(count)
    ]
    return read(rows)


def labelled(count: int = 7, *, seed: int = 0, classes: int = 3) -> Examples:
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"{seed}-{i}", "text": line, "label": int(rng.integers(classes))}
        for i, line in enumerate(sentences(count, seed=seed))
    ]
    return read(rows)
