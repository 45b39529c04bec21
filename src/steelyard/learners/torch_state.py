"""A fitted network as arrays and back, and checksums of what a learner is made of."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.errors import ModelError
from steelyard.learners.torch_steps import Moments
from steelyard.learners.torch_training import Checkpoint, TorchFitted

_PARAMETERS = "parameters:"
_CHECKPOINT = "checkpoint"
_MOMENTS = ("first", "second")


def dump(fitted: TorchFitted) -> dict[str, np.ndarray]:
    """The fitted network as arrays, none of which needs pickle.

    Keys are ``parameters:NAME``, ``checkpoint0:NAME`` and so on, Adam's moments ``first:NAME``, ``second:NAME``,
    ``checkpoint0-first:NAME``; the facts of the training stand beside them.
    Types that NumPy lacks (bfloat16, float8) are kept as bits.
    """
    arrays = {
        "seed": np.array(fitted.seed, dtype=np.int64),
        "learning_rate": np.array(fitted.learning_rate),
        "losses": np.array(fitted.losses, dtype=np.float64),
        "checkpoint_steps": np.array([point.step for point in fitted.checkpoints], dtype=np.int64),
        "checkpoint_stages": np.array([point.stage for point in fitted.checkpoints], dtype=np.int64),
        "checkpoint_rates": np.array([point.learning_rate for point in fitted.checkpoints], dtype=np.float64),
    }
    if fitted.classes is not None:
        arrays["classes"] = np.array(fitted.classes, dtype=str)
    arrays |= {f"{_PARAMETERS}{name}": _array(value) for name, value in fitted.parameters.items()}
    arrays |= _dump_moments(fitted.moments, "")
    for k, point in enumerate(fitted.checkpoints):
        arrays |= {f"{_CHECKPOINT}{k}:{name}": _array(value) for name, value in point.parameters.items()}
        arrays |= _dump_moments(point.moments, f"{_CHECKPOINT}{k}-")
    return arrays


def restore(arrays: Mapping[str, np.ndarray], template: nn.Module) -> TorchFitted:
    """The inverse of :func:`dump`, for a model of this architecture.

    Raises:
        ModelError: If a checkpoint lacks what the final state has.
    """
    state = template.state_dict()
    _check_checkpoints(arrays)
    points = [
        Checkpoint(
            _tensors(arrays, f"{_CHECKPOINT}{k}:", state),
            float(rate),
            int(step),
            _restore_moments(arrays, f"{_CHECKPOINT}{k}-", state),
            int(stage),
        )
        for k, (step, rate, stage) in enumerate(
            zip(*(arrays[f"checkpoint_{fact}"] for fact in ("steps", "rates", "stages")), strict=True)
        )
    ]
    return TorchFitted(
        parameters=_tensors(arrays, _PARAMETERS, state),
        seed=int(arrays["seed"]),
        checkpoints=tuple(points),
        learning_rate=float(arrays["learning_rate"]),
        losses=tuple(float(loss) for loss in arrays["losses"]),
        classes=tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else None,
        moments=_restore_moments(arrays, "", state),
    )


def _check_checkpoints(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse a training whose checkpoints are counted but not all there: their sum would be of fewer, unsaid."""
    final = {key.removeprefix(_PARAMETERS) for key in arrays if key.startswith(_PARAMETERS)}
    steps = arrays["checkpoint_steps"]
    for k, step in enumerate(steps):
        missing = sorted(name for name in final if f"{_CHECKPOINT}{k}:{name}" not in arrays)
        if missing:
            raise ModelError(
                f"checkpoint {k + 1} of {len(steps)} (step {int(step)}) lacks {len(missing)} of {len(final)} "
                f"parameters: {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}.",
                fix="restore the whole fit, or train again (--fresh).",
            )


def check_state(parameters: Mapping[str, Tensor], template: nn.Module) -> None:
    """Refuse parameters of another architecture.

    Raises:
        ModelError: Naming the first parameter that is missing, surplus or of another shape.
    """
    state = template.state_dict()
    for name in sorted({*state, *parameters}):
        given = tuple(parameters[name].shape) if name in parameters else None
        expected = tuple(state[name].shape) if name in state else None
        if given != expected:
            raise ModelError(
                f"{name}: the fitted model has {given or 'no such parameter'}, this learner's model "
                f"{expected or 'no such parameter'}.",
                fix="use the learner with the architecture that was fitted; the model has changed since.",
            )


