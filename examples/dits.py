"""Data influence-oriented tree search (DITS) in small: a search for preference pairs, steered by their influence.

    python -m examples.dits            some minutes on two cores
    python -m examples.dits --quick    less of everything

Two agents, both the same small model, answer questions: the first writes a hint, the second answers with it. A tree
search grows hints of questions and answers of hints; whether an answer is right is backed up as the Q-value. Where
two siblings differ in it, they are a pair of preferences. The influence of a pair is what one step of direct
preference optimisation on it does to a metric on validation questions, which takes forward passes alone. Influence
and Q-value together say where the search goes on, and which pairs the agents are trained on; pairs chosen by Q-value
alone and at random are trained on beside.

Source: Shi, Yu, Feng, He & Xiong (2025), "Efficient Multi-Agent System Training with Data Influence-Oriented Tree
Search", arXiv:2502.00955, github.com/swt-user/DITS. Deviations: a model of 135 M parameters in place of 8 thousand
million; questions are sums of small numbers; the metric is the probability of the right answer without a hint, as
hardly any of the few answers flips by one step (any function of the model can be given); influences are divided by
their standard deviation so far, so that they can be added to Q-values; the tree is descended by upper confidence
bounds, where the paper samples by softmax; similar siblings are dropped only if they are equal; one round.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from examples.preferences import (
    Pair,
    asked,
    dpo_loss,
    lead,
    learn,
    log_likelihood,
    open_small,
    sample,
    with_lora,
)

BEGUN = "The answer is "
"""How answers begin: a model this small would not come to the point by itself."""


@dataclass(eq=False)
class Node:
    """A state of the conversation.

    Attributes:
        text: What was said to come here: the question, a hint, an answer.
        depth: 0 for questions, 1 for hints, 2 for answers.
        visits: Rollouts that went through it.
        reward: Sum of their rewards.
        children: What was said next.
        tried: Pairs of its children whose influence is known.
    """

    text: str
    depth: int
    visits: int = 0
    reward: float = 0.0
    children: list["Node"] = field(default_factory=list)
    tried: dict[tuple[str, str], "Found"] = field(default_factory=dict)

    @property
    def quality(self) -> float:
        """Mean reward."""
        return self.reward / self.visits if self.visits else 0.0


@dataclass(frozen=True)
class Found:
    """A pair with what is known about it."""

    pair: Pair
    influence: float
    quality: float


@dataclass(frozen=True)
class World:
    """What the search asks of the agents.

    Attributes:
        say: ``(path, number)`` to what is said next after the texts of a path, the number-th time.
        worth: ``(path)`` to the reward of a finished path.
        prompt: ``(path)`` to the prompt that the next thing was said to.
        influence: What a step on a pair does to the metric; higher is better.
    """

    say: Callable[[Sequence[str], int], str]
    worth: Callable[[Sequence[str]], float]
    prompt: Callable[[Sequence[str]], str]
    influence: Callable[[Pair], float]


def search(  # noqa: PLR0913, C901 - one loop of a tree search, with its weights
    questions: Sequence[str], world: World, *, rollouts: int, width: int = 3, gamma: float = 1.0, steer: float = 1.0,
    explore: float = 0.5,
) -> tuple[list[Node], list[Found], int]:  # fmt: skip
    """Grow a tree from every question, going on where pairs have had most influence and answers most reward.

    Args:
        questions: Roots.
        world: Says, judges, and measures influence.
        rollouts: Finished paths.
        width: Most children of a node.
        gamma: Weight of the Q-value where the search goes on; the paper's for choosing pairs too.
        steer: Weight of influence there; 0 is a search by Q-value alone.
        explore: Weight of the upper confidence bound.

    Returns:
        The roots, every pair whose influence was measured, and how many times siblings of equal Q-value gave no pair.
    """
    roots = [Node(text, 0) for text in questions]
    equal, influences = 0, []

    def promise(node: Node) -> float:
        known = [found.influence for one in (node, *node.children) for found in one.tried.values()]
        scale = float(np.std(influences)) or 1.0 if influences else 1.0
        return gamma * node.quality + steer * (float(np.mean(known)) / scale if known else 0.0)

    def pick(nodes: list[Node]) -> Node:
        total = sum(node.visits for node in nodes)
        bounds = [
            promise(node) + explore * np.sqrt(2 * np.log(max(1, total)) / node.visits)
            if node.visits
            else np.inf
            for node in nodes
        ]
        return nodes[int(np.argmax(bounds))]

    for number in range(rollouts):
        path = [pick(roots)]
        while path[-1].depth < 2:
            node = path[-1]
            if len(node.children) < width:
                text = world.say([one.text for one in path], number)
                same = [child for child in node.children if child.text == text]
                node.children += [] if same else [Node(text, node.depth + 1)]
                path.append(same[0] if same else node.children[-1])
            else:
                path.append(pick(node.children))
        reward = world.worth([one.text for one in path])
        for node in path:
            node.visits, node.reward = node.visits + 1, node.reward + reward
        for depth, node in enumerate(path[:2]):
            if len(node.children) < 2:
                continue
            high = max(node.children, key=lambda child: child.quality)
            low = min(node.children, key=lambda child: child.quality)
            if not high.quality > low.quality:
                equal += 1
            elif (high.text, low.text) not in node.tried:
                before = world.prompt([one.text for one in path[: depth + 1]])
                pair = Pair(before, high.text, low.text, high.quality - low.quality)
                node.tried[high.text, low.text] = Found(pair, world.influence(pair), high.quality)
                influences.append(node.tried[high.text, low.text].influence)
    found = [one for root in roots for node in (root, *root.children) for one in node.tried.values()]
    return roots, found, equal


def ranked(found: Sequence[Found], *, gamma: float = 1.0) -> list[Found]:
    """Pairs by influence plus gamma times Q-value, best first; influences in their standard deviations.

    Source: the paper's score H.
    """
    scale = float(np.std([one.influence for one in found])) or 1.0
    return sorted(found, key=lambda one: -(one.influence / scale + gamma * one.quality))


def by_one_step(
    model: Any, tokenizer: Any, metric: Callable[[], float], *, rate: float, beta: float = 0.1
) -> Any:
    """Influence of a pair: the metric after one gradient step on it, less the metric before; the model is put back."""
    before = metric()

    def influence(pair: Pair) -> float:
        parameters = [p for p in model.parameters() if p.requires_grad]
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            start = lead(model, tokenizer, [pair])
        gradients = torch.autograd.grad(dpo_loss(model, tokenizer, [pair], start, beta), parameters)
        with torch.no_grad():
            try:
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(rate * gradient)
                return metric() - before
            finally:
                for parameter, values in zip(parameters, kept, strict=True):
                    parameter.copy_(values)

    return influence


def sums(count: int, seed: int) -> list[tuple[str, str]]:
    """Questions and right answers."""
    draw = np.random.default_rng(seed)
    numbers = draw.permutation([(a, b) for a in range(2, 13) for b in range(2, 13)])[:count]
    return [(f"What is {a} + {b}?", str(a + b)) for a, b in numbers.tolist()]


def chance_of_right(model: Any, tokenizer: Any, questions: Sequence[tuple[str, str]]) -> np.ndarray:
    """``[question]`` Probability of the right answer, without a hint."""
    prompts = [asked(tokenizer, question) + BEGUN for question, _ in questions]
    with torch.no_grad():
        logs = log_likelihood(model, tokenizer, prompts, [answer for _, answer in questions])
    return logs.exp().double().numpy()


def agents(model: Any, tokenizer: Any, answers: dict[str, str], influence: Callable[[Pair], float]) -> World:
    """Two agents of one model: a hint in a few words, then the number."""

    def prompt(path: Sequence[str]) -> str:
        if len(path) == 1:
            return asked(tokenizer, f"{path[0]} Give a short hint of how to work it out.")
        return asked(tokenizer, f"{path[0]} Hint: {path[1]}") + BEGUN

    def say(path: Sequence[str], number: int) -> str:
        length = 24 if len(path) == 1 else 4
        return sample(model, tokenizer, prompt(path), 1, length=length, seed=1000 + number)[0] or "none"

    def worth(path: Sequence[str]) -> float:
        said = re.findall(r"\d+", path[2])
        return float(bool(said) and said[0] == answers[path[0]])

    return World(say, worth, prompt, influence)


def run(  # noqa: PLR0913 - sizes, all named
    folder: Path,
    *,
    questions: int,
    rollouts: int,
    validation: int,
    test: int,
    share: float = 0.5,
    rate: float = 0.1,
) -> dict[str, Any]:
    """Search, choose pairs in three ways, and train on each from the same start."""
    base, tokenizer = open_small(folder)
    model = with_lora(base, seed=3)
    known = sums(questions + validation + test, seed=0)
    seen, valid, held = (
        known[:questions],
        known[questions : questions + validation],
        known[questions + validation :],
    )

    def metric() -> float:
        return float(chance_of_right(model, tokenizer, valid).mean())

    world = agents(model, tokenizer, dict(seen), by_one_step(model, tokenizer, metric, rate=rate))
    _, found, equal = search([question for question, _ in seen], world, rollouts=rollouts)
    results: dict[str, Any] = {"pairs": len(found), "siblings of equal Q-value, left out": equal}
    if len(found) < 2:
        return results | {"note": "too few pairs to choose from; give more questions or rollouts"}
    count = max(1, round(share * len(found)))
    order = np.random.default_rng(0).permutation(len(found))
    ways = {
        "influence and Q-value": ranked(found)[:count],
        "influence": ranked(found, gamma=0.0)[:count],
        "Q-value": sorted(found, key=lambda one: -one.quality)[:count],
        "random": [found[k] for k in order[:count]],
    }
    spread = [one.influence for one in found]
    results["influences"] = [min(spread), float(np.median(spread)), max(spread)]
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    results["untrained"] = float(chance_of_right(model, tokenizer, held).mean())
    for name, pairs in ways.items():
        learn(model, tokenizer, [one.pair for one in pairs], epochs=2)
        results[name] = float(chance_of_right(model, tokenizer, held).mean())
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key in start:
                    parameter.copy_(start[key])
    return results


def main() -> None:
    """Print what happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    parser.add_argument("--model", type=Path, default=Path("runs/smollm2"), help="where the model is kept")
    given = parser.parse_args()
    began = time.perf_counter()
    size = (
        {"questions": 3, "rollouts": 15, "validation": 4, "test": 8}
        if given.quick
        else {"questions": 5, "rollouts": 36, "validation": 8, "test": 16}
    )
    for name, value in run(given.model, **size).items():
        print(f"{name}: {value}")
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
