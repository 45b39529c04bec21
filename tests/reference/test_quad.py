"""Quad: its influence against EK-FAC's own parts, its bandit against UCB1's bound, its choice against top-k's."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.act.quad import Quad, _Lots
from steelyard.act.system import effective
from steelyard.collect.attention import attention_side
from steelyard.collect.gradients import open_gradients
from steelyard.data import read
from steelyard.errors import CapabilityError, SettingError, ShapeError
from steelyard.gradients.splits import is_attention
from steelyard.learners import SGD, Torch
from steelyard.learners.small import LanguageModel, next_word_loss
from steelyard.maths.bandit import Arms
from steelyard.maths.power import paired
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score import EKFAC, KFAC
from tests.reference.test_untrac import problem as small_problem

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def language(count: int = 16) -> Problem:
    draw = np.random.default_rng(0)
    tokens = draw.integers(2, 12, size=(count + 5, 6))
    torch.manual_seed(0)
    net = LanguageModel(12, length=6, width=8, heads=2).double()
    learner = Torch(net, loss=next_word_loss(), recipe=SGD(lr=0.3, epochs=3, batch_size=8), trained=True)
    ids = [f"t{i:02d}" for i in draw.permutation(count)]
    train = read({"tokens": tokens[:count], "id": ids})
    return Problem(learner, train, read({"tokens": tokens[count:]}))


@pytest.mark.parametrize(("kind", "method"), [("kfac", KFAC()), ("ekfac", EKFAC())])
def test_influence_is_that_of_the_attention_layers_and_of_no_other(kind, method):
    p, run = language(), in_memory()
    fitted = open_gradients(p, run, method="test", instead="none")
    found = attention_side(p, fitted, run, kind=kind, layers="auto", sample=p.train, point="all")
    assert found.resolved["layers"] == ["blocks.0.attend", "blocks.0.mix"] and not found.note
    state = method.prepare(p, run)
    split = method.split(p, state, np.arange(len(p.train)), "module")
    own = [k for k, name in enumerate(split.names) if name in found.resolved["layers"]]
    wanted = np.stack([split.of(i)[own].sum(axis=0) for i in range(len(p.train))])
    np.testing.assert_allclose(fitted.gradients.products(p.train, found.side), wanted, rtol=1e-9)
    every = attention_side(p, fitted, run, kind=kind, layers="all", sample=p.train, point="all")
    np.testing.assert_allclose(
        fitted.gradients.products(p.train, every.side), np.asarray(method(p).values), rtol=1e-6
    )


def test_a_projection_is_inverted_as_the_kronecker_product_written_out():
    """One layer called like attention, one position: the whole curvature as a dense matrix, solved in float64."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(9, 3)), draw.integers(0, 2, 9)
    torch.manual_seed(1)
    layer = nn.Linear(3, 2).double()
    net = nn.Sequential()
    net.add_module("attention", layer)
    p = Problem(Torch(net, trained=True), read({"input": x[:6], "label": y[:6]}),
                read({"input": x[6:], "label": y[6:]}))  # fmt: skip
    run = in_memory()
    fitted = open_gradients(p, run, method="test", instead="none")
    found = attention_side(p, fitted, run, kind="kfac", layers="attention", sample=p.train, point="all")
    with torch.no_grad():
        chances = torch.softmax(net(torch.tensor(x)), 1).numpy()
    ones = np.column_stack([x, np.ones(9)])
    errors = chances - np.eye(2)[y]
    inputs = ones[:6].T @ ones[:6] / 6
    outputs = np.mean([np.diag(c) - np.outer(c, c) for c in chances[:6]], axis=0)
    curvature = np.kron(outputs, inputs)
    damping = 0.1 * np.trace(curvature) / len(curvature)
    gradients = np.einsum("eo,ei->eoi", errors, ones).reshape(9, -1)
    wanted = gradients[:6] @ np.linalg.solve(6 * (curvature + damping * np.eye(8)), gradients[6:].T)
    np.testing.assert_allclose(fitted.gradients.products(p.train, found.side), wanted, rtol=1e-8)


def test_names_of_attention_are_told_from_others():
    yes = ("model.layers.0.self_attn.q_proj", "h.3.attn.c_attn", "h.3.attn.c_proj", "blocks.0.attend",
           "x.in_proj_weight", "encoder.layer.1.attention.output.dense",
           "base_model.model.model.layers.0.self_attn.v_proj.lora_A.default")  # fmt: skip
    no = ("model.layers.0.mlp.up_proj", "h.3.mlp.c_proj", "blocks.0.before_attention", "output", "1",
          "encoder.layer.1.attention.output.LayerNorm")  # fmt: skip
    assert all(is_attention(name) for name in yes) and not any(is_attention(name) for name in no)


def test_regret_stays_below_the_bound_of_ucb1():
    chances, pulls = np.array([0.9, 0.6, 0.5, 0.3]), 2000
    gaps = chances.max() - chances
    below = gaps > 0
    bound = (8 * np.log(pulls) / gaps[below]).sum() + (1 + np.pi**2 / 3) * gaps.sum()
    regrets = []
    for seed in range(5):
        arms, draw = Arms(np.eye(4)), np.random.default_rng(seed)
        spent = 0.0
        for _ in range(pulls):
            arm = int(arms.best(np.ones(4, dtype=bool), 1, 1.0)[0])
            arms.learn(arm, float(draw.random() < chances[arm]))
            spent += gaps[arm]
        regrets.append(spent)
    assert np.mean(regrets) <= bound < pulls * gaps.mean(), "and choosing at random costs more than the bound"


