"""Recipes: how a network is trained, as plain frozen records. Nothing here imports a framework."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.errors import SettingError

SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent as ``torch.optim.SGD`` does it, with momentum and coupled weight decay.

    Each step follows the gradient of ``sum_i w_i l_i / |batch| + weight_decay / 2 * |parameters|^2``.

    Attributes:
        lr: Peak learning rate.
        epochs: Passes over the training examples.
        batch_size: Examples per step; the last, smaller batch of an epoch is used. None: all examples at
            once.
        momentum: In [0, 1).
        nesterov: Whether to look ahead; needs momentum.
        weight_decay: Coefficient of the l2 term, in the units of a mean loss.
        schedule: How the learning rate moves, step by step: see :func:`learning_rates`.
        warmup: Steps of linear warm-up; below 1 it is a fraction of all steps.
        checkpoints: How many states to keep, evenly spaced, the last being the final one; or the epochs after
            which to keep one.

    Raises:
        SettingError: If a value has no meaning.
    """

    lr: float | int
    epochs: int
    batch_size: int | None = 64
    momentum: float | int = 0.0
    nesterov: bool = False
    weight_decay: float | int = 0.0
    schedule: str = "constant"
    warmup: float | int = 0
    checkpoints: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        _check_common(self)
        _within("momentum", self.momentum, 0.0, 1.0)
        if self.nesterov and self.momentum == 0:
            raise SettingError(
                "SGD: nesterov=True with momentum=0.", fix="give a momentum, such as momentum=0.9."
            )


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam as ``torch.optim.Adam`` does it: weight decay is added to the gradient (l2 term).

    Attributes:
        lr: Peak learning rate.
        epochs: Passes over the training examples.
        batch_size: Examples per step; the last, smaller batch of an epoch is used. None: all examples at
            once.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Coefficient of the l2 term, in the units of a mean loss.
        schedule: How the learning rate moves, step by step: see :func:`learning_rates`.
        warmup: Steps of linear warm-up; below 1 it is a fraction of all steps.
        checkpoints: As in :class:`SGD`.

    Raises:
        SettingError: If a value has no meaning.
    """

    lr: float | int = 1e-3
    epochs: int
    batch_size: int | None = 64
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | int = 0.0
    schedule: str = "constant"
    warmup: float | int = 0
    checkpoints: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        _check_adam(self)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW`` does it.

    Attributes:
        lr: Peak learning rate.
        epochs: Passes over the training examples.
        batch_size: Examples per step; the last, smaller batch of an epoch is used. None: all examples at
            once.
        betas: Decay rates of the two moments.
        eps: Added to the root of the second moment.
        weight_decay: Share by which parameters shrink in a step, per unit of learning rate.
        schedule: How the learning rate moves, step by step: see :func:`learning_rates`.
        warmup: Steps of linear warm-up; below 1 it is a fraction of all steps.
        checkpoints: As in :class:`SGD`.

    Raises:
        SettingError: If a value has no meaning.
    """

    lr: float | int = 1e-3
    epochs: int
    batch_size: int | None = 64
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | int = 0.01
    schedule: str = "constant"
    warmup: float | int = 0
    checkpoints: int | tuple[int, ...] = 0

    def __post_init__(self) -> None:
        _check_adam(self)


Single = SGD | Adam | AdamW
"""How one stage is trained: one optimiser and one schedule."""


@dataclass(frozen=True)
class Stage:
    """One stage of a training, on all training examples or on those with given values in a column.

    Attributes:
        recipe: How to train in this stage.
        column: Column that says which examples take part; ``"id"`` for the ids; None for all examples.
        values: Values of that column that take part.

    Raises:
        SettingError: If there is a column without values, or values without a column.

    Example:
        >>> Stage(SGD(lr=0.1, epochs=5), column="source", values=("web", "books")).values
        ('web', 'books')
    """

    recipe: Single
    column: str | None = None
    values: tuple[str | int | float | bool, ...] = ()

    def __post_init__(self) -> None:
        if (self.column is None) == bool(self.values):
            raise SettingError(
                f"Stage: column={self.column!r} with values={self.values!r}.",
                fix='give both, such as column="source", values=("web",), or neither for all examples.',
            )


