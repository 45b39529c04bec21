"""XGBoost's JSON format, releases 2 and 3, to a forest.

XGBoost compares ``value < threshold`` in single precision; the layout ``value <= the next smaller float32``. At a split
on categories, those listed go right and all others left.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logit

from steelyard.errors import ModelError
from steelyard.trees.assembling import Tree, assembled, numbered
from steelyard.trees.forest import NAN_MISSING, Forest
from steelyard.trees.objectives import Custom, Objective

_NEWEST = 3
_ALIKE = 1e-4
_LOGISTIC = ("binary:logistic", "binary:logitraw", "reg:logistic")
_EXPONENTIAL = {"count:poisson": "poisson", "reg:gamma": "gamma", "reg:tweedie": "tweedie"}


def objective_of(
    learner: Mapping[str, Any], parameters: Mapping[str, Any], custom: Custom | None = None
) -> Objective:
    """What the model's training minimised.

    Args:
        learner: The part ``learner`` of the model's JSON.
        parameters: The training parameters by name.
        custom: The user's own objective.

    Raises:
        ModelError: If it is a ranking, survival or another objective that has no layout here.
    """
    name = learner["objective"]["name"]
    outputs = max(1, int(learner["learner_model_param"]["num_class"]))
    if custom is not None:
        return Objective("custom", outputs, functions=custom)
    options = {
        key: value
        for part in learner["objective"].values()
        if isinstance(part, dict)
        for key, value in part.items()
    }
    level = str(options.get("quantile_alpha", parameters.get("quantile_alpha", "0.5"))).strip("[]() ")
    several = int(learner["learner_model_param"].get("num_target", "1")) > 1
    if several or (name == "reg:quantileerror" and "," in level):
        raise ModelError(
            "XGBoost models of several targets are not supported.", fix="train one model per target."
        )
    if name in ("multi:softmax", "multi:softprob"):
        return Objective("softmax", outputs, scale=2.0)
    if name == "count:poisson":
        return Objective("poisson", scale=float(np.exp(float(options.get("max_delta_step", 0.7)))))
    simple: dict[str, tuple[Any, Any]] = {
        **dict.fromkeys(_LOGISTIC, ("logistic", 1)),
        "reg:squarederror": ("squared", 1),
        "reg:absoluteerror": ("absolute", 1),
        "reg:gamma": ("gamma", 1),
        "reg:tweedie": ("tweedie", options.get("tweedie_variance_power", 1.5)),
        "reg:pseudohubererror": ("pseudo_huber", options.get("huber_slope", 1)),
        "reg:quantileerror": ("quantile", level),
    }
    if name in simple:
        return Objective(simple[name][0], parameter=float(simple[name][1]))
    ranking = " It ranks: its loss belongs to a group, not to an example." * name.startswith("rank:")
    raise ModelError(
        f"XGBoost's objective {name!r} is not supported.{ranking}",
        fix="use reg:squarederror, absoluteerror, pseudohubererror, quantileerror, gamma or tweedie, count:poisson, "
        "binary:logistic or multi:softprob.",
    )


def check_version(model: Mapping[str, Any], place: str) -> None:
    """Refuse models of a release that is not known.

    Raises:
        ModelError: If the model was written by a newer major release.
    """
    version = [int(part) for part in model["version"]]
    if version[0] > _NEWEST:
        raise ModelError(
            f"{place} was written by XGBoost {'.'.join(map(str, version))}; releases up to {_NEWEST} are known.",
            fix="upgrade steelyard, or save the model with XGBoost 3.",
        )


def forest_of(
    model: Mapping[str, Any], parameters: Mapping[str, Any], objective: Objective, rounds: int | None = None
) -> Forest:
    """The forest of a model.

    Args:
        model: The model's JSON.
        parameters: The training parameters by name, with defaults filled in.
        objective: What the training minimised.
        rounds: Keep so many rounds; all if None.

    Raises:
        ModelError: For dart, linear boosters, random forests and trees of several outputs.
    """
    learner = model["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise ModelError(
            f"XGBoost's booster {booster['name']!r} is not supported: it is no sum of trees, each grown at the sum of "
            "those before.",
            fix="train with booster='gbtree', or use leave_one_out.",
        )
    content = booster["model"]
    if int(content["gbtree_model_param"].get("num_parallel_tree", 1)) > 1:
        raise ModelError(
            "XGBoost's random forests (num_parallel_tree above 1) are not supported.",
            fix="train with num_parallel_tree=1.",
        )
    if _several_outputs(content["trees"]):
        raise ModelError(
            "XGBoost's trees of several outputs are not supported.",
            fix="train with multi_strategy='one_output_per_tree'.",
        )
    rate, l2 = float(parameters.get("eta", 0.3)), float(parameters.get("lambda", 1))
    trees = [
        _tree(tree, int(output), k // objective.outputs, rate, l2)
        for k, (tree, output) in enumerate(zip(content["trees"], content["tree_info"], strict=True))
        if rounds is None or k // objective.outputs < rounds
    ]
    step = float(parameters.get("max_delta_step", 0))
    if objective.kind == "poisson" and step == 0.0:
        step = 0.7  # what XGBoost sets for count:poisson
    shares = [float(parameters.get(f"colsample_by{part}", 1)) for part in ("tree", "level", "node")]
    constrained = any(
        part.strip("() ") not in ("", "0")
        for part in str(parameters.get("monotone_constraints", "")).split(",")
    )
    renewed = objective.kind in ("absolute", "quantile")
    return assembled(
        trees,
        base=_start(learner, objective),
        objective=objective,
        l1=float(parameters.get("alpha", 0)),
        max_delta_step=step,
        leaf_rule="renewed" if renewed else "unknown" if constrained else "newton",
        leaf_steps=1,
        cover_kind="hessian",
        single=True,
        row_share=float(parameters.get("subsample", 1)),
        column_share=min(shares),
        library=f"XGBoost {'.'.join(str(part) for part in model['version'])}",
    )


def penalties_of(model: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, float]:
    """Learning rate and L2, read off the trees, which a saved model says nothing else about.

    An inner node keeps its unshrunk weight w and its sum of Hessians H, a leaf its value v = eta w. As gradients add
    up, ``w (H + l2) = sum over both children``, linear in 1 / eta, l2 / eta and l2: least squares over all inner nodes.

    Returns:
        ``eta`` and ``lambda``; nothing where the trees do not have this form within single precision (L1, a largest
        step, constraints, renewed leaves), so that the parameters as given stand.
    """
    rows, known = [], []
    trees = model["learner"]["gradient_booster"].get("model", {}).get("trees", [])
    if _several_outputs(trees):
        return {}
    for tree in trees:
        left, right = (np.array(tree[f"{side}_children"], dtype=np.int64) for side in ("left", "right"))
        weight, second = (np.array(tree[name], dtype=np.float64) for name in ("base_weights", "sum_hessian"))
        # Inner nodes hold thresholds there, which are NaN at splits on categories in release 2.
        value = np.where(left < 0, np.array(tree["split_conditions"], dtype=np.float64), 0.0)
        inner = np.flatnonzero(left >= 0)
        ends = np.stack([left[inner], right[inner]], axis=1)
        is_leaf = left[ends] < 0
        known.append(weight[inner] * second[inner] - ((weight * second)[ends] * ~is_leaf).sum(axis=1))
        columns = (
            ((value * second)[ends] * is_leaf).sum(axis=1),
            (value[ends] * is_leaf).sum(axis=1),
            (weight[ends] * ~is_leaf).sum(axis=1) - weight[inner],
        )
        rows.append(np.stack(columns, axis=1))
    if not rows or not sum(len(part) for part in rows) > len(rows[0].T):
        return {}
    table, right_side = np.concatenate(rows), np.concatenate(known)
    (slope, product, l2), *_ = np.linalg.lstsq(table, right_side, rcond=None)
    misfit = np.abs(table @ np.array([slope, product, l2]) - right_side).max()
    scale = np.abs(table[:, 0] * slope).max()
    if not (
        slope > 0 and misfit <= _ALIKE * scale and abs(product - l2 * slope) <= 0.01 * (1 + abs(product))
    ):
        return {}
    given = {name: float(parameters.get(name, usual)) for name, usual in (("eta", 0.3), ("lambda", 1.0))}
    found = {"eta": float(1 / slope), "lambda": max(0.0, float(l2))}
    return {
        name: given[name] if np.isclose(given[name], found[name], rtol=1e-3, atol=1e-3) else found[name]
        for name in found
    }


def category_names(model: Mapping[str, Any]) -> list[list[Any] | None]:
    """The names of every column's categories in the order of their codes; None where the model has none.

    XGBoost keeps them since 3.1; before, codes are all that there is.
    """
    found = model["learner"]["gradient_booster"].get("model", {}).get("cats", {}).get("enc", [])
    return [_names(column) for column in found]


def _several_outputs(trees: Sequence[Mapping[str, Any]]) -> bool:
    return any(int(tree["tree_param"].get("size_leaf_vector", 1)) > 1 for tree in trees)


def _names(column: Mapping[str, Any]) -> list[Any] | None:
    offsets, values = column.get("offsets"), column.get("values", [])
    if offsets is None:
        return list(values) or None  # categories that are numbers
    text = np.array(values, dtype=np.int16).astype(np.uint8).tobytes()
    return [text[a:b].decode() for a, b in zip(offsets, offsets[1:], strict=False)] or None


def _start(learner: Mapping[str, Any], objective: Objective) -> Float[np.ndarray, " output"]:
    text = str(learner["learner_model_param"]["base_score"]).strip("[]")
    given = np.array([float(part) for part in text.split(",")], dtype=np.float32).astype(np.float64)
    start = np.resize(given, objective.outputs)
    name = learner["objective"]["name"]
    if name in _LOGISTIC and name != "binary:logitraw":
        return np.asarray(logit(start))
    return np.log(start) if name in _EXPONENTIAL else start


def _tree(tree: Mapping[str, Any], output: int, number: int, rate: float, l2: float) -> Tree:
    left, right = (np.array(tree[f"{side}_children"], dtype=np.int64) for side in ("left", "right"))
    conditions = np.array(tree["split_conditions"], dtype=np.float32)
    leaf = numbered(left)
    ends = leaf >= 0
    category, sets = np.full(len(left), -1), []
    starts, sizes = tree["categories_segments"], tree["categories_sizes"]
    for k, node in enumerate(tree["categories_nodes"]):
        listed = np.array(tree["categories"][starts[k] : starts[k] + sizes[k]], dtype=np.int64)
        goes_left = np.ones(int(listed.max(initial=-1)) + 2, dtype=bool)
        goes_left[listed] = False
        category[node] = len(sets)
        sets.append(goes_left)
    return Tree(
        feature=np.where(ends, -1, np.array(tree["split_indices"], dtype=np.int64)),
        threshold=np.nextafter(conditions, np.float32(-np.inf)),
        left=left,
        right=right,
        missing=np.full(len(left), NAN_MISSING),
        missing_left=np.array(tree["default_left"], dtype=bool),
        category=category,
        leaf=leaf,
        values=conditions[ends].astype(np.float64),
        covers=np.array(tree["sum_hessian"], dtype=np.float64)[ends],
        l2=np.full(int(ends.sum()), l2),
        output=output,
        round=number,
        shrinkage=rate,
        sets=sets,
    )
