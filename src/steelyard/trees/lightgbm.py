"""LightGBM's text format, version v4 (and v3), to a forest.

Values are those of the file, 17 digits. Two things are not in it as such. The raw score before the first tree lies
inside the first round's leaves and is taken out again; leaves below a split on many categories are penalised by
``cat_l2`` on top of ``lambda_l2``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logit

from steelyard.errors import ModelError
from steelyard.trees.assembling import Tree, assembled
from steelyard.trees.forest import NAN_MISSING, Forest
from steelyard.trees.objectives import Custom, Objective

_VERSIONS = ("v3", "v4")
_EPSILON = 1e-15


@dataclass(frozen=True, eq=False)
class Text:
    """A model file taken apart.

    Attributes:
        header: Its first lines by name.
        trees: Its trees, each a mapping of names to text.
        parameters: The training parameters by name; empty if the file has none.
        pandas_categorical: Categories of the frame's categorical columns, in the order of their codes; None if there
            was no frame.
    """

    header: Mapping[str, str]
    trees: tuple[Mapping[str, str], ...]
    parameters: Mapping[str, str]
    pandas_categorical: list[list[Any]] | None


def parsed(text: str, place: str = "the LightGBM model") -> Text:
    """A model file taken apart.

    Raises:
        ModelError: If it is none, or of a version that is not known.
    """
    head, _, rest = text.partition("\nTree=")
    header = dict(line.split("=", 1) for line in head.splitlines() if "=" in line)
    if not text.startswith("tree") or "num_class" not in header:
        raise ModelError(f"{place} is not in LightGBM's text format.", fix="save it with Booster.save_model.")
    if header.get("version") not in _VERSIONS:
        raise ModelError(
            f"{place} has version {header.get('version')!r} of LightGBM's format; {' and '.join(_VERSIONS)} are known.",
            fix="upgrade steelyard, or save the model with a LightGBM that writes v4.",
        )
    body, _, tail = rest.partition("\nend of trees")
    trees = () if not rest else tuple(map(_entries, f"0={body}".split("\nTree=")))
    inside = tail.partition("\nparameters:\n")[2].partition("\nend of parameters")[0]
    pairs = (line.strip("[]").split(": ", 1) for line in inside.splitlines() if line.startswith("["))
    frame = tail.partition("\npandas_categorical:")[2].strip()
    parameters = {pair[0].rstrip(":"): pair[1] if len(pair) == 2 else "" for pair in pairs}
    return Text(header, trees, parameters, json.loads(frame) if frame else None)


def objective_of(text: Text, custom: Custom | None = None) -> Objective:
    """What the model's training minimised.

    Raises:
        ModelError: If it is a ranking or another objective that has no layout here, or a custom one not given.
    """
    name, *options = text.header.get("objective", "custom").split(" ")
    given = dict(option.split(":", 1) for option in options if ":" in option)
    count = int(text.header["num_tree_per_iteration"])
    if custom is not None:
        return Objective("custom", count, functions=custom)
    if "sqrt" in options:
        raise ModelError(
            "LightGBM's reg_sqrt is not supported.", fix="train on the square root of the target."
        )
    sigmoid = float(given.get("sigmoid", 1))
    simple: dict[str, tuple[Any, float]] = {
        "regression": ("squared", 1.0),
        "regression_l1": ("absolute", 1.0),
        "huber": ("huber", float(text.parameters.get("alpha", 0.9))),
        "quantile": ("quantile", float(text.parameters.get("alpha", 0.9))),
        "gamma": ("gamma", 1.0),
        "tweedie": ("tweedie", float(text.parameters.get("tweedie_variance_power", 1.5))),
        "binary": ("logistic", sigmoid),
        "multiclassova": ("logistic", sigmoid),
        "cross_entropy": ("logistic", 1.0),
    }
    if name in simple:
        kind, parameter = simple[name]
        return Objective(kind, count, parameter)
    if name == "poisson":
        return Objective(
            "poisson", scale=float(np.exp(float(text.parameters.get("poisson_max_delta_step", 0.7))))
        )
    if name == "multiclass":
        return Objective("softmax", count, scale=count / (count - 1))
    if name == "custom":
        raise ModelError(
            "the LightGBM model has a custom objective, which its file does not hold.",
            fix="give it: Boosted(model, objective=steelyard.trees.objectives.Custom(gradient, hessian, loss)).",
        )
    ranking = " It ranks: its loss belongs to a group, not to an example." * (
        name in ("lambdarank", "rank_xendcg")
    )
    raise ModelError(
        f"LightGBM's objective {name!r} is not supported.{ranking}",
        fix="use regression, l1, huber, quantile, poisson, gamma, tweedie, binary, multiclass or multiclassova.",
    )


def start_of(
    text: Text,
    objective: Objective,
    labels: Float[np.ndarray, " example"],
    weights: Float[np.ndarray, " example"],
) -> Float[np.ndarray, " output"]:
    """Raw scores before the first tree: LightGBM's ``boost_from_average`` on these labels; 0 without it.

    Source: ``BoostFromScore`` of LightGBM's objectives.
    """
    from_average = text.parameters.get("boost_from_average", "1") == "1" and objective.functions is None
    if not from_average:
        return np.zeros(objective.outputs)
    total = weights.sum()
    if objective.kind == "softmax":
        shares = np.bincount(labels.astype(np.int64), weights, minlength=objective.outputs) / total
        return np.log(np.maximum(shares, _EPSILON))
    if objective.kind == "logistic":
        target = labels[:, None]
        if objective.outputs > 1:
            target = (labels[:, None] == np.arange(objective.outputs)).astype(np.float64)
        shares = np.clip(weights @ target / total, _EPSILON, 1 - _EPSILON)
        return np.asarray(logit(shares)) / objective.parameter
    if objective.kind in ("absolute", "quantile"):
        return np.array(
            [np.nan]
        )  # its interpolation of the quantile is not worth following: read from the tree
    mean = float(weights @ labels / total)
    return np.array([np.log(mean) if objective.kind in ("poisson", "gamma", "tweedie") else mean])


def forest_of(text: Text, objective: Objective, start: Float[np.ndarray, " output"] | None = None) -> Forest:
    """The forest of a model.

    Args:
        text: The model file.
        objective: What its training minimised.
        start: Raw scores before the first tree: :func:`start_of`. Where None or NaN they are read from the root of the
            first trees, to the six digits that the file gives there.

    Raises:
        ModelError: For dart, random forests and linear trees.
    """
    parameters = text.parameters
    boosting = parameters.get("boosting", "gbdt")
    if boosting not in ("gbdt", "gbrt", "goss") or "average_output" in text.header:
        raise ModelError(
            f"LightGBM's boosting={boosting!r} is not supported: its trees are not each grown at the sum of those "
            "before.",
            fix="train with boosting='gbdt', or use leave_one_out.",
        )
    if any(tree.get("is_linear", "0") == "1" for tree in text.trees):
        raise ModelError(
            "LightGBM's linear trees are not supported: their leaves are no single numbers.",
            fix="train with linear_tree=False.",
        )
    count = int(text.header["num_tree_per_iteration"])
    shares = [float(parameters.get(name, 1)) for name in ("feature_fraction", "feature_fraction_bynode")]
    penalty = _Penalty.of(text)
    trees = [_tree(tree, penalty, k % count, k // count) for k, tree in enumerate(text.trees)]
    rate = float(parameters.get("learning_rate", 0.1))
    base = np.zeros(count)
    for k, entries in enumerate(text.trees[:count]):
        if float(entries.get("shrinkage", 1)) == 1.0 and parameters.get("boost_from_average", "1") == "1":
            base[k] = _root(entries) if start is None or np.isnan(start[k]) else start[k]
            trees[k] = _less(trees[k], base[k], rate)
    renewed = objective.kind in ("absolute", "quantile")
    smooth = float(parameters.get("path_smooth", 0)) > 0
    constrained = parameters.get("monotone_constraints", "") != ""
    quantised = parameters.get("use_quantized_grad", "0") == "1"
    return assembled(
        trees,
        base=base,
        objective=objective,
        l1=float(parameters.get("lambda_l1", 0)),
        max_delta_step=float(parameters.get("max_delta_step", 0)),
        leaf_rule="renewed" if renewed else "unknown" if smooth or constrained or quantised else "newton",
        leaf_steps=1,
        cover_kind="rows",
        single=False,
        row_share=_row_share(parameters),
        column_share=min(shares),
        library="LightGBM",
    )


def categorical_columns(text: Text) -> dict[int, int]:
    """Columns that the model takes for categories, with the number of categories that it saw."""
    infos = text.header.get("feature_infos", "").split(" ")
    return {
        k: info.count(":") + 1 for k, info in enumerate(infos) if info not in ("", "none") and info[0] != "["
    }


@dataclass(frozen=True)
class _Penalty:
    l2: float
    categories: float
    many: frozenset[int]

    @classmethod
    def of(cls, text: Text) -> "_Penalty":
        most = int(text.parameters.get("max_cat_to_onehot", 4))
        many = frozenset(k for k, count in categorical_columns(text).items() if count > most)
        l2, extra = (float(text.parameters.get(name, 0)) for name in ("lambda_l2", "cat_l2"))
        return cls(l2, extra, many)


def _entries(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines()[1:] if "=" in line)


def _row_share(parameters: Mapping[str, str]) -> float:
    if parameters.get("data_sample_strategy") == "goss" or parameters.get("boosting") == "goss":
        return float(parameters.get("top_rate", 0.2)) + float(parameters.get("other_rate", 0.1))
    if parameters.get("bagging_freq", "0") == "0":
        return 1.0
    names = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
    return min(float(parameters.get(name, 1)) for name in names)


def _root(entries: Mapping[str, str]) -> float:
    inner = entries.get("internal_value", "")
    return float((inner or entries["leaf_value"]).split(" ")[0])


def _less(tree: Tree, start: float, rate: float) -> Tree:
    """The tree without the start that LightGBM folded into it; a lone leaf is nothing but the start."""
    values = tree.values - start
    return Tree(**{**vars(tree), "values": np.zeros(1) if len(values) == 1 else values, "shrinkage": rate})


def _tree(entries: Mapping[str, str], penalty: _Penalty, output: int, number: int) -> Tree:
    def numbers(name: str, kind: type, size: int) -> np.ndarray:
        given = entries.get(name, "")
        return (
            np.array(given.split(" "), dtype=np.float64).astype(kind) if given else np.zeros(size, dtype=kind)
        )

    leaves = int(entries["num_leaves"])
    inner = leaves - 1
    children = [numbers(name, np.int64, inner) for name in ("left_child", "right_child")]
    # Leaves come after the inner nodes here; LightGBM writes them as -1, -2, … where a child stands.
    left, right = (np.where(child < 0, inner + ~child, child) for child in children)
    decision = numbers("decision_type", np.int64, inner)
    by_set = (decision & 1) == 1
    feature, threshold = numbers("split_feature", np.int64, inner), numbers("threshold", np.float64, inner)
    l2 = np.full(leaves, penalty.l2)
    for node in np.flatnonzero(by_set & np.isin(feature, list(penalty.many))):
        for child in (left[node], right[node]):
            if child >= inner:
                l2[child - inner] += penalty.categories
    sets = _sets(entries) if by_set.any() else []
    ends = np.full(leaves, -1)
    return Tree(
        feature=np.concatenate([feature, ends]),
        threshold=np.concatenate([threshold, np.zeros(leaves)]),
        left=np.concatenate([left, ends]),
        right=np.concatenate([right, ends]),
        missing=np.concatenate(
            [np.where(by_set, NAN_MISSING, (decision >> 2) & 3), np.zeros(leaves, dtype=np.int64)]
        ),
        missing_left=np.concatenate([((decision & 2) > 0) & ~by_set, np.zeros(leaves)]).astype(bool),
        category=np.concatenate([np.where(by_set, threshold, -1).astype(np.int64), ends]),
        leaf=np.concatenate([np.full(inner, -1), np.arange(leaves)]),
        values=numbers("leaf_value", np.float64, leaves),
        covers=numbers("leaf_count", np.float64, leaves),
        l2=l2,
        output=output,
        round=number,
        shrinkage=float(entries.get("shrinkage", 1)),
        sets=sets,
    )


def _sets(entries: Mapping[str, str]) -> list[np.ndarray]:
    bounds = np.array(entries["cat_boundaries"].split(" "), dtype=np.int64)
    words = np.array(entries["cat_threshold"].split(" "), dtype=np.uint32)
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little").astype(bool)
    return [
        np.append(bits[32 * start : 32 * stop], False)
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]
