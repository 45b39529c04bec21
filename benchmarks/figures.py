"""Writes figures from ``results/*.json`` into ``benchmarks/README.md`` and ``docs/families``: none is copied by hand.

python -m benchmarks.figures            write them
python -m benchmarks.figures --check    fail if the page shows other figures than the results
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import HERE, RESULTS

PAGE = HERE / "README.md"
FAMILIES = HERE.parent / "docs" / "families"
_START, _END = "<!-- figures: made by benchmarks/figures.py -->", "<!-- end of figures -->"


_METHODS_OF = {
    "influence": (
        "gauss_newton",
        "kfac",
        "ekfac",
        "ekfac_cg",
        "shampoo",
        "tkfac",
        "datainf",
        "cg",
        "lissa",
        "arnoldi",
        "nystrom",
    ),
    "projected": ("trak", "logra", "trackstar", "less", "grass"),
    "through-training": ("tracin", "source", "replay"),
}
"""Pages of ``docs/families`` that show figures, and the methods that they are about."""

_BENCHMARKS_OF = {
    FAMILIES.parent / "which-method.md": ("systems",),
    FAMILIES / "systems.md": ("explained", "demonstrations", "synthesis"),
    FAMILIES / "surrogates.md": ("surrogates",),
}
"""Pages that show the whole of a benchmark."""


def pages() -> dict[Path, str]:
    """Every page that shows figures, with the figures of the results that are there."""
    found = {PAGE: _filled(PAGE, sections())}
    path = RESULTS / "attribution.json"
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        for family, methods in _METHODS_OF.items():
            page = FAMILIES / f"{family}.md"
            found[page] = _filled(page, _family(results, methods))
    for page, names in _BENCHMARKS_OF.items():
        lines: list[str] = []
        for name in names:
            path = RESULTS / f"{name}.json"
            if path.exists():
                facts = json.loads(path.read_text(encoding="utf-8"))
                lines += [
                    f"By `{facts['command']}`; machine and versions stand in `benchmarks/README.md`.",
                    "",
                ]
                lines += [*_SECTIONS[name](facts["results"]), ""]
        if lines:
            found[page] = _filled(page, "\n".join(lines))
    return found


def _filled(page: Path, figures: str) -> str:
    before, start, rest = page.read_text(encoding="utf-8").partition(_START)
    if not start:
        raise ValueError(f"{page}: there is no line {_START!r}")
    _, _, after = rest.partition(_END)
    return f"{before}{_START}\n\n{figures}\n{_END}{after}"


def _family(results: Mapping[str, Any], methods: Sequence[str]) -> str:
    """The lines of ``attribution`` about these methods, with peers of the same name and the baselines."""
    shown = {*methods, "grad_dot", "bm25", "embedding_cosine", "random"}
    lines = [
        "By `python -m benchmarks.attribution --peers`; machine and versions stand in `benchmarks/README.md`.",
        "",
    ]
    for task, facts in results.items():
        rows = [
            (
                r["who"],
                r["method"],
                r["lds"],
                f"{r['low']:.3f} to {r['high']:.3f}",
                r["qld"],
                r["error"],
                r["seconds"],
            )
            for r in facts["lines"]
            if re.split(r"[(, ]", r["method"])[0] in shown
        ]
        lines += [
            f"{task}: {facts['about']}; LDS ceiling {facts['ceiling']:.2f}.",
            "",
            *_table(("who", "method", "LDS", "95 %", "QLD, nats", "±", "seconds"), rows),
            "",
        ]
    return "\n".join(lines)


def sections() -> str:
    """One section per benchmark."""
    parts = []
    for name, write in _SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        machine = facts["machine"]
        head = (
            f"`{facts['command']}` · {facts['date']} · {machine['processor']}, {machine['cores']} cores, "
            f"{facts['threads']} threads, no accelerator · Python {machine['python']}, "
            + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
            + f" · median of {facts['repeats']}"
        )
        parts.append("\n".join([f"### {name}", "", head, "", *write(facts["results"])]))
    return "\n\n".join(parts) + "\n"


def _digits(found: Mapping[str, Any]) -> list[str]:
    return _table(("what", "value"), list(found.items()))


def _ekfac(found: Mapping[str, Any]) -> list[str]:
    floor = found["floor_seconds"]
    rows = [(r["who"], r["method"], r["lds"], r["seconds"], r["seconds"] / floor) for r in found["lds"]]
    agreement = [(r["data"], r["who"], r["pearson"], r["spearman"]) for r in found["softmax"]]
    return [
        f"LDS of the query loss on digits; seeds among themselves reach {found['ceiling']:.2f}.",
        "Seconds from the trained model to the scores; the floor is one bare forward and backward pass, "
        f"{floor * 1000:.1f} ms.",
        "",
        *_table(("who", "method", "LDS", "seconds", "× floor"), rows),
        "",
        found["ahead"],
        "",
        "Agreement of EK-FAC with exact damped Gauss-Newton influence on softmax regression, same damping for all:",
        "",
        *_table(("data", "who", "Pearson", "Spearman"), agreement),
    ]


def _gradients(found: Mapping[str, Any]) -> list[str]:
    ours = found["grad_dot"][0]["seconds"]
    rows = [
        (r["who"], r["method"], r["seconds"], r["seconds"] / ours, r["megabytes"], r["difference"])
        for r in found["grad_dot"]
    ]
    collected = [
        (r["model"], r["parameters"], r["bare_ms"], r["two_sided"], r["dense"], r["factors"])
        for r in found["collection"]
    ]
    return [
        "grad-dot, perceptron 784-128-64-10, 1,000 × 100; the two matrix products per layer alone take "
        f"{found['floor_seconds'] * 1000:.1f} ms:",
        "",
        *_table(("who", "method", "seconds", "× ours", "peak MB", "largest relative difference"), rows),
        "",
        "Collecting projected gradients, as a multiple of one bare forward and backward pass of the same batches:",
        "",
        *_table(("model", "parameters", "bare pass, ms", "two-sided", "dense", "factors alone"), collected),
    ]


def _knn_shapley(found: Mapping[str, Any]) -> list[str]:
    ours = found["pairs"][0]["seconds"]
    rows = [
        (r["who"].partition(" (")[0], r["microseconds_per_pair"], r["seconds"] / ours, r["apart"])
        for r in found["pairs"]
    ]
    large = found["large"]
    peak, matrix = (large[name] / 2**20 for name in ("peak_bytes", "score_matrix_bytes"))
    return [
        *_table(("who", "µs per pair", "× ours", "largest difference"), rows),
        "",
        f"{large['train']:,} × {large['query']:,} takes {large['seconds']:.1f} s and {peak:,.0f} MB at its peak, of "
        f"which {matrix:,.0f} MB are the scores.",
    ]


def _refits(found: Mapping[str, Any]) -> list[str]:
    first = found["networks"][-1]["seconds_per_fit"]
    networks = [
        (r["way"], 1e3 * r["seconds_per_fit"], r["seconds_per_fit"] / first, r["apart"])
        for r in found["networks"]
    ]
    fits = [(r["design"], r["fits"], r["seconds"]) for r in found["fits"]]
    shortcuts = [
        (
            r["estimator"],
            r["design"],
            1e3 * r["loop"],
            1e3 * r["together"],
            r["loop"] / r["together"],
            r["apart"],
        )
        for r in found["shortcuts"]
    ]
    return [
        "Perceptron 64-48-32-10 on digits, 32 networks of 1,000 examples but one, 30 epochs:",
        "",
        *_table(("way", "ms per fit", "× side by side", "largest difference, nats"), networks),
        "",
        "Many of them, all included:",
        "",
        *_table(("each sees", "fits", "seconds"), fits),
        "",
        "Scikit-learn, by a loop of the estimator's own fits and together:",
        "",
        *_table(
            ("estimator", "design", "loop, ms per fit", "together, ms per fit", "×", "largest difference"),
            shortcuts,
        ),
    ]


def _shapley(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (r["utility"], r["who"], r["seconds"], r["times_ours"], r["error"], r["gap"])
        for r in found["permutations"]
    ]
    thousand = [(r["method"], r["learner"], r["fits"], r["seconds"], r["error"]) for r in found["thousand"]]
    return [
        *_table(
            ("utility", "who", "seconds", "× ours", "mean standard error", "gap in standard errors"), rows
        ),
        "",
        f"Values of {found['thousand'][0]['examples']:,} examples for 100 queries:",
        "",
        *_table(("method", "learner", "fits", "seconds", "median standard error"), thousand),
    ]


def _memory(found: Mapping[str, Any]) -> list[str]:
    rows = [tuple(row.values()) for row in found["rows"]]
    return _table(("method", "training examples", "working MB", "score matrix MB", "data MB"), rows)


def _mislabel(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for kind, methods in found.items():
        ranked = sorted(methods.items(), key=lambda item: -item[1]["auroc"])
        rows = [
            (
                name,
                f"{row['auroc']:.4f}",
                "{:.4f} to {:.4f}".format(*row["interval"]),
                row["ap"],
                row["seconds"],
            )
            for name, row in ranked
        ]
        lines += [f"20 % {kind} noise:", ""]
        lines += [*_table(("method", "AUROC", "95 %", "average precision", "seconds"), rows), ""]
    return lines[:-1]


def _store(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            r["number"],
            r["megabytes"],
            r["spearman_mean"],
            r["spearman_least"],
            r["build_in_bare_passes"],
            r["load_seconds"] + r["query_gradients_seconds"] + r["search_seconds"],
            r["gigabytes_per_second_1_query"],
            r["gigabytes_per_second_numpy_sum"],
        )
        for r in found["stores"]
    ]
    head = (
        "numbers",
        "MB",
        "Spearman, mean",
        "least",
        "build, bare passes",
        "10 queries, seconds",
        "GB/s, 1 query",
        "GB/s, NumPy's sum",
    )
    return [
        f"{found['examples']:,} documents, {found['features']:,} features each. Spearman against float32; seconds from "
        "opening the store to the ten best of each query.",
        "",
        *_table(head, rows),
    ]


def _lora(found: Mapping[str, Any]) -> list[str]:
    rows = [tuple(row.values()) for row in found["rows"]]
    return [
        "SmolLM2-135M with LoRA of rank 8, 256 texts × 8 queries; seconds of a pass over the texts, and as a multiple "
        "of a bare forward and backward pass to the adapters over the same batches.",
        "",
        *_table(tuple(found["rows"][0]), rows),
    ]


def _language(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, facts in found.items():
        lines += [
            f"{name}: transformer of {facts['about']}, linear layers only; the floor is one bare forward and backward "
            f"pass over all texts, {facts['floor_seconds'] * 1000:.0f} ms.",
        ]
        for method in ("grad_dot", "ekfac"):
            rows = [tuple(row.values()) for row in facts[method]]
            lines += ["", f"{method}:", "", *_table(tuple(facts[method][0]), rows)]
        for peer in facts.get("stopped", ()):
            lines += ["", f"{peer['who']} {peer['method']} stops: `{peer['error']}`."]
        lines.append("")
    return lines[:-1]


def _through_training(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for recipe, facts in found["deterministic"].items():
        methods = list(next(iter(facts["lds"].values())))
        rows = [(design, *values.values()) for design, values in facts["lds"].items()]
        lines += [
            f"One deterministic training with {recipe}; LDS on retraining with the same seed. Metasmoothness "
            f"{facts['metasmoothness'][0]:.3f}; replay takes {facts['fits per replay of one query']:.1f} fits for one "
            f"query and {facts['fits per further query']:.2f} for each further one.",
            "",
            *_table(("weights", *methods), rows),
            "",
        ]
    rows = [
        (name, *facts["lds"].values(), _ahead(facts["source ahead of ekfac"]), facts["ceiling"])
        for name, facts in found["unrolled"].items()
    ]
    methods = list(next(iter(found["unrolled"].values()))["lds"])
    head = ("training", *methods, "source ahead of ekfac", "ceiling")
    return [*lines, "LDS on random halves, mean over seeds:", "", *_table(head, rows)]


def _ahead(found: Sequence[float]) -> str:
    return f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]"


def _attribution(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for task, facts in found.items():
        rows = [
            (
                r["who"],
                r["method"],
                r["lds"],
                f"{r['low']:.3f} to {r['high']:.3f}",
                r["qld"],
                r["error"],
                r["seconds"],
            )
            for r in facts["lines"]
        ]
        lines += [
            f"{task}: {facts['about']}. Seeds among themselves reach an LDS of {facts['ceiling']:.2f}. QLD: rise of a "
            f"query's loss when its {facts['removed']} highest-ranked examples are left out, less that of random "
            f"examples; {facts['queries']} queries, {facts['seeds']} seeds.",
            "",
            *_table(("who", "method", "LDS", "95 %", "QLD, nats", "±", "seconds"), rows),
            "",
            "Left out: " + "; ".join(f"{name} ({why})" for name, why in facts["left_out"].items()) + ".",
            "",
        ]
    return lines[:-1]


def _trees(found: Mapping[str, Any]) -> list[str]:
    large = [
        (r["method"], r["query"], r["seconds"], r["peak_bytes"] / 2**20, r["process_peak_bytes"] / 2**20)
        for r in found["large"]
    ]
    size = found["large"][0]
    head = ("method", "queries", "seconds", "peak of scoring, MB", "of the process, MB")
    lines = [f"{size['train']:,} training examples, {size['trees']} trees.", "", *_table(head, large), ""]
    if "speed" in found:
        fast, agreeing = found["speed"], [tuple(r.values()) for r in found["agreement"]]
        head = ("library", "task", "rate", "method", "largest score", "largest difference", "correlation")
        lines += [
            "Beside the authors' code. *As theirs* is ours with their choice put in; *before its round* and *at its "
            "optimum* are theirs with a repair ([what differs](../docs/families/trees.md#beside-the-authors-code)).",
            "",
            *_table(head, agreeing),
            "",
            f"LeafInfluence, {fast['train']} examples, {fast['rounds']} trees: {fast['ours']:.2g} s, the authors' code "
            f"{fast['theirs']:.3g} s; largest difference {fast['apart']:.2g}.",
            "",
        ]
    loo = [
        (r["train"], r["rounds"], r["library"], 1000 * r["naive"], 1000 * r["ours"], r["naive"] / r["ours"])
        + (r["naive_cpu"] / r["ours_cpu"], r["apart"])
        for r in found["loo"]
    ]
    head = ("rows", "rounds", "library", "loop, ms a fit", "ours, ms", "times faster", "by processor time")
    lines += ["Leave-one-out beside a loop over copies of the estimator.", ""]
    lines += [*_table((*head, "largest difference"), loo), ""]
    removals = [tuple(r.values()) for r in found["removals"]]
    return lines + _table(("library", "task", "method", "Spearman with leave-one-out", "LDS"), removals)


def _explained(found: Mapping[str, Any]) -> list[str]:
    parts = [*found["plans"].items(), *((f"{name} poisoning", one) for name, one in found["defence"].items())]
    rows: list[tuple[Any, ...]] = []
    for task, systems in parts:
        for name, row in systems.items():
            if "effect" in row:
                low, high = row["interval"]
                rows.append((task, name, f"{row['effect']:+.3f}", _interval(row), _verdict(low, high)))
    draws = [
        len(next(iter(next(iter(found[part].values())).values()))["draws"]) for part in ("plans", "defence")
    ]
    failed = [f"{name} on {task}" + (" (worse)" if "worse" in word else "") for task, name, _, _, word in rows
              if word != "better"]  # fmt: skip
    lines = [
        "Loss of test examples in nats, saved beyond random plans of the same size (hint: beyond random noise and "
        f"beyond doing nothing); mean over {draws[0]} draws, {draws[1]} for poisoning, Student interval at 95 %.",
        "",
        *_table(("task", "system", "nats saved", "95 %", "verdict"), rows),
        "",
        f"What does not beat random: {', '.join(failed) or 'nothing'}.",
        "",
    ]
    for name, one in found["defence"].items():
        seen = {key: value for key, value in one["accuracy"].items() if "attacked" in key}
        lines.append(f"{name}: " + "; ".join(f"{key} {value:.2f}" for key, value in seen.items()) + ".")
    if "recommendations" in found:
        told = [
            (name, one["entries"], one["error"], one["error of the mean"], f"{one['gap of the sums']:.0e}", one["fall"],
             one["fall, random"], f"{one['effect']:+.3f}", _interval(one))
            for name, one in found["recommendations"].items()
        ]  # fmt: skip
        head = ("matrix", "known entries", "error", "error of the mean", "gap of sums", "fall", "fall, random entries",
                "beyond random", "95 %")  # fmt: skip
        lines += [
            "",
            "Recommendations: fall of a held-out prediction when the 20 entries that hold it up most are left out and "
            "the factorisation is fitted again, in the unit of the entries (stars; share of full ink).",
            "",
            *_table(head, told),
        ]
    return lines


def _demonstrations(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            task,
            name,
            f"{row['nats']:.3f}",
            f"{row['accuracy']:.3f}",
            f"{row['effect']:+.3f}" if "effect" in row else "",
            _interval(row) if "interval" in row else "",
            _verdict(*row["interval"]) if "interval" in row else "",
        )
        for task, ways in found.items()
        for name, row in ways.items()
    ]
    head = (
        "task",
        "demonstrations",
        "log-probability of the right word",
        "accuracy",
        "beyond random, nats",
        "95 %",
        "verdict",
    )
    return _table(head, rows)


def _synthesis(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            recipe,
            task,
            " + ".join(str(one["pairs"]) for one in own["rounds"]),
            row["beyond"],
            f"{row['effect']:+.5f}",
            "{:+.5f} to {:+.5f}".format(*row["interval"]),
            _verdict(*row["interval"]),
        )
        for recipe, tasks in found["recipes"].items()
        for task, own in tasks.items()
        for row in own["effects"]
    ]
    failed = [f"{row[0]} on {row[1]}" for row in rows if row[3] == "random pairs" and row[-1] != "better"]
    return [
        "Training on pairs that influence chose: effect beyond other pairs, mean over those of "
        f"{found['seeds']} seeds that gave two pairs or more, Student interval at 95 %. montessori: nats that a step "
        "on what the teacher writes saves the student; dits: chance "
        "of right answers to unseen questions.",
        "",
        *_table(("recipe", "task", "pairs, by seed", "beyond", "effect", "95 %", "verdict"), rows),
        "",
        f"What does not beat random: {', '.join(failed) or 'nothing'}.",
    ]


def _interval(row: Mapping[str, Any]) -> str:
    return "{:+.3f} to {:+.3f}".format(*row["interval"])


def _verdict(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else "not told apart from random"


_VERDICTS = {"confirmed": "beats random", "refuted": "worse than random", "inconclusive": "not told apart"}


def _systems(found: Mapping[str, Any]) -> list[str]:
    terms = found["terms"]
    lines = [
        f"`examples/compare.yaml`: {terms['budget']:.0%} of the training examples may be kept, or "
        f"{terms['changes']:.0%} changed; {terms['seeds']} seeds, {terms['controls']} random plans. Effects are "
        "against random plans, on queries that no system saw; in brackets the 95 % interval; verdicts count the number "
        "of systems (Holm).",
        "",
        found["says"],
        "",
    ]
    for task, facts in found["tasks"].items():
        rows = [row for row in found["rows"] if row["task"] == task]
        shown = sorted((row for row in rows if row["effect"]), key=lambda row: -row["effect"]["estimate"])
        table = [
            (
                row["system"],
                f"{row['effect']['estimate']:.3f} ({row['effect']['low']:.2f} to {row['effect']['high']:.2f})",
                "–" if row["system"] == "random" else _VERDICTS[row["effect"]["verdict"]],
                row["effect"]["measured"],
                row["cost"]["fits"],
                round(row["cost"]["gradients"]),
                row["cost"]["seconds"],
            )
            for row in shown
        ]
        head = (
            "system",
            f"effect, {facts['unit']} (95 %)",
            "verdict",
            "loss",
            "fits",
            "gradients",
            "seconds",
        )
        lines += [f"{task}, {facts['training examples']} training examples:", "", *_table(head, table), ""]
        lines += [
            f"- {row['system']} has no effect here: {row['problem']}" for row in rows if not row["effect"]
        ]
        lines += [""] if any(not row["effect"] for row in rows) else []
    tasks = list(found["tasks"])
    cells: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        if row["role"] == "system":
            word = _VERDICTS[row["effect"]["verdict"]] if row["effect"] else "does not apply"
            cells.setdefault(row["system"], {})[row["task"]] = word
    verdicts = [(name, *(one.get(task, "") for task in tasks)) for name, one in cells.items()]
    told = [(one["method"], _between(one["all"]), _between(one["others"])) for one in found["untrac"]]
    return [
        *lines,
        "In short, what beats random where, and what does not:",
        "",
        *_table(("system", *tasks), verdicts),
        "",
        "Spearman's correlation with real training without a source, over five sources of text, each the target in "
        "turn:",
        "",
        *_table(("method", "all sources (95 %)", "the four others (95 %)"), told),
    ]


def _between(found: Sequence[float]) -> str:
    return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"


def _surrogates(found: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for task, ways in found.items():
        if task in ("store", "groups"):
            continue
        rows = [
            (
                name,
                row["held-out loss"],
                ""
                if row["gain over random"] is None
                else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["gain over random"]),
                "" if row["beats random"] is None else "yes" if row["beats random"] else "no",
                "" if row["agreement with the oracle"] is None else row["agreement with the oracle"],
                row["gradients"],
                row["seconds"],
            )
            for name, row in ways.items()
        ]
        head = (
            "chosen by",
            "held-out loss",
            "gain over random",
            "beats random",
            "agreement",
            "gradients",
            "seconds",
        )
        lines += [f"Task {task}:", "", *_table(head, rows), ""]
    for part in ("store", "groups"):
        head = ("", *next(iter(found[part].values())))
        lines += [*_table(head, [(name, *row.values()) for name, row in found[part].items()]), ""]
    return lines[:-1]


_SECTIONS = {
    "explained": _explained,
    "demonstrations": _demonstrations,
    "synthesis": _synthesis,
    "digits": _digits,
    "passages": _digits,
    "ekfac": _ekfac,
    "gradients": _gradients,
    "knn_shapley": _knn_shapley,
    "refits": _refits,
    "shapley": _shapley,
    "mislabel": _mislabel,
    "memory": _memory,
    "through_training": _through_training,
    "language": _language,
    "lora": _lora,
    "store": _store,
    "attribution": _attribution,
    "trees": _trees,
    "systems": _systems,
    "surrogates": _surrogates,
}


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def main() -> int:
    """Write the pages, or say which are stale."""
    wanted = pages()
    stale = [path for path, text in wanted.items() if path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            shown = path.relative_to(HERE.parent)
            print(f"{shown} shows other figures than benchmarks/results; run python -m benchmarks.figures.")
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(path.relative_to(HERE.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
