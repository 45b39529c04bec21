"""InfICL: demonstrations for a prompt, the most helpful examples of every class (Vinay, Van & Wu 2024).

Source: Vinay M. S., Van & Wu (2024), "In-Context Learning Demonstration Selection via Influence Analysis"; its
abstract and summaries, no code was consulted.
"""

import numpy as np

from steelyard.act.ranking import by_harm, provenance, reasons
from steelyard.errors import DataError, SettingError
from steelyard.records import Examples, Plan, Scores

TEMPLATE = "Input: {text}\nLabel: {label}"


def demonstrate(scores: Scores, pool: Examples, *, per_class: int = 2) -> Plan:
    """Keep the most helpful examples of every class, class after class in turn: the demonstrations of a prompt.

    The order is that of the prompt: the best of each class come last, next to what is asked.

    Args:
        scores: Influence of the pool on validation examples.
        pool: The examples to choose from, with class labels.
        per_class: How many of each.

    Raises:
        DataError: If the scores are about other examples, labels are no classes, or a class has too few examples.
        SettingError: If ``per_class`` is below 1, or would keep everything.
    """
    if per_class < 1:
        raise SettingError(f"demonstrate: per_class={per_class}.", fix="give at least 1.")
    if scores.train_checksum != pool.checksum:
        raise DataError(
            "demonstrate: the scores are about other examples.", fix="give those that were scored."
        )
    labels = pool.labels()
    if labels.dtype.kind == "f":
        raise DataError(
            f"{pool.source}: labels are measured numbers, and a prompt shows some of every class.",
            fix="give class labels: whole numbers or text.",
        )
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < per_class:
        raise DataError(
            f"{pool.source}: class {str(classes[counts.argmin()])!r} has {counts.min()} examples, fewer than "
            f"per_class={per_class}.",
            fix="ask for fewer per class, or add examples.",
        )
    best = by_harm(scores)[::-1]
    turns = [best[labels[best] == value][:per_class] for value in classes]
    rows = np.array([turn[number] for number in reversed(range(per_class)) for turn in turns])
    if len(rows) == len(pool):
        raise SettingError(
            "demonstrate: that is the whole pool.", fix="give a larger pool, or fewer per class."
        )
    return Plan(
        action="keep",
        ids=pool.ids[rows],
        reasons=tuple(
            f"{reason}; class {labels[row]}" for reason, row in zip(reasons(scores, rows), rows, strict=True)
        ),
        train_checksum=pool.checksum,
        provenance=provenance(scores, {"by": "demonstrate", "per_class": per_class}, len(rows)),
    )


def prompt_of(plan: Plan, pool: Examples, *, template: str = TEMPLATE) -> str:
    """The demonstrations as text, in the plan's order, and the place of the question left open.

    Args:
        plan: As :func:`demonstrate` makes it.
        pool: What it chose from; its input columns and ``label`` can be named in the template.
        template: One demonstration; must end with the label.

    Raises:
        SettingError: If the template names a column that there is not, or does not end with the label.
    """
    if not template.endswith("{label}"):
        raise SettingError(
            f"the template {template!r} does not end with {{label}}.", fix="let the answer come last."
        )
    label = np.asarray(pool.labels())
    shots = []
    for row in pool.positions(plan.ids):
        values = {name: str(pool.column(name)[int(row)]) for name in pool.inputs}
        try:
            shots.append(template.format(**values, label=label[row]))
        except (KeyError, IndexError) as error:
            raise SettingError(
                f"the template {template!r} names {error}, which is none of {list(pool.inputs)}.",
                fix="name input columns and label in braces.",
            ) from error
    opened = template.removesuffix("{label}").rstrip(" ")
    return "\n\n".join([*shots, opened])
