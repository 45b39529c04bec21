"""The loop on text: a language model trained from scratch, and the passages that taught it."""

from steelyard import flow, report, score, verify
from steelyard.flow.ground_truth import passages
from steelyard.records import Report
from steelyard.run import Run


def demo_text(run: Run, *, seed: int = 0) -> Report:
    """Attribute what a language model says about held-out passages to the passages that it learned from.

    600 passages of Python's own reference, each on one of 79 topics that the model is not told, and 40 others
    to ask about. The topic is a natural ground truth: proponents should be about the same thing.

    Cost: 33 fits of a transformer of some 48,000 parameters.

    Args:
        run: Where everything is kept as it is finished.
        seed: Of the split and the model.
    """
    problem = passages(seed)
    asked = score.EKFAC()(problem, run)
    baselines = [score.by_name(name)(problem, run) for name in ("random", "loss", "grad_cos", "bm25")]
    pairs = [asked, *(scores for scores in baselines if scores.axis == "pair")]
    evidence = [
        *(verify.agreement(problem, scores, column="topic") for scores in pairs),
        *(verify.lds(problem, scores, subsets=32, run=run) for scores in pairs),
    ]
    return report.build(
        asked,
        *baselines,
        *evidence,
        train=problem.train,
        query=flow.with_predictions(problem, run),
        title="Python's reference: which passages taught a language model its topics",
    )
