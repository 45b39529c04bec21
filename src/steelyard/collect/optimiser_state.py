"""What an optimiser knew at a fitted model: kept by our own training, or saved by torch or transformers.

A saved state (``optimizer.pt``) knows its parameters by number alone. Names come from the file where it has them
(torch from 2.6 on, optimisers made from named parameters); else from the order in which optimisers are made: all
parameters in the model's order, or first those that decay and then those that do not, as the trainer of
transformers makes them. A state that fits none of these by its shapes is refused.
"""

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from steelyard.collect.gradients import Fitted
from steelyard.errors import CapabilityError, DataError, ModelError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.moments import AdamState
from steelyard.problem import HasMoments, Problem

_NESTED = ("optimizer", "optimizer_state_dict", "optimiser", "optim")
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
_NORM_LAYERS = re.compile(r"norm|^LN", re.IGNORECASE)


def kept_state(problem: Problem, fitted: Fitted, *, required: bool, method: str) -> AdamState | None:
    """Adam's state at a model that the learner trained; None where there is none and none is required.

    Raises:
        CapabilityError: If it is required, and the learner keeps no moments or was not trained by Adam or AdamW.
    """
    learner = problem.learner
    if not isinstance(learner, HasMoments):
        if not required:
            return None
        raise CapabilityError(
            f"{method} needs Adam's moments of gradients, which {type(learner).__name__} does not offer.",
            fix="name a saved state (optimizer.pt), or use a method that does not need them.",
        )
    try:
        moments = learner.moments(fitted.model)
    except CapabilityError:
        if required:
            raise
        return None
    settings = learner.settings()
    if "betas" not in settings or "eps" not in settings:
        raise CapabilityError(
            f"{method} needs the betas and eps of Adam, which {type(learner).__name__} does not tell.",
            fix="train with one recipe, Adam(...) or AdamW(...), or name a saved state (optimizer.pt).",
        )
    beta1, beta2 = settings["betas"]
    betas = (float(beta1), float(beta2))
    return AdamState(moments.first, moments.second, int(moments.step), betas, float(settings["eps"]))


def saved_state(problem: Problem, fitted: Fitted, path: str | Path) -> AdamState:
    """Adam's state from a file that torch saved, with the names of this model's parameters.

    Args:
        problem: Whose learner the model is of, for errors.
        fitted: The model that was saved together with the state.
        path: Of the file. Read with ``weights_only=True``: it runs no code.

    Raises:
        DataError: If there is no such file or torch did not write it.
        ModelError: If it is not the state of Adam or AdamW, or is of another model.
    """
    engine = fitted.gradients
    if not isinstance(engine, TorchGradients):
        raise CapabilityError(
            f"{path}: {type(problem.learner).__name__} is not a network, so no optimiser's state fits it.",
            fix="leave the state out.",
        )
    found = _read(Path(path))
    groups, states = found["param_groups"], found["state"]
    trained = {name: p for name, p in engine.model.named_parameters() if p.requires_grad}
    names = _names(Path(path), groups, states, engine.model, trained)
    first, second, steps = {}, {}, set()
    for number, name in names.items():
        state = states.get(number)
        if state is None:  # never had a gradient
            first[name] = second[name] = torch.zeros_like(trained[name])
            continue
        first[name], second[name] = state["exp_avg"], state["exp_avg_sq"]
        steps.add(int(state["step"]))
    if not steps:
        raise ModelError(f"{path}: no parameter has a state yet.", fix="save the optimiser after a step.")
    betas, eps = _one(path, groups, "betas"), _one(path, groups, "eps")
    return AdamState(first, second, max(steps), (float(betas[0]), float(betas[1])), float(eps))


