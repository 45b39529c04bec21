"""Reports as they come out of real runs, small enough for tests: pictures, texts, table rows."""

from dataclasses import replace

import numpy as np

from steelyard.records import Cost, Evidence, Examples, Measurement, Plan, Provenance, Report, Scores
from steelyard.report import annotate, build

LOSS = Measurement("loss", "nats", lower_is_better=True)
EKFAC = "EKFAC(damping='auto', factors=None)"


def examples(columns, *, inputs, label, prefix):
    ids = np.array([f"{prefix}-{i:04}" for i in range(len(next(iter(columns.values()))))])
    return Examples(ids, columns, inputs=inputs, label=label, checksum=f"checksum of {prefix}", source=prefix)


def scores(values, train, query, *, method=EKFAC, unit="nats", **rest):
    provenance = Provenance(
        given={"method": method},
        resolved={"damping": "0.0031 (0.1 of the mean eigenvalue)"},
        versions={"python": "3.11.9", "steelyard": "0.1.0", "numpy": "2.0.0"},
        seeds={"model": 0},
        checksums={"train": "8f" * 32, "query": "21" * 32},
        cost=Cost(gradients=3300, fits=1, seconds=4.2, peak_bytes=180 * 2**20),
        predicted=Cost(gradients=3300, fits=1),
    )
    query_ids = query.ids if values.shape[1] == len(query) else np.array(["all queries"])
    return Scores(
        values,
        train.ids,
        query_ids,
        method,
        unit,
        LOSS,
        train_checksum=train.checksum,
        provenance=provenance,
        **rest,
    )


def retraining(plan, *, estimate=0.012, spread=0.004, seeds=5, controls=8, verdict="confirmed"):
    rng = np.random.default_rng(0)
    arms = ["full", "plan", *(f"random {k + 1}" for k in range(controls))]
    gains = np.concatenate(
        [
            np.zeros((1, seeds)),
            rng.normal(estimate, 0.002, (1, seeds)),
            rng.normal(0, spread, (controls, seeds)),
        ]
    )
    return Evidence(
        metric="retraining",
        subject=f"plan to {plan.action} {len(plan)} of 400 training examples",
        estimate=estimate,
        interval=(estimate - 0.009, estimate + 0.009),
        level=0.95,
        unit="nats",
        better="higher",
        control={"estimate": 0.0, "low": -0.009, "high": 0.009, "plan_against_full": 0.0118},
        p_value=0.0004,
        verdict=verdict,
        power=f"With {seeds} seeds and {controls} random plans this design sees effects above 0.0071 at 80 % power.",
        table={
            "arm": [arm for arm in arms for _ in range(seeds)],
            "seed": list(range(seeds)) * len(arms),
            "measurement": (0.31 - gains).ravel().tolist(),
            "improvement": gains.ravel().tolist(),
        },
        provenance=Provenance(given={"by": "by_retraining"}, cost=Cost(fits=50, seconds=21.0)),
    )


def lds(method, estimate, *, verdict="confirmed"):
    return Evidence(
        metric="lds",
        subject=method,
        estimate=estimate,
        interval=(estimate - 0.04, estimate + 0.04),
        level=0.95,
        unit="correlation",
        better="higher",
        control={"estimate": 0.002, "low": -0.03, "high": 0.03},
        p_value=0.001,
        verdict=verdict,
        power="With 64 subsets this design sees correlations above 0.04 at 80 % power.",
        table={"query_id": ["query-0000", "query-0001"], "correlation": [estimate, None]},
        provenance=Provenance(given={"by": "lds"}, cost=Cost(fits=64, seconds=31.0), predicted=Cost(fits=64)),
    )


def removal(method):
    return Evidence(
        metric="removal_curve",
        subject=method,
        estimate=0.031,
        interval=(0.012, 0.05),
        level=0.95,
        unit="nats",
        better="higher",
        control={"estimate": 0.0, "low": -0.019, "high": 0.019},
        p_value=0.003,
        verdict="confirmed",
        power="",
        table={
            "fraction": [0.01, 0.02, 0.05, 0.1],
            "removed": [4, 8, 20, 40],
            "harmful": [0.004, 0.009, 0.014, 0.011],
            "helpful": [-0.006, -0.013, -0.03, -0.07],
            "random": [0.0, -0.001, -0.002, -0.005],
            "random_low": [-0.003, -0.005, -0.008, -0.014],
            "random_high": [0.003, 0.003, 0.004, 0.004],
        },
    )


def calibration(method, slope=0.82, interval=(0.64, 1.0)):
    rng = np.random.default_rng(1)
    predicted = rng.normal(0, 0.02, 24)
    return Evidence(
        metric="calibration",
        subject=method,
        estimate=slope,
        interval=interval,
        level=0.95,
        unit="slope",
        better="higher",
        control={"estimate": 0.0, "low": -0.18, "high": 0.18, "intercept": 0.001},
        p_value=0.0001,
        verdict="confirmed",
        power="",
        table={
            "group": list(range(24)),
            "predicted": predicted.tolist(),
            "measured": (slope * predicted + rng.normal(0, 0.005, 24)).tolist(),
        },
    )