@dataclass(frozen=True)
class Stages:
    """Stages of a training one after the other, such as pretraining and fine-tuning.

    The parameters go on from stage to stage; every stage begins with a new optimiser and its own schedule.
    Batch order and random numbers go on as if it were one training: ``Stages((A,))`` equals ``A`` bit by bit.
    Each stage keeps the states that its recipe asks for, and always its last.

    Attributes:
        stages: In order; a bare recipe is a stage on all examples.

    Raises:
        SettingError: If there is no stage.

    Example:
        >>> both = Stages((AdamW(epochs=3), Stage(SGD(lr=0.1, epochs=1), column="part", values=("b",))))
        >>> [type(stage.recipe).__name__ for stage in both.parts]
        ['AdamW', 'SGD']
    """

    stages: tuple[Stage | SGD | Adam | AdamW, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise SettingError("Stages: there is no stage.", fix="give at least one recipe.")

    @property
    def parts(self) -> tuple[Stage, ...]:
        """Every stage as a :class:`Stage`."""
        return tuple(stage if isinstance(stage, Stage) else Stage(stage) for stage in self.stages)


Recipe = SGD | Adam | AdamW | Stages


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of any recipe; a single one is its own only stage."""
    return recipe.parts if isinstance(recipe, Stages) else (Stage(recipe),)


def shortened(recipe: Recipe, share: float) -> Recipe:
    """The same recipe with that share of the epochs of every stage, at least one, and no states kept on the way.

    Example:
        >>> shortened(SGD(lr=0.1, epochs=10, checkpoints=2), 0.3).epochs
        3
    """
    if isinstance(recipe, Stages):
        return Stages(tuple(replace(part, recipe=_cut(part.recipe, share)) for part in recipe.parts))
    return _cut(recipe, share)


def _cut(recipe: Single, share: float) -> Single:
    return replace(recipe, epochs=max(1, round(share * recipe.epochs)), checkpoints=0)


def last_recipe(recipe: Recipe) -> Single:
    """What the training ends with."""
    return stages_of(recipe)[-1].recipe


def penalty(recipe: Single) -> float:
    """Coefficient of ``|parameters|^2 / 2`` in the mean loss; AdamW's decoupled decay is no such term."""
    return 0.0 if isinstance(recipe, AdamW) else float(recipe.weight_decay)


def learning_rates(recipe: Single, steps: int) -> Float[np.ndarray, " step"]:
    """Learning rate of every step.

    With W warm-up steps, T steps in all, and s = (t - W) / (T - W), the factor on ``lr`` at step t = 0, 1, …
    is

    - t < W: (t + 1) / (W + 1), so that no step is wasted on a rate of 0;
    - ``constant``: 1;
    - ``linear``: 1 - s;
    - ``cosine``: (1 + cos(pi s)) / 2, which is ``CosineAnnealingLR(T_max=T)`` stepped once per batch;
    - ``inverse_sqrt``: sqrt(w / (w + t - W)) with w = max(1, W).

    Args:
        recipe: Gives peak rate, schedule and warm-up.
        steps: Steps of the whole training.
    """
    warm = warmup_steps(recipe, steps)
    t = np.arange(steps, dtype=np.float64)
    after = np.maximum(t - warm, 0.0)
    progress = after / max(1, steps - warm)
    if recipe.schedule == "linear":
        factor = 1.0 - progress
    elif recipe.schedule == "cosine":
        factor = 0.5 * (1.0 + np.cos(np.pi * progress))
    elif recipe.schedule == "inverse_sqrt":
        factor = np.sqrt(max(1, warm) / (max(1, warm) + after))
    else:
        factor = np.ones(steps)
    return recipe.lr * np.where(t < warm, (t + 1) / (warm + 1), factor)


def warmup_steps(recipe: Single, steps: int) -> int:
    """Steps of warm-up out of ``steps``, never all of them."""
    asked = round(recipe.warmup * steps) if recipe.warmup < 1 else int(recipe.warmup)
    return min(asked, max(0, steps - 1))


def checkpoint_steps(recipe: Single, epochs: int, steps_per_epoch: int) -> tuple[int, ...]:
    """After how many steps a state is kept, ascending; the final state is the last where any is kept."""
    total = epochs * steps_per_epoch
    if isinstance(recipe.checkpoints, int):
        count = min(recipe.checkpoints, total)
        return tuple(sorted({round(total * (k + 1) / count) for k in range(count)}))
    return tuple(sorted({*(epoch * steps_per_epoch for epoch in recipe.checkpoints), total}))


def recipe_settings(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe as plain values, its class under ``"recipe"``; those of stages in a list."""
    if not isinstance(recipe, Stages):
        return {"recipe": type(recipe).__name__, **asdict(recipe)}
    listed = [
        {**recipe_settings(part.recipe), "column": part.column, "values": list(part.values)}
        for part in recipe.parts
    ]
    return {"recipe": "Stages", "stages": listed}


def _check_adam(recipe: Adam | AdamW) -> None:
    _check_common(recipe)
    for beta in recipe.betas:
        _within("betas", beta, 0.0, 1.0)
    if not recipe.eps > 0:
        raise SettingError(f"{type(recipe).__name__}: eps={recipe.eps}.", fix="give eps > 0, such as 1e-8.")


def _check_common(recipe: Single) -> None:
    name = type(recipe).__name__
    if not (recipe.lr > 0 and np.isfinite(recipe.lr)):
        raise SettingError(f"{name}: lr={recipe.lr}.", fix="give a positive learning rate.")
    if recipe.epochs < 1:
        raise SettingError(f"{name}: epochs={recipe.epochs}.", fix="give at least one epoch.")
    if recipe.batch_size is not None and recipe.batch_size < 1:
        raise SettingError(
            f"{name}: batch_size={recipe.batch_size}.", fix="give 1 or more, or None for full batches."
        )
    if not (recipe.weight_decay >= 0 and np.isfinite(recipe.weight_decay)):
        raise SettingError(f"{name}: weight_decay={recipe.weight_decay}.", fix="give 0 or more.")
    if not (recipe.warmup >= 0 and np.isfinite(recipe.warmup)):
        raise SettingError(
            f"{name}: warmup={recipe.warmup}.", fix="give steps, or a fraction of all steps below 1."
        )
    if recipe.schedule not in SCHEDULES:
        raise SettingError(
            f"{name}: there is no schedule {recipe.schedule!r}.", fix=f"choose one of {', '.join(SCHEDULES)}."
        )
    _check_checkpoints(recipe)


def _check_checkpoints(recipe: Single) -> None:
    kept = recipe.checkpoints
    name = type(recipe).__name__
    if isinstance(kept, int):
        if kept < 0:
            raise SettingError(f"{name}: checkpoints={kept}.", fix="give how many states to keep, 0 or more.")
    elif any(not 1 <= epoch <= recipe.epochs for epoch in kept):
        raise SettingError(
            f"{name}: checkpoints={kept}, but there are epochs 1 to {recipe.epochs}.",
            fix="give epochs of this training, or a count.",
        )


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise SettingError(
            f"{name}={value} is outside [{low:g}, {high:g}).", fix=f"give {name} below {high:g}."
        )