def _read(path: Path) -> Mapping[str, Any]:
    """The ``state_dict`` of an optimiser, where it is the file's content or has a usual place in it."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", fix="name the optimizer.pt of this checkpoint.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        zipfile.BadZipFile,
        ValueError,
        KeyError,
    ) as error:
        raise DataError(
            f"{path}: torch cannot read it without running code from it "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}).",
            fix="save the state with torch.save(optimizer.state_dict(), path).",
        ) from error
    for name in ("", *_NESTED):
        inner = found.get(name) if name and isinstance(found, dict) else found
        if isinstance(inner, dict) and {"state", "param_groups"} <= inner.keys():
            return _checked(path, inner)
    raise ModelError(
        f"{path}: not the state of an optimiser; it has "
        f"{', '.join(map(str, list(found)[:5])) if isinstance(found, dict) else type(found).__name__}.",
        fix="save the state with torch.save(optimizer.state_dict(), path).",
    )


def _checked(path: Path, found: Mapping[str, Any]) -> Mapping[str, Any]:
    for number, state in found["state"].items():
        if not {"exp_avg", "exp_avg_sq", "step"} <= set(state):
            raise ModelError(
                f"{path}: not the state of Adam or AdamW; parameter {number} has "
                f"{', '.join(sorted(map(str, state))) or 'nothing'}.",
                fix="give a state with exp_avg, exp_avg_sq and step for every parameter (not 8-bit, not SGD).",
            )
    return found


def _one(path: str | Path, groups: Sequence[Mapping[str, Any]], key: str) -> Any:
    found = {str(group.get(key)): group.get(key) for group in groups}
    if len(found) != 1 or None in found.values():
        raise ModelError(
            f"{path}: the groups of parameters have different {key}: {', '.join(found)}.",
            fix="give a state whose groups share betas and eps.",
        )
    return next(iter(found.values()))


def _names(
    path: Path,
    groups: Sequence[Mapping[str, Any]],
    states: Mapping[int, Mapping[str, Any]],
    model: nn.Module,
    trained: Mapping[str, Tensor],
) -> dict[int, str]:
    """Number in the file to name in the model, in the first order that fits all shapes.

    Raises:
        ModelError: If none fits.
    """
    numbers = [int(number) for group in groups for number in group["params"]]
    if len(numbers) != len(trained):
        raise ModelError(
            f"{path}: the state is of {len(numbers)} parameters, this model trains {len(trained)}.",
            fix="give the state that was saved with this very model.",
        )
    misfits: list[str] = []
    for order in _orders(groups, model, trained):
        wrong = [
            f"parameter {number} has shape {tuple(_shape(states[number], trained[name]))}, but {name} has "
            f"{tuple(trained[name].shape)}"
            if name in trained
            else f"parameter {number} is {name}, which is no trained parameter of this model"
            for number, name in zip(numbers, order, strict=True)
            if name not in trained
            or (number in states and _shape(states[number], trained[name]) != trained[name].shape)
        ]
        if not wrong:
            return dict(zip(numbers, order, strict=True))
        misfits.append(wrong[0])
    raise ModelError(
        f"{path}: the state does not fit this model: {misfits[0]}.",
        fix="give the state that was saved with this very model, or save it from an optimiser made with "
        "named_parameters(), so that it names its parameters.",
    )


def _shape(state: Mapping[str, Any], like: Tensor) -> torch.Size:
    """Of the moment that does not have this parameter's shape; of both where they have."""
    first, second = state["exp_avg"].shape, state["exp_avg_sq"].shape
    return second if first == like.shape else first


def _orders(
    groups: Sequence[Mapping[str, Any]], model: nn.Module, trained: Mapping[str, Tensor]
) -> Iterator[list[str]]:
    if all("param_names" in group for group in groups):
        yield [_plain(str(name)) for group in groups for name in group["param_names"]]
        return
    sizes = [len(group["params"]) for group in groups]
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if _NORM_LAYERS.search(type(module).__name__)
        for name, _ in module.named_parameters(recurse=False)
    }
    if len(sizes) > 1:
        for plain in (
            {name for name in trained if name in norms or _NO_DECAY.search(name)},
            {name for name in trained if name in norms or "bias" in name},
            {name for name, parameter in trained.items() if parameter.ndim < 2},
        ):
            decaying = [name for name in trained if name not in plain]
            rest = [name for name in trained if name in plain]
            if [len(part) for part in (decaying, rest) if part] == [size for size in sizes if size]:
                yield decaying + rest
    yield list(trained)


def _plain(name: str) -> str:
    """Without what wrappers of a model put in front."""
    return cast(str, re.sub(r"^(?:module\.|_orig_mod\.)+", "", name))
