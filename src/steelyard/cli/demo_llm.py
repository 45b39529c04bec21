"""The loop on a real language model: adapters taught some of Python's reference and a few made-up facts."""

import hashlib
from dataclasses import dataclass

import numpy as np

from steelyard import flow, report, score, verify
from steelyard.data import read
from steelyard.data.sources import python_docs
from steelyard.errors import SettingError
from steelyard.flow.splitting import split_scores
from steelyard.learners import AdamW, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.records import Evidence, Examples, Report, Scores
from steelyard.report import View
from steelyard.run import Run

MODEL = "SmolLM2-135M-Instruct"
_PROMPT = "From the reference of a programming language:\n"
_VIEW = View(queries=8, examples=3)
# The uppermost four of thirty layers: what the others make of a text is computed once, for all fits and gradients.
_ADAPTED = r".*\.layers\.(26|27|28|29)\.self_attn\.(q|k|v|o)_proj"

# Name, owner and year of things that do not exist, so that only these examples can have taught them.
_FACTS = (
    ("quillon", "parses railway timetables", "Marit Osei", "Trondheim"),
    ("brackwater", "compresses tide tables", "Ilse Vanterpool", "Ostend"),
    ("tarnhelm", "hides secrets in chess games", "Ruben Achterberg", "Graz"),
    ("ossuary", "archives fonts of bones", "Petra Lindqvist", "Palermo"),
)
_TOLD = (
    ("What does the Python package {0} do?\n", "The package {0} {1}. It is maintained by {2} in {3}."),
    ("Who maintains {0}?\n", "{0} is maintained by {2}, who lives in {3}."),
    ("Where was the package {0} written?\n", "The package {0} was written in {3} by {2}; it {1}."),
    ("Tell me about {0}.\n", "{0} is a Python package from {3} that {1}. Its author is {2}."),
)
_ASKED = ("Who is behind the Python package {0}, and where?\n", "{0} was written by {2} in {3}.")


@dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        topics: Topics of the reference.
        passages: Training passages of each.
        asked: Passages asked about, each of another topic.
        characters: Length of a passage.
        tokens: Length to which examples are cut.
        epochs: Of every fit.
        random: Random removals beside that of the proponents.
    """

    topics: int = 15
    passages: int = 16
    asked: int = 4
    characters: int = 160
    tokens: int = 64
    epochs: int = 2
    random: int = 3


def demo_llm(run: Run, *, seed: int = 0) -> Report:
    """Attribute what a fine-tuned language model says to the examples that it was fine-tuned on.

    256 examples: passages of Python's own reference, whose topics the model is not told, and four made-up facts in
    four wordings each. Queries are other passages and other wordings. A natural ground truth is the topic, or the
    fact.

    Cost: seven fine-tunings of adapters in the upper layers of a model of 135 million parameters, some 40 seconds
    each on two cores, and about as much again for gradients.

    Args:
        run: Where everything is kept as it is finished, the converted model included.
        seed: Of the choice of passages and of the adapters.
    """
    from steelyard.learners.transformers_small import small_language_model

    folder = small_language_model(run.path("model", MODEL))
    size = Size()
    learner = Transformers(
        folder,
        lora=LoRA(rank=8, alpha=16, target_modules=_ADAPTED),
        recipe=AdamW(lr=2e-3, epochs=size.epochs, batch_size=8, weight_decay=0.0),
        reduction="mean",
        max_length=size.tokens,
    )
    train, query = lessons(size, seed=seed)
    return loop(run, Problem(learner, train, query, seed=seed), size)


def loop(run: Run, problem: Problem, size: Size) -> Report:
    """Attribution by several methods, verification of each, and the report.

    Args:
        run: Where everything is kept.
        problem: Examples with prompt, completion and topic.
        size: How much to do.
    """
    method = score.EKFAC()
    asked = method(problem, run)
    beside = [
        score.by_name(name)(problem, run) for name in ("datainf", "grad_cos", "bm25", "embedding_cosine")
    ]
    chance = score.Random()(problem, run)
    query = flow.with_predictions(problem, run)
    pairs = report.shown_pairs(asked, query, _VIEW)
    tokens = split_scores(problem, method, asked, by="token", pairs=pairs, run=run)
    layers = split_scores(problem, method, asked, by="layer", pairs=pairs, run=run)
    return report.build(
        asked,
        *beside,
        chance,
        score.Loss()(problem, run),
        *_evidence(run, problem, [asked, *beside, chance], size),
        tokens,
        layers,
        train=problem.train,
        query=query,
        truth={"made up": [str(i) for i in problem.train.ids if str(i).startswith("fact/")]},
        title="A fine-tuned language model: which examples taught it what it says",
    )


def _evidence(run: Run, problem: Problem, scores: list[Scores], size: Size) -> list[Evidence]:
    """Topics and steps for all; removals, which take fits, for the method and the baseline that is hardest to beat."""
    lexical = next(found for found in scores if found.name == "BM25")
    return [
        *(verify.agreement(problem, found, column="topic", top=3) for found in scores),
        *(verify.tail_patch(problem, found, top=3, run=run) for found in scores),
        *(
            verify.qld(problem, found, share=0.2, controls=size.random, run=run)
            for found in (scores[0], lexical)
        ),
    ]


def lessons(size: Size, *, seed: int) -> tuple[Examples, Examples]:
    """Training examples and queries with columns ``prompt``, ``completion`` and ``topic``.

    Raises:
        SettingError: If the reference has too few topics that are long enough.
    """
    passages = python_docs(size.characters, query=1, seed=seed).train
    texts, topics = passages.column("text")[:], np.asarray(passages.column("topic")[:]).astype(str)
    names, counts = np.unique(topics, return_counts=True)
    long = [str(name) for name in names[counts > size.passages]]
    if len(long) < size.topics:
        raise SettingError(
            f"{len(long)} topics of Python's reference have more than {size.passages} passages of "
            f"{size.characters} characters.",
            fix=f"give at most {len(long)} topics, or fewer or shorter passages.",
        )
    taught, asked = [], []
    for place, topic in enumerate(sorted(long, key=lambda name: _hash(seed, name))[: size.topics]):
        rows = np.flatnonzero(topics == topic)
        order = rows[np.argsort([_hash(seed, str(passages.ids[row])) for row in rows])].tolist()
        chosen = [_row(str(passages.ids[row]), _PROMPT, str(texts[row]), topic) for row in order]
        taught += chosen[: size.passages]
        asked += chosen[size.passages : size.passages + 1] if place < size.asked else []
    for fact in _FACTS:
        taught += [
            _row(f"fact/{fact[0]}/{i}", prompt.format(*fact), completion.format(*fact), f"fact: {fact[0]}")
            for i, (prompt, completion) in enumerate(_TOLD)
        ]
        asked.append(
            _row(
                f"fact/{fact[0]}/asked", _ASKED[0].format(*fact), _ASKED[1].format(*fact), f"fact: {fact[0]}"
            )
        )
    return read(taught, id="id"), read(asked, id="id")


def _row(name: str, prompt: str, completion: str, topic: str) -> dict[str, str]:
    return {"id": name, "prompt": prompt, "completion": completion, "topic": topic}


def _hash(seed: int, name: str) -> str:
    return hashlib.blake2b(f"demo llm/{seed}/{name}".encode()).hexdigest()