def test_neighbours_learn_from_one_another_and_closed_arms_are_not_pulled():
    arms = Arms(np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert arms.best(np.ones(3, dtype=bool), 2, 1.0).tolist() == [0, 1], "never pulled comes first, in order"
    arms.learn(0, 4.0)
    np.testing.assert_allclose(arms.means(), [4.0, 4.0, 0.0])
    np.testing.assert_allclose(arms.pulls, [1.0, 0.5, 0.0])
    assert arms.best(np.array([True, True, False]), 3, 0.0).tolist() == [0, 1]
    with pytest.raises(ShapeError, match="diagonal"):
        Arms(np.zeros((2, 2)))


class Planted:
    """Influences that are given instead of computed; counts what is asked."""

    def __init__(self, truth: np.ndarray, draw: np.random.Generator) -> None:
        self.truth, self.draw, self.known = truth, draw, {}

    def helps(self, lots):
        for place in np.concatenate(lots).tolist():
            self.known[place] = np.array([self.truth[place] + self.draw.normal()])
        return [float(np.mean([self.known[place][0] for place in lot.tolist()])) for lot in lots]

    def own(self, lot):
        return np.array([self.known[k].mean() if k in self.known else np.nan for k in lot.tolist()])

    def deviation(self):
        return float(np.std([row[0] for row in self.known.values()])) if self.known else 0.0


def test_planted_clusters_are_found_and_top_k_with_as_many_gradients_is_not_better():
    """20 clusters of 50, three of which help: what is chosen is better than the best of as many asked at random."""
    member, differences, asked, random = np.repeat(np.arange(20), 50), [], [], []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        means = np.where(np.arange(20) < 3, 1.0, -0.2)[draw.permutation(20)]
        truth = means[member] + 0.3 * draw.normal(size=1000)
        given, arms = Planted(truth, np.random.default_rng([seed, 1])), Arms(np.eye(20))
        chosen, _ = Quad()._choose(_Lots(member, 4, np.random.default_rng([seed, 2])), arms, given, 100)
        assert len(set(chosen.tolist())) == 100
        count = len(given.known)
        order = draw.permutation(1000)
        told = truth[order[:count]] + draw.normal(size=count)
        top = np.concatenate([order[:count][np.argsort(-told)], order[count:]])[:100]
        differences.append(truth[chosen].mean() - truth[top].mean())
        asked.append(count)
        random.append(truth[chosen].mean() - truth.mean())
    gap = paired(np.array(differences))
    assert gap.low > 0 and paired(np.array(random)).low > 0.3
    assert np.mean(asked) < 400, "most are never asked"


def test_without_structure_it_is_not_worse_than_top_k_beyond_noise():
    """Clusters that say nothing: the same number of gradients, spent at random, does not choose better."""
    member, differences = np.repeat(np.arange(10), 30), []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        truth = draw.normal(size=300) * 0.2
        given = Planted(truth, np.random.default_rng([seed, 1]))
        arms = Arms(np.eye(10))
        chosen, _ = Quad()._choose(_Lots(member, 4, np.random.default_rng([seed, 2])), arms, given, 90)
        count = len(given.known)
        order = draw.permutation(300)
        told = truth[order[:count]] + draw.normal(size=count)
        top = np.concatenate([order[:count][np.argsort(-told)], order[count:]])[:90]
        differences.append(truth[chosen].mean() - truth[top].mean())
    assert paired(np.array(differences)).high > 0


def test_the_plan_keeps_the_budget_whatever_the_order_of_rows_and_says_what_was_asked():
    p = language(40)
    quad = Quad(clusters=4, lot=4, probes=2)
    plan = quad(p, 12, 0, in_memory())
    assert plan.action == "keep" and effective(plan.weights_for(p.train)) == 12
    facts = plan.provenance.resolved
    assert (
        0 < facts["asked"] <= 40
        and facts["clusters"] == 4
        and facts["layers"] == ["blocks.0.attend", "blocks.0.mix"]
    )
    turned = Problem(p.learner, p.train.take(np.arange(40)[::-1]), p.query)
    assert set(quad(turned, 12, 0, in_memory()).ids) == set(plan.ids)
    assert any("too few" in note for note in plan.provenance.notes), "five queries cannot agree"


def test_copies_are_one_cluster_and_networks_without_attention_are_told():
    p = small_problem()
    plan = Quad()(p, 10, 0, in_memory())
    assert any("no attention layers" in note for note in plan.provenance.notes)
    same = np.zeros(48, dtype=int)
    copies = Problem(p.learner, read({"input": p.train.column("input")[:][same], "label": p.train.labels()[same],
                                      "id": [f"c{i:02d}" for i in range(48)]}), p.query)  # fmt: skip
    assert len(Quad()(copies, 10, 0, in_memory())) == 10
    with pytest.raises(CapabilityError, match="no layer of this network is called"):
        Quad(layers="attention")(p, 10, 0, in_memory())
    with pytest.raises(SettingError, match="100 clusters of 48"):
        Quad(clusters=100)(p, 10, 0, in_memory())
    with pytest.raises(SettingError, match="probes=0"):
        Quad(probes=0)


def test_lots_that_do_not_help_fill_the_budget_last_and_the_note_says_so():
    truth = np.where(np.arange(40) < 10, 2.0, -2.0)
    given = Planted(truth, np.random.default_rng(0))
    given.draw = type("Silent", (), {"normal": staticmethod(lambda: 0.0)})()
    member = np.repeat(np.arange(4), 10)
    chosen, filled = Quad(probes=4)._choose(
        _Lots(member, 5, np.random.default_rng(0)), Arms(np.eye(4)), given, 20
    )
    assert set(range(10)) <= set(chosen.tolist()) and filled == 10
