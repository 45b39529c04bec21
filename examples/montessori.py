"""Montessori-Instruct in small: a teacher learns to write what a student learns from.

    python -m examples.montessori            about seven minutes of one core
    python -m examples.montessori --quick    less of everything

A teacher writes a few sentences on each of several topics. For every sentence a student takes one step of training on
it, and what that does to its loss on real sentences (of Python's own reference) is the sentence's local influence.
The most and the least influential sentence on a topic are a pair of preferences, and the teacher is trained on these
pairs by direct preference optimisation. Then teacher and trained teacher write on topics that neither was trained on,
and the influence of what they write on other real sentences is compared.

Source: Li, Yu & Xiong (2025), "Montessori-Instruct: Generate Influential Training Data Tailored for Student
Learning", arXiv:2410.14208, github.com/cxcscmu/Montessori-Instruct. Deviations: teacher and student are both
SmolLM2-135M with adapters (the paper: models of 8 thousand million parameters); the student is not warmed up;
its step is a plain gradient step on one example (``score.MATES`` with ``share=1``); best and worst on a topic make a
pair, where the published code pairs what lowers the loss with what raises it; one round. At this scale the figure to
look at is whether the mechanism works, not how good the student becomes.
"""

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
from examples.preferences import asked, best_and_worst, learn, open_small, sample, with_lora

import steelyard as sy
from steelyard.maths.power import paired

TOPICS = ("lists", "dictionaries", "for loops", "exceptions", "classes", "modules", "slices", "strings", "numbers",
          "generators", "decorators", "assignments", "comparisons", "imports", "scopes", "lambdas", "sets", "tuples",
          "context managers", "operators", "attributes", "docstrings", "conversions", "truth values")  # fmt: skip


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
    teacher: Any, tokenizer: Any, topics: tuple[str, ...], each: int, seed: int
) -> dict[str, list[str]]:
    """Sentences of the teacher on every topic, by prompt; empty ones left out."""
    prompts = [asked(tokenizer, f"Write one short sentence about {topic} in Python.") for topic in topics]
    return {
        prompt: [text for text in sample(teacher, tokenizer, prompt, each, length=28, seed=seed + k) if text]
        for k, prompt in enumerate(prompts)
    }


def scored(texts: dict[str, list[str]], values: np.ndarray) -> dict[str, list[tuple[str, float]]]:
    """Every prompt's texts with their scores."""
    rest = iter(values.tolist())
    return {prompt: [(text, next(rest)) for text in own] for prompt, own in texts.items()}


def run(  # noqa: PLR0913 - a model, its data and three sizes
    model: Any, tokenizer: Any, *, topics: tuple[str, ...], each: int, reference: list[str], other: list[str],
        rate: float = 0.05, epochs: int = 4) -> dict[str, Any]:  # fmt: skip
    """One round: write, probe, pair, train the teacher, write again on other topics.

    Args:
        model: Of both teacher and student.
        tokenizer: Its tokenizer.
        topics: The first two thirds are trained on; the rest are for the comparison.
        each: Sentences per topic.
        reference: Real sentences that influence is measured on when pairs are made.
        other: Real sentences that it is measured on when teachers are compared.
        rate: Of the student's step.
        epochs: Of the teacher's training.
    """
    student = with_lora(copy.deepcopy(model), seed=1)
    teacher = with_lora(model, seed=2)
    cut = 2 * len(topics) // 3
    texts = written(teacher, tokenizer, topics[:cut], each, seed=100)
    flat = [text for own in texts.values() for text in own]
    values = local_influence(student, tokenizer, flat, reference, rate)
    pairs, skipped = best_and_worst(scored(texts, values))
    before = written(teacher, tokenizer, topics[cut:], each, seed=900)
    leads = learn(teacher, tokenizer, pairs, epochs=epochs)
    after = written(teacher, tokenizer, topics[cut:], each, seed=900)
    means = []
    for made in (before, after):
        own = local_influence(student, tokenizer, [t for one in made.values() for t in one], other, rate)
        means.append(
            [float(np.mean([s for _, s in one])) if one else 0.0 for one in scored(made, own).values()]
        )
    gap = paired(np.array(means[1]) - np.array(means[0]))
    return {
        "sentences": len(flat),
        "pairs": len(pairs),
        "prompts without a pair": skipped,
        "lead before": leads[0],
        "lead after": leads[1],
        "influence before": float(np.mean(means[0])),
        "influence after": float(np.mean(means[1])),
        "gain": [gap.estimate, gap.low, gap.high],
        "examples": [(pair.chosen, pair.rejected, pair.gap) for pair in pairs[:3]],
    }


def main() -> None:
    """Print what happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    parser.add_argument("--model", type=Path, default=Path("runs/smollm2"), help="where the model is kept")
    given = parser.parse_args()
    began = time.perf_counter()
    model, tokenizer = open_small(given.model)
    real = references(8 if given.quick else 24)
    topics, half = (TOPICS[:6] if given.quick else TOPICS), len(real) // 2
    found = run(
        model,
        tokenizer,
        topics=topics,
        each=5 if given.quick else 4,
        reference=real[:half],
        other=real[half:],
    )
    for chosen, rejected, gap in found.pop("examples"):
        print(f"preferred by {gap:.4f} nats: {chosen!r}\n                 over: {rejected!r}")
    for name, value in found.items():
        print(f"{name}: {value}")
    low, high = found["gain"][1:]
    verdict = "more" if low > 0 else "less" if high < 0 else "neither more nor less, as far as can be told,"
    print(f"What the trained teacher writes teaches the student {verdict} than what it wrote before.")
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
