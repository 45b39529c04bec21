"""CatBoost's JSON format to a forest: oblivious trees, and other shapes without categorical splits.

Leaf ``l`` of an oblivious tree has bit ``k`` set where the row's value is above the border of split ``k``. Splits on
categories (one-hot, or statistics of the target) are columns of their own behind the numeric ones: a table for such a
model holds there whether the split is true, which CatBoost itself tells (``split_bits``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import ModelError
from steelyard.trees.assembling import Tree, assembled, numbered
from steelyard.trees.forest import NAN_MISSING, Forest, LeafRule
from steelyard.trees.objectives import Objective

_RULES: dict[str, LeafRule] = {"Newton": "newton", "Gradient": "gradient", "Exact": "renewed"}


@dataclass(frozen=True)
class Columns:
    """The columns of the table that the forest reads.

    Attributes:
        numeric: Places of the numeric features among all features.
        bits: Where the truth of each further column can be read: tree and bit.
    """

    numeric: tuple[int, ...]
    bits: tuple[tuple[int, int], ...]


def objective_of(model: Mapping[str, Any], outputs: int) -> Objective:
    """What the model's training minimised.

    Raises:
        ModelError: If it is a ranking or another objective that has no layout here.
    """
    loss = _params(model)["loss_function"]
    name, options = loss["type"], loss.get("params", {})
    kinds: dict[str, tuple[Any, float]] = {
        "RMSE": ("squared", 1.0),
        "MAE": ("absolute", 1.0),
        "Logloss": ("logistic", 1.0),
        "CrossEntropy": ("logistic", 1.0),
        "MultiClassOneVsAll": ("logistic", 1.0),
        "Poisson": ("poisson", 1.0),
        "Quantile": ("quantile", float(options.get("alpha", 0.5))),
        "Huber": ("flat_huber", float(options.get("delta", 1))),
        "Tweedie": ("tweedie", float(options.get("variance_power", 1.5))),
    }
    if name in kinds:
        kind, parameter = kinds[name]
        return Objective(kind, outputs, parameter)
    if name == "MultiClass":
        return Objective("softmax", outputs)
    ranking = " It ranks: its loss belongs to a group, not to an example." * (
        name.startswith(("Yeti", "Pair", "Query", "LambdaMart", "Stochastic"))
    )
    raise ModelError(
        f"CatBoost's loss {name!r} is not supported.{ranking}",
        fix="use RMSE, MAE, Huber, Quantile, Poisson, Tweedie, Logloss, CrossEntropy, MultiClass or "
        "MultiClassOneVsAll.",
    )


def columns_of(model: Mapping[str, Any]) -> Columns:
    """The columns of the table that the forest reads.

    Raises:
        ModelError: If categories are split on in trees that are not oblivious.
    """
    floats = model["features_info"].get("float_features", [])
    numeric = tuple(int(feature["flat_feature_index"]) for feature in floats)
    places: dict[int, tuple[int, int]] = {}
    for number, tree in enumerate(model.get("oblivious_trees", [])):
        for bit, split in enumerate(tree.get("splits") or []):
            if split["split_type"] != "FloatFeature":
                places.setdefault(int(split["split_index"]), (number, bit))
    return Columns(numeric, tuple(places[key] for key in sorted(places)))


def split_bits(columns: Columns, leaf_numbers: Int[np.ndarray, "row tree"]) -> Float[np.ndarray, "row split"]:
    """Whether the splits on categories are true, from CatBoost's own leaf numbers."""
    bits = [(leaf_numbers[:, tree] >> bit) & 1 for tree, bit in columns.bits]
    return np.stack(bits, axis=1).astype(np.float64) if bits else np.zeros((len(leaf_numbers), 0))


def forest_of(model: Mapping[str, Any], objective: Objective, mean_weight: float = 1.0) -> Forest:
    """The forest of a model.

    Args:
        model: The model's JSON.
        objective: What its training minimised.
        mean_weight: Mean weight of the training examples, which CatBoost multiplies ``l2_leaf_reg`` by.

    Raises:
        ModelError: If categories are split on in trees that are not oblivious, or the model shrinks as it grows.
    """
    params = _params(model)
    boosting, leaves = params["boosting_options"], params["tree_learner_options"]
    if float(boosting.get("model_shrink_rate", 0)) > 0 or boosting.get("posterior_sampling"):
        raise ModelError(
            "CatBoost's model_shrink_rate (langevin, posterior_sampling) is not supported: trees change after they "
            "are grown.",
            fix="train with model_shrink_rate=0.",
        )
    scale, bias = model["scale_and_bias"]
    facts = _Facts(
        rate=float(boosting["learning_rate"]),
        l2=mean_weight * float(leaves["l2_leaf_reg"]),
        outputs=objective.outputs,
        scale=float(scale),
        columns=_split_columns(model),
        missing_left=[
            feature["nan_value_treatment"] != "AsTrue"
            for feature in model["features_info"].get("float_features", [])
        ],
    )
    read = _oblivious if "oblivious_trees" in model else _any_shape
    trees = model["oblivious_trees"] if "oblivious_trees" in model else model["trees"]
    method = leaves["leaf_estimation_method"]
    rule = _RULES.get(method, "unknown")
    if objective.kind == "softmax" and rule == "newton":
        rule = "newton matrix"
    bootstrap = leaves.get("bootstrap", {})
    return assembled(
        [tree for number, content in enumerate(trees) for tree in read(content, number, facts)],
        base=np.resize(np.array(bias, dtype=np.float64), objective.outputs),
        objective=objective,
        l1=0.0,
        max_delta_step=0.0,
        leaf_rule=rule,
        leaf_steps=int(leaves["leaf_estimation_iterations"]),
        cover_kind="weight",
        single=True,
        # Rows are drawn for the shape of a tree only; its leaves are estimated on all of them.
        row_share=float(bootstrap.get("subsample", 1)) if bootstrap.get("type") != "No" else 1.0,
        column_share=float(leaves.get("rsm", 1)),
        library="CatBoost",
    )


