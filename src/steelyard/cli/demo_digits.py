"""The loop on scans of handwritten digits, some with a wrong label: find them, repair them, prove it."""

from steelyard import act, flow, report, score, verify
from steelyard.collect.folds import held_out_probabilities
from steelyard.data.sources import digits
from steelyard.flow.ground_truth import FLIPPED, digits_network
from steelyard.records import Report
from steelyard.run import Run


def demo_digits(run: Run, *, seed: int = 0) -> Report:
    """Attribute the test loss of a small network, find flipped labels, and verify by retraining.

    1,000 digits to learn from, of which 5 % have a wrong label, and 150 to ask about. Suspects are ranked by
    self-influence, without a look at the queries or at the truth.

    Cost: 106 fits of a network of 5,018 parameters.

    Args:
        run: Where everything is kept as it is finished.
        seed: Of the split, the flipped labels and the model.
    """
    problem = digits_network(seed)
    flipped = digits(len(problem.train), len(problem.query), flip=FLIPPED, seed=seed).flipped
    asked = score.EKFAC()(problem, run)
    suspicion = score.SelfInfluence()(problem, run)
    names = ("random", "loss", "class_similarity", "embedding_cosine", "grad_dot")
    baselines = [score.by_name(name)(problem, run) for name in names]
    count = len(flipped)
    drop = act.drop(suspicion, count=count)
    relabel = act.relabel(
        suspicion,
        problem.train,
        probabilities=held_out_probabilities(problem, run),
        predicted_by="models that did not see the example",
        count=count,
    )
    pairs = [asked, *(scores for scores in baselines if scores.axis == "pair")]
    evidence = [
        *(verify.lds(problem, scores, subsets=48, run=run) for scores in pairs),
        *(verify.mislabel_auc(scores, flipped) for scores in (asked, suspicion, *baselines)),
        *(verify.by_retraining(problem, plan, seeds=3, run=run) for plan in (drop, relabel)),
    ]
    return report.build(
        asked,
        suspicion,
        *baselines,
        drop,
        relabel,
        *evidence,
        train=problem.train,
        query=flow.with_predictions(problem, run),
        truth={"flipped": flipped.tolist()},
        title=f"Digits: {count} of 1,000 training labels are wrong, and what they did",
    )
