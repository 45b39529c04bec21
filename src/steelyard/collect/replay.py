"""Metagradients of a problem, kept in the run folder, and how far to trust them: metasmoothness."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Float64

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, ModelError, SettingError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.replay import Training, metagradients, record
from steelyard.problem import HasGradients, HasReplay, Problem, require
from steelyard.run import Run
from steelyard.run.seeds import generator

SMOOTH = 0.5
"""Metasmoothness from which a derivative describes what a change of the data does."""

_SAME = 1e-3  # relative distance between a replayed model and the explained one that is rounding


@dataclass(frozen=True, eq=False)
class Metagradients:
    """Exact derivatives through a training.

    Attributes:
        values: Of every query's measurement in the weight of every training example.
        facts: Steps, and what else belongs into the record.
    """

    values: Float64[np.ndarray, "train query"]
    facts: Mapping[str, Any]


def replayed(problem: Problem, run: Run) -> Metagradients:
    """Derivative of every query's measurement in the weight of every training example, through the whole training.

    Cost: per step of the training two to three forward and backward passes, and a pull per query; see
    ``gradients.replay``.

    Raises:
        CapabilityError: If the learner cannot replay its training.
        ModelError: If the training does not repeat: it depends on something besides its seed.
    """
    learner = require(problem.learner, HasReplay, method="Replay", instead="source, tracin or ekfac")
    key = _key("replay/metagradients", problem, queries=True)

    def compute() -> dict[str, np.ndarray]:
        training = cast(Training, learner.replay(problem.train, seed=problem.seed))
        fitted = explained(problem, run)
        recording = record(training)
        engine = cast(HasGradients, problem.learner).gradients(fitted)
        if not isinstance(engine, TorchGradients):
            raise CapabilityError("Replay needs a torch model.", fix="use leave_one_out.")
        _check_same(recording.final.values, engine)
        gradients = torch.from_numpy(engine.dense(problem.query, "measurement"))
        # A gradient whose graph is kept, and two more per query to pull a cotangent through it.
        run.spend(gradients=len(problem.query) + 2 * training.visits * (1 + len(problem.query)))
        with run.progress("replay", training.steps, unit="steps") as progress:
            found = metagradients(training, recording, gradients, progress.advance)
        run.spend(fits=1 if recording.spacing == 1 else 2)
        return {"values": found.T, "steps": np.array(training.steps), "spacing": np.array(recording.spacing)}

    arrays = run.keep(key, compute)
    facts = {"steps": int(arrays["steps"]), "state_every_steps": int(arrays["spacing"])}
    return Metagradients(np.asarray(arrays["values"]), facts)


def metasmoothness(
    problem: Problem, run: Run, *, step: float = 0.1, directions: int = 1, seed: int = 0
) -> Float[np.ndarray, " direction"]:
    """How linear the trained parameters are in the weights of the training examples, from -1 to 1.

    With A(w) the parameters after training at weights w, v a random direction and h the step: the agreement in
    sign of ``A(w + h v) - A(w)`` and ``A(w + 2 h v) - A(w + h v)``, weighted by how far each parameter moves. Near 1
    a derivative predicts what a change of the data does; near 0 training is chaotic at this distance, and every
    method that differentiates through it misleads.

    Cost: two fits per direction and one.

    Args:
        problem: Learner and training examples; queries do not matter.
        run: Where results are kept.
        step: h, relative to each example's weight.
        directions: How many random directions.
        seed: Of the directions.

    Raises:
        SettingError: If the step or the number of directions is not positive.
        CapabilityError: If the learner cannot replay its training.

    Source: Engstrom et al. (2025), arXiv:2503.13751, definition 2, eq. 6. Deviation: directions are uniform signs, so
    that no weight turns negative.
    """
    if not (0 < step < 0.5 and directions >= 1):
        raise SettingError(
            f"metasmoothness: step={step}, directions={directions}.",
            fix="give a step between 0 and 0.5, and at least one direction.",
        )
    learner = require(problem.learner, HasReplay, method="metasmoothness", instead="ekfac")
    key = _key(f"replay/metasmoothness-{step}-{directions}-{seed}", problem, queries=False)

    def at(weights: np.ndarray) -> torch.Tensor:
        run.spend(fits=1)
        training = cast(Training, learner.replay(problem.train, weights, problem.seed))
        return record(training, spacing=training.steps).final.values

    def compute() -> dict[str, np.ndarray]:
        count = len(problem.train)
        middle = at(np.ones(count))
        draws = generator(seed, "metasmoothness")
        found: list[float] = []
        with run.progress("metasmoothness", directions, unit="directions") as progress:
            for _ in range(directions):
                sign = draws.choice([-1.0, 1.0], count)
                near, far = at(1 + step * sign), at(1 + 2 * step * sign)
                found.append(_agreement(middle, near, far))
                progress.advance()
        return {"values": np.array(found)}

    return np.asarray(run.keep(key, compute)["values"])


def _agreement(start: torch.Tensor, near: torch.Tensor, far: torch.Tensor) -> float:
    moved = (far - start).abs().double()
    total = float(moved.sum())
    if total == 0:
        return 1.0
    return float((moved * torch.sign(near - start) * torch.sign(far - near)).sum() / total)


def _check_same(values: torch.Tensor, engine: TorchGradients) -> None:
    parameters = dict(engine.model.named_parameters())
    fitted = torch.cat([parameters[name].detach().reshape(-1) for name in engine.names]).to(values)
    apart = float((fitted - values).norm() / values.norm().clamp_min(1e-30))
    if apart > _SAME:
        raise ModelError(
            f"the training does not repeat: parameters differ by {apart:.1%} from those of the explained model.",
            fix="remove what depends on more than the seed (time, global state, numpy's random numbers), or "
            "non-deterministic kernels.",
        )


def _key(name: str, problem: Problem, *, queries: bool) -> str:
    return f"{name}-{problem.mark()}{f'-{problem.query.checksum[:16]}' if queries else ''}"