def checksum(net: nn.Module, facts: Mapping[str, Any], *, with_values: bool) -> str:
    """A checksum of architecture, code and settings, and of the parameters where they matter.

    Args:
        net: The model as given.
        facts: Settings; functions among them count by source, defaults and plain values they close over.
        with_values: Whether to include the values of the parameters; not where each fit draws its own.
    """
    digest = hashlib.sha256()
    digest.update(repr(net).encode())
    for kind in dict.fromkeys(type(module) for module in net.modules()):
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        if not kind.__module__.startswith("torch."):
            digest.update(_source(kind).encode())
    for name, value in net.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if with_values:
            digest.update(_array(value).tobytes())
    for name, parameter in net.named_parameters():
        digest.update(f"{name} {parameter.requires_grad}".encode())
    for name in sorted(facts):
        value = facts[name]
        digest.update(f"{name}={describe(value) if callable(value) else value!r};".encode())
    return digest.hexdigest()


def describe(function: Callable[..., Any]) -> str:
    """A function by what it does, in every process alike: source, defaults, plain values it closes over."""
    if isinstance(function, functools.partial):
        return f"partial({describe(function.func)}, {function.args!r}, {sorted(function.keywords.items())!r})"
    closed = [
        repr(value) if isinstance(value, _PLAIN) else describe(value) if inspect.isfunction(value) else ""
        for value in _closure(function)
    ]
    defaults = [
        repr(value) for value in (getattr(function, "__defaults__", None) or ()) if isinstance(value, _PLAIN)
    ]
    return "|".join([function_name(function), _source(function), *defaults, *closed])


def function_name(function: Any) -> str:
    """The qualified name of a function, or of the class of a callable object."""
    if isinstance(function, functools.partial):
        return f"partial({function_name(function.func)})"
    named = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    return f"{named.__module__}.{named.__qualname__}"


_PLAIN = (int, float, str, bool, bytes, tuple, frozenset, type(None))


def _closure(function: Callable[..., Any]) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is filled later, as in a function that calls itself
            continue


def _source(thing: Any) -> str:
    if not (inspect.isfunction(thing) or inspect.ismethod(thing) or inspect.isclass(thing)):
        return _source(type(thing)) if not inspect.isbuiltin(thing) else ""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # built in an interpreter or by exec; the name is all there is
        return ""


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float64, torch.float32, torch.float16):
        tensor = tensor.view(torch.int16 if tensor.dtype.itemsize == 2 else torch.int8)
    return np.array(tensor.numpy())


def _dump_moments(moments: Moments | None, prefix: str) -> dict[str, np.ndarray]:
    if moments is None:
        return {}
    arrays = {f"{prefix}moments_step": np.array(moments.step, dtype=np.int64)}
    for kind, values in zip(_MOMENTS, (moments.first, moments.second), strict=True):
        arrays |= {f"{prefix}{kind}:{name}": _array(value) for name, value in values.items()}
    return arrays


def _restore_moments(
    arrays: Mapping[str, np.ndarray], prefix: str, state: Mapping[str, Tensor]
) -> Moments | None:
    if f"{prefix}moments_step" not in arrays:
        return None
    first, second = (_tensors(arrays, f"{prefix}{kind}:", state) for kind in _MOMENTS)
    return Moments(first, second, int(arrays[f"{prefix}moments_step"]))


def _tensors(arrays: Mapping[str, np.ndarray], prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key in arrays:
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        tensor = torch.from_numpy(np.array(arrays[key]))
        like = state.get(name)
        if like is not None:
            bits = like.dtype.is_floating_point and not tensor.dtype.is_floating_point
            tensor = (tensor.view(like.dtype) if bits else tensor).to(like.device)
        found[name] = tensor
    return {name: found[name] for name in state if name in found} | found
