"""Stage 2: methods, which turn signals into scores; one file per family, the paper in its first line.

A method is a frozen dataclass: its fields are its settings, its ``repr`` is its provenance, calling it with a
problem gives ``Scores``. Everything that all methods share is in ``driver.py``. Nothing in here plans,
verifies, reports, reads data or imports torch; expensive passes over the model live in ``collect/``.
"""

import ast
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steelyard.errors import SettingError
from steelyard.score.settings import did_you_mean, parse_settings

if TYPE_CHECKING:
    from steelyard.score.aum import AUM as AUM
    from steelyard.score.banzhaf import Banzhaf as Banzhaf
    from steelyard.score.baselines import BM25 as BM25
    from steelyard.score.baselines import TFIDF as TFIDF
    from steelyard.score.baselines import ClassSimilarity as ClassSimilarity
    from steelyard.score.baselines import EmbeddingCosine as EmbeddingCosine
    from steelyard.score.baselines import Loss as Loss
    from steelyard.score.baselines import Random as Random
    from steelyard.score.bayesian import Bayesian as Bayesian
    from steelyard.score.class_wise import ClassWiseShapley as ClassWiseShapley
    from steelyard.score.data_oob import DataOOB as DataOOB
    from steelyard.score.data_shapley import BetaShapley as BetaShapley
    from steelyard.score.data_shapley import DataShapley as DataShapley
    from steelyard.score.datainf import DataInf as DataInf
    from steelyard.score.datamodels import AME as AME
    from steelyard.score.datamodels import Datamodels as Datamodels
    from steelyard.score.driver import best_of as best_of
    from steelyard.score.dynamics import EL2N as EL2N
    from steelyard.score.dynamics import Cartography as Cartography
    from steelyard.score.dynamics import Forgetting as Forgetting
    from steelyard.score.dynamics import GraNd as GraNd
    from steelyard.score.gauss_newton import GaussNewton as GaussNewton
    from steelyard.score.gptfluence import GPTfluence as GPTfluence
    from steelyard.score.gradient_products import GradCos as GradCos
    from steelyard.score.gradient_products import GradDot as GradDot
    from steelyard.score.gradient_products import TracIn as TracIn
    from steelyard.score.group_influence import GroupInfluence as GroupInfluence
    from steelyard.score.high_dim_representers import HighDimRepresenters as HighDimRepresenters
    from steelyard.score.inffeed import InfFeed as InfFeed
    from steelyard.score.knn_shapley import KNNShapley as KNNShapley
    from steelyard.score.kronecker import EKFAC as EKFAC
    from steelyard.score.kronecker import KFAC as KFAC
    from steelyard.score.kronecker import TKFAC as TKFAC
    from steelyard.score.kronecker import Shampoo as Shampoo
    from steelyard.score.label_quality import KNNLabel as KNNLabel
    from steelyard.score.label_quality import LabelConsensus as LabelConsensus
    from steelyard.score.label_quality import SelfConfidence as SelfConfidence
    from steelyard.score.lava import LAVA as LAVA
    from steelyard.score.leaf_effects import BoostIn as BoostIn
    from steelyard.score.leaf_effects import LeafInfluence as LeafInfluence
    from steelyard.score.leaf_effects import LeafInfSP as LeafInfSP
    from steelyard.score.leaf_refit import LeafRefit as LeafRefit
    from steelyard.score.least_core import LeastCore as LeastCore
    from steelyard.score.leave_one_out import LeaveOneOut as LeaveOneOut
    from steelyard.score.less import LESS as LESS
    from steelyard.score.logra import GraSS as GraSS
    from steelyard.score.logra import LoGra as LoGra
    from steelyard.score.lpntk import LpNTK as LpNTK
    from steelyard.score.mates import MATES as MATES
    from steelyard.score.mates import GroupMATES as GroupMATES
    from steelyard.score.memorization import Memorization as Memorization
    from steelyard.score.method import Method as Method
    from steelyard.score.method import MethodCard as MethodCard
    from steelyard.score.nn_cift import NNCIFT as NNCIFT
    from steelyard.score.refined import EKFACCG as EKFACCG
    from steelyard.score.replay import Replay as Replay
    from steelyard.score.representers import RPS as RPS
    from steelyard.score.representers import RPSLJE as RPSLJE
    from steelyard.score.self_influence import SelfInfluence as SelfInfluence
    from steelyard.score.solvers import CG as CG
    from steelyard.score.solvers import Arnoldi as Arnoldi
    from steelyard.score.solvers import LiSSA as LiSSA
    from steelyard.score.solvers import Nystrom as Nystrom
    from steelyard.score.source import SOURCE as SOURCE
    from steelyard.score.trackstar import TrackStar as TrackStar
    from steelyard.score.trak import TRAK as TRAK
    from steelyard.score.tree_kernels import TREX as TREX
    from steelyard.score.tree_kernels import TreeSim as TreeSim
    from steelyard.score.untrac import UnTrac as UnTrac
    from steelyard.score.untrac import UnTracInv as UnTracInv