def digits(*, train=400, query=30, flip=20, seed=0):
    """Softmax regression on scikit-learn's digits: gradient dot products, wrong labels known."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    pixels, label = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(label))[: train + query]
    x, y = pixels[order], label[order].copy()
    flipped = np.arange(0, train, train // flip)[:flip]
    y[flipped] = (y[flipped] + 1 + flipped % 9) % 10
    fitted = LogisticRegression(C=0.01, max_iter=400).fit(x[:train] / 16, y[:train])
    probabilities = fitted.predict_proba(x / 16)
    loss = -np.log(probabilities[np.arange(len(y)), y])
    gradients = probabilities.copy()
    gradients[np.arange(len(y)), y] -= 1
    values = (gradients[:train] @ gradients[train:].T) * ((x[:train] / 16) @ (x[train:].T / 16) + 1) / train
    predicted = probabilities.argmax(axis=1)
    trains = examples(
        {"input": x[:train], "label": y[:train]}, inputs=("input",), label="label", prefix="digit"
    )
    queries = examples(
        {"input": x[train:], "label": y[train:]}, inputs=("input",), label="label", prefix="query"
    )
    return (
        annotate(trains, predicted=predicted[:train]),
        annotate(queries, measured=loss[train:], predicted=predicted[train:]),
        values.astype(np.float32),
        trains.ids[flipped],
    )


def digits_report() -> Report:
    train, query, values, flipped = digits()
    asked = scores(values, train, query)
    same = (np.asarray(train.labels())[:, None] == np.asarray(query.labels())[None, :]).astype(np.float32)
    alike = scores(same, train, query, method="ClassSimilarity()", unit="rank")
    chance = scores(
        np.random.default_rng(3).standard_normal(values.shape),
        train,
        query,
        method="Random(seed=0)",
        unit="rank",
    )
    worst = np.argsort(asked.per_example(), kind="stable")[:30]
    reasons = tuple(
        f"raises the loss of 30 queries by {0.01:.4g} nats on average; rank {i + 1}" for i in range(30)
    )
    plan = Plan("drop", train.ids[worst], reasons, train.checksum)
    believed, given = np.asarray(train.column("predicted")[:]), train.labels()
    wrong = worst[believed[worst] != given[worst]][:10]
    relabel = Plan(
        "relabel",
        train.ids[wrong],
        reasons[: len(wrong)],
        train.checksum,
        labels=believed[wrong],
        previous=given[wrong],
    )
    evidence = [
        retraining(plan),
        lds(EKFAC, 0.47),
        lds("ClassSimilarity()", 0.21),
        lds("Random(seed=0)", 0.001, verdict="refuted"),
        removal(EKFAC),
        calibration(EKFAC),
    ]
    return build(
        [asked, alike, chance], plan, relabel, *evidence, train=train, query=query, truth={"flipped": flipped}
    )


TOPICS = ("assignment", "while", "lambda", "exceptions", "slicings")
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'><svg onload=alert(1)>",
    "</textarea></style><b>bold</b>{{ 7*7 }}{% raw %}",
    "\x1b[31mred\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \u202etxt.exe\u2066 \u200b\ufeff\udfff",
    "[bold red]markup[/] [link=http://evil.example]x[/link]",
    "javascript:alert(1)",
)


def text_report(hostile: bool = False) -> Report:
    """Prompts and completions, some of them hostile."""
    rng = np.random.default_rng(0)
    words = (
        *(
            "the",
            "statement",
            "is",
            "executed",
            "by",
            "evaluating",
            "its",
            "expression",
            "list",
            "and",
            "then",
        ),
        *("binding", "names", "in", "order"),
    )

    def passage(i, length):
        body = " ".join(rng.choice(words, length))
        return f"{HOSTILE[i % len(HOSTILE)]} {body}" if hostile else body

    def some(count, prefix):
        prompts = [f"What does {TOPICS[i % 5]} mean? {passage(i, 6)}" for i in range(count)]
        answers = [passage(i, 90 if i % 2 else 20) for i in range(count)]
        topic = [HOSTILE[i % len(HOSTILE)] if hostile else TOPICS[i % 5] for i in range(count)]
        columns = {"prompt": np.array(prompts, object), "completion": np.array(answers, object)}
        columns["topic"] = np.array(topic, object)
        made = examples(columns, inputs=("prompt", "completion"), label="topic", prefix=prefix)
        if hostile:
            made = replace(
                made, ids=np.array([f"{HOSTILE[i % len(HOSTILE)]}{i}" for i in range(count)], dtype=str)
            )
        return made

    train, query = some(60, "passage"), some(8, "held-out")
    values = rng.standard_normal((60, 8)) * 0.01
    asked = scores(
        values, train, query, method="<b>TRAK</b>(x='\x1b[2J')" if hostile else "TRAK(checkpoints=5)"
    )
    worst = np.argsort(values.mean(axis=1))[:6]
    reasons = tuple(HOSTILE[i % len(HOSTILE)] if hostile else "raises the loss" for i in range(6))
    plan = Plan("drop", train.ids[worst], reasons, train.checksum)
    proof = lds(asked.method, 0.08, verdict="inconclusive")
    truth = {HOSTILE[1] if hostile else "near copies": train.ids[:5]}
    return build(
        [asked], plan, proof, train=train, query=query, truth=truth, title=HOSTILE[0] if hostile else ""
    )


def table_report() -> Report:
    """Rows of a table with numbers and words; scores per example."""
    rng = np.random.default_rng(0)

    def some(count, prefix):
        columns = {
            "age": rng.integers(18, 90, count),
            "income": rng.lognormal(10, 1, count),
            "city": rng.choice(["Lyon", "Oslo", "Porto"], count),
            "owner": rng.random(count) < 0.5,
        }
        columns["default"] = rng.integers(0, 2, count)
        return examples(columns, inputs=("age", "income", "city", "owner"), label="default", prefix=prefix)

    train, query = some(80, "row"), some(5, "case")
    values = rng.standard_normal((80, 5))
    return build(scores(values, train, query, method="GradDot()"), train=train, query=query)