@dataclass(frozen=True)
class _Facts:
    rate: float
    l2: float
    outputs: int
    scale: float
    columns: Mapping[int, int]
    missing_left: Sequence[bool]


def _params(model: Mapping[str, Any]) -> Mapping[str, Any]:
    params = model["model_info"]["params"]
    return json.loads(params) if isinstance(params, str) else params


def _split_columns(model: Mapping[str, Any]) -> dict[int, int]:
    """The column of every split on categories, by its number."""
    floats = len(model["features_info"].get("float_features", []))
    numbers = {
        int(split["split_index"])
        for tree in model.get("oblivious_trees", [])
        for split in tree.get("splits") or []
        if split["split_type"] != "FloatFeature"
    }
    return {number: floats + k for k, number in enumerate(sorted(numbers))}


def _split(split: Mapping[str, Any], facts: _Facts) -> tuple[int, float, bool]:
    """Column, border (true above it) and whether missing values are below."""
    if split["split_type"] == "FloatFeature":
        feature = int(split["float_feature_index"])
        return feature, float(np.float32(split["border"])), facts.missing_left[feature]
    return facts.columns[int(split["split_index"])], 0.5, True


def _oblivious(content: Mapping[str, Any], number: int, facts: _Facts) -> list[Tree]:
    splits = [_split(split, facts) for split in content.get("splits") or []]
    depth = len(splits)
    inner = 2**depth - 1
    nodes = np.arange(2 * inner + 1)
    level = np.floor(np.log2(nodes + 1)).astype(np.int64)
    # The root asks the last split, the highest bit: leaves then stand in the order of their numbers.
    asked = [splits[depth - 1 - k] for k in range(depth)]
    column, border, below = (np.array([one[part] for one in asked] + [0]) for part in range(3))
    ends = level == depth
    structure: dict[str, Any] = {
        "feature": np.where(ends, -1, column[level]),
        "threshold": np.where(ends, 0.0, border[level]),
        "left": np.where(ends, -1, 2 * nodes + 1),
        "right": np.where(ends, -1, 2 * nodes + 2),
        "missing_left": below[level].astype(bool),
        "leaf": numbered(np.where(ends, -1, 0)),
    }
    values = np.array(content["leaf_values"], dtype=np.float64).reshape(-1, facts.outputs)
    return _outputs(structure, values, np.array(content["leaf_weights"], dtype=np.float64), number, facts)


def _any_shape(content: Mapping[str, Any], number: int, facts: _Facts) -> list[Tree]:
    nodes: list[tuple[int, float, bool, int, int]] = []
    values: list[Any] = []
    covers: list[float] = []

    def visit(node: Mapping[str, Any]) -> int:
        place = len(nodes)
        if "split" not in node:
            nodes.append((-1, 0.0, False, -1, -1))
            values.append(node["value"])
            covers.append(float(node["weight"]))
            return place
        if node["split"]["split_type"] != "FloatFeature":
            raise ModelError(
                "CatBoost's splits on categories are supported in oblivious trees only.",
                fix="train with grow_policy='SymmetricTree'.",
            )
        column, border, below = _split(node["split"], facts)
        nodes.append((column, border, below, -1, -1))
        left, right = visit(node["left"]), visit(node["right"])
        nodes[place] = (column, border, below, left, right)
        return place

    visit(content)
    feature, threshold, below, left, right = (np.array(part) for part in zip(*nodes, strict=True))
    structure: dict[str, Any] = {
        "feature": feature,
        "threshold": threshold,
        "left": left,
        "right": right,
        "missing_left": below.astype(bool),
        "leaf": numbered(left),
    }
    return _outputs(
        structure,
        np.array(values, dtype=np.float64).reshape(-1, facts.outputs),
        np.array(covers),
        number,
        facts,
    )


def _outputs(
    structure: Mapping[str, Any], values: np.ndarray, covers: np.ndarray, number: int, facts: _Facts
) -> list[Tree]:
    """One tree per output, all of the same shape."""
    nodes = len(structure["feature"])
    return [
        Tree(
            **structure,
            missing=np.full(nodes, NAN_MISSING),
            category=np.full(nodes, -1),
            values=facts.scale * values[:, output],
            covers=covers,
            l2=np.full(len(values), facts.l2),
            output=output,
            round=number,
            shrinkage=facts.rate,
        )
        for output in range(facts.outputs)
    ]