METHODS: Mapping[str, str] = {
    "random": "steelyard.score.baselines:Random",
    "loss": "steelyard.score.baselines:Loss",
    "class_similarity": "steelyard.score.baselines:ClassSimilarity",
    "embedding_cosine": "steelyard.score.baselines:EmbeddingCosine",
    "bm25": "steelyard.score.baselines:BM25",
    "tfidf": "steelyard.score.baselines:TFIDF",
    "leave_one_out": "steelyard.score.leave_one_out:LeaveOneOut",
    "grad_dot": "steelyard.score.gradient_products:GradDot",
    "grad_cos": "steelyard.score.gradient_products:GradCos",
    "tracin": "steelyard.score.gradient_products:TracIn",
    "gauss_newton": "steelyard.score.gauss_newton:GaussNewton",
    "kfac": "steelyard.score.kronecker:KFAC",
    "ekfac": "steelyard.score.kronecker:EKFAC",
    "ekfac_cg": "steelyard.score.refined:EKFACCG",
    "datainf": "steelyard.score.datainf:DataInf",
    "group_influence": "steelyard.score.group_influence:GroupInfluence",
    "tkfac": "steelyard.score.kronecker:TKFAC",
    "shampoo": "steelyard.score.kronecker:Shampoo",
    "cg": "steelyard.score.solvers:CG",
    "lissa": "steelyard.score.solvers:LiSSA",
    "arnoldi": "steelyard.score.solvers:Arnoldi",
    "nystrom": "steelyard.score.solvers:Nystrom",
    "source": "steelyard.score.source:SOURCE",
    "replay": "steelyard.score.replay:Replay",
    "trak": "steelyard.score.trak:TRAK",
    "logra": "steelyard.score.logra:LoGra",
    "trackstar": "steelyard.score.trackstar:TrackStar",
    "less": "steelyard.score.less:LESS",
    "grass": "steelyard.score.logra:GraSS",
    "self_influence": "steelyard.score.self_influence:SelfInfluence",
    "knn_shapley": "steelyard.score.knn_shapley:KNNShapley",
    "data_shapley": "steelyard.score.data_shapley:DataShapley",
    "beta_shapley": "steelyard.score.data_shapley:BetaShapley",
    "banzhaf": "steelyard.score.banzhaf:Banzhaf",
    "class_wise_shapley": "steelyard.score.class_wise:ClassWiseShapley",
    "least_core": "steelyard.score.least_core:LeastCore",
    "ame": "steelyard.score.datamodels:AME",
    "datamodels": "steelyard.score.datamodels:Datamodels",
    "data_oob": "steelyard.score.data_oob:DataOOB",
    "lava": "steelyard.score.lava:LAVA",
    "aum": "steelyard.score.aum:AUM",
    "el2n": "steelyard.score.dynamics:EL2N",
    "grand": "steelyard.score.dynamics:GraNd",
    "forgetting": "steelyard.score.dynamics:Forgetting",
    "cartography": "steelyard.score.dynamics:Cartography",
    "self_confidence": "steelyard.score.label_quality:SelfConfidence",
    "knn_label": "steelyard.score.label_quality:KNNLabel",
    "label_consensus": "steelyard.score.label_quality:LabelConsensus",
    "memorization": "steelyard.score.memorization:Memorization",
    "bayesian": "steelyard.score.bayesian:Bayesian",
    "mates": "steelyard.score.mates:MATES",
    "group_mates": "steelyard.score.mates:GroupMATES",
    "nn_cift": "steelyard.score.nn_cift:NNCIFT",
    "gptfluence": "steelyard.score.gptfluence:GPTfluence",
    "boostin": "steelyard.score.leaf_effects:BoostIn",
    "leaf_influence": "steelyard.score.leaf_effects:LeafInfluence",
    "leaf_inf_sp": "steelyard.score.leaf_effects:LeafInfSP",
    "leaf_refit": "steelyard.score.leaf_refit:LeafRefit",
    "trex": "steelyard.score.tree_kernels:TREX",
    "tree_sim": "steelyard.score.tree_kernels:TreeSim",
    "rps": "steelyard.score.representers:RPS",
    "rps_lje": "steelyard.score.representers:RPSLJE",
    "high_dim_representers": "steelyard.score.high_dim_representers:HighDimRepresenters",
    "lpntk": "steelyard.score.lpntk:LpNTK",
    "inffeed": "steelyard.score.inffeed:InfFeed",
    "untrac": "steelyard.score.untrac:UnTrac",
    "untrac_inv": "steelyard.score.untrac:UnTracInv",
}
"""Name on the command line to ``module:Class``."""

ALIASES: Mapping[str, tuple[str, Mapping[str, str]]] = {"subsample": ("memorization", {"of": "queries"})}
"""Further names, as the literature has them: a method and some of its settings."""

_NAMES = {path.partition(":")[2]: path for path in METHODS.values()} | {
    "Method": "steelyard.score.method:Method",
    "MethodCard": "steelyard.score.method:MethodCard",
    "best_of": "steelyard.score.driver:best_of",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(
            f"module 'steelyard.score' has no attribute {name!r}{did_you_mean(name, _NAMES)}"
        )
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*_NAMES, "ALIASES", "METHODS", "by_name", "card", "method_class"])


def method_class(name: str) -> "type[Method]":
    """The class of a method by its name on the command line; only its own module is imported.

    Raises:
        SettingError: If there is no such method; the error names the closest and all others.

    Example:
        >>> method_class("random").__name__
        'Random'
    """
    name = ALIASES[name][0] if name in ALIASES else name
    if name not in METHODS:
        raise SettingError(
            f"There is no method {name!r}{did_you_mean(name, [*METHODS, *ALIASES])}",
            fix=f"choose one of {', '.join(METHODS)}; `steelyard methods` describes them.",
        )
    return __getattr__(METHODS[name].partition(":")[2])


def card(name: str) -> "MethodCard":
    """Paper, needs, cost and purpose of a method by its name on the command line.

    Raises:
        SettingError: If there is no such method.

    Example:
        >>> card("random").needs
        'nothing'
    """
    return method_class(name).card


def by_name(name: str, settings: Mapping[str, str] | None = None) -> "Method":
    """A method from its name and settings as text, as the command line has them.

    Args:
        name: A key of ``METHODS`` or ``ALIASES``.
        settings: Field to text: ``{"damping": "0.1"}``. Fields that are not named keep their defaults.

    Raises:
        SettingError: If the name, a field or a value is wrong; the error says what would be right.

    Example:
        >>> by_name("random", {"seed": "3"})
        Random(seed=3)
    """
    kind = method_class(name)
    fixed = ALIASES[name][1] if name in ALIASES else {}
    return kind(**parse_settings(kind, {**fixed, **(settings or {})}, owner=name))


def from_repr(text: str) -> "Method":
    """A method from its ``repr``, as ``Scores.method`` records it; nothing in the text is run.

    Raises:
        SettingError: If the text is no call of a method with plain values, or has settings that it does not take.

    Example:
        >>> from_repr("Random(seed=3)")
        Random(seed=3)
    """
    fix = (
        "make the scores by a method of `steelyard methods`, with settings that are numbers, texts or lists."
    )
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise SettingError(f"{text!r} is not a method with its settings.", fix=fix)
        given = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise SettingError(f"{text!r} cannot be read as a method: {error}.", fix=fix) from error
    known = {path.partition(":")[2]: path for path in METHODS.values()}
    if call.func.id not in known:
        raise SettingError(f"{text!r} names no method{did_you_mean(call.func.id, known)}", fix=fix)
    try:
        return __getattr__(call.func.id)(**given)
    except TypeError as error:
        raise SettingError(f"{text!r}: {error}.", fix=fix) from error
