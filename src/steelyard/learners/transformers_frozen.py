"""What the frozen lower layers of a model make of a text, computed once and used in every fit and gradient pass.

Where only upper layers are trained (adapters in a third of the layers, a frozen lower half), the hidden states that
enter the lowest trained layer are the same in every epoch of every fit. They are kept per sequence of tokens, and a
pass starts from them. The numbers are those of the whole pass but for rounding, which is *tested* on the first
examples: values and gradients must agree, or the whole pass is made.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steelyard.learners.torch_losses import Batch
from steelyard.learners.torch_training import seeded
from steelyard.learners.transformers_fits import sharing_copy

STATES = "states"
"""Where a batch holds what enters the lowest trained layer: ``[batch, position, feature]``, 0 at padding."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
KEPT_BYTES = 2**30
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_ODD = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)

Loss = Callable[[nn.Module, Batch], Tensor]


class _Reached(Exception):  # noqa: N818 - control flow: the layers above need not be run
    """The highest frozen layer is done."""


class Lower:
    """The frozen lower layers of one model, and what they made of the texts that were seen.

    Each text is computed by itself, so that its states do not depend on what it was batched with. Where there is no
    room left to keep one, its batches make whole passes.

    Args:
        net: The model; its frozen parameters are shared, not copied.
        layers: Name of its list of layers.
        first: Lowest layer of it that is trained; their number if none is.
        most: Bytes of states that are kept.
    """

    def __init__(self, net: nn.Module, layers: str, first: int, *, most: int = KEPT_BYTES) -> None:
        self._model = sharing_copy(net).eval()
        self._frozen = {name: p for name, p in self._model.named_parameters() if not p.requires_grad}
        self._layers, self._first = layers, first
        self._kept: dict[bytes, Tensor] = {}
        self._room = most
        self._tested = False
        self._refused = ""
        self._random = False
        self._entries = 0  # of what a layer returns, where that is a tuple

    def note(self) -> str:
        """What is done, for the record."""
        count = len(_stack(self._model, self._layers))
        lower = f"the lowest {self._first} of {count} layers are not trained"
        if self._refused:
            return f"{lower}, but every pass goes through them: {self._refused}."
        fits = "gradients; fits go through them, because they are random in training"
        return (
            f"{lower}: what they make of an example is computed once and used in all "
            f"{fits if self._random else 'fits and gradients'}."
        )

    def add_to(self, batch: dict[str, Tensor], loss: Loss) -> None:
        """Put the states into a batch, unless there is no room to keep some of them.

        Args:
            batch: ``input_ids``, ``attention_mask`` and whatever else the loss reads.
            loss: ``(model, batch) -> [batch]``, to test the first batch with.
        """
        if "labels" not in batch or not len(batch["labels"]) or "position_ids" in batch:
            return
        if not self._tested:
            self._test({name: value[:2] for name, value in batch.items()}, loss)
        if not self._refused:
            found = self._states(batch)
            if found is not None:
                batch[STATES] = found

    def serves(self, model: nn.Module, batch: Batch) -> bool:
        """Whether a pass may start from the batch's states: the model has these very frozen parameters."""
        if STATES not in batch or (self._random and model.training):
            return False
        # By name: in a pass that taps layers no parameter requires a gradient.
        theirs = dict(model.named_parameters())
        return all(theirs.get(name) is own for name, own in self._frozen.items())

    @contextmanager
    def resumed(self, model: nn.Module, states: Float[Tensor, "batch position feature"]) -> Iterator[None]:
        """Within the context, the frozen layers of the model give these states without being run."""
        answer = (states, *[None] * (self._entries - 1)) if self._entries else states
        with ExitStack() as answering:
            for layer in list(_stack(model, self._layers))[: self._first]:
                answering.enter_context(other_forward(layer, lambda *_, **__: answer))
            yield

    def _states(self, batch: Batch) -> Tensor | None:
        rows = [
            {name: batch[name][row : row + 1, :length] for name in INPUTS if name in batch}
            for row, length in enumerate(batch["attention_mask"].sum(1).tolist())
        ]
        found: list[Tensor] = []
        for row in rows:
            key = b"|".join(value.cpu().numpy().tobytes() for value in row.values())
            if key not in self._kept:
                states = self._run(row)[0]
                if states.nbytes > self._room:
                    return None
                self._room -= states.nbytes
                self._kept[key] = states
            found.append(self._kept[key])
        padded = nn.utils.rnn.pad_sequence(found, batch_first=True)
        short = batch["input_ids"].shape[1] - padded.shape[1]
        return nn.functional.pad(padded, (0, 0, 0, short)) if short else padded

    def _run(self, row: Batch) -> Float[Tensor, "batch position feature"]:
        reached: list[Any] = []

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            reached.append(output)
            raise _Reached

        handle = _stack(self._model, self._layers)[self._first - 1].register_forward_hook(stop)
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._model(**row)
        except _Reached:
            pass
        finally:
            handle.remove()
        output = reached[0]
        self._entries = len(output) if isinstance(output, tuple) else 0
        return cast(Tensor, output[0] if isinstance(output, tuple) else output)

    def _test(self, batch: dict[str, Tensor], loss: Loss) -> None:
        """Compare values and gradients with those of the whole pass."""
        self._tested = True
        try:
            whole = _value_and_gradients(self._model, loss, batch)
            states = self._states(batch)
            if states is None:
                self._refused = "there is no room to keep what they make of two examples"
                return
            short = _value_and_gradients(self._model, loss, {**batch, STATES: states})
            alone = {name: batch[name][:1] for name in INPUTS if name in batch}
            given = self._run(alone)
            with seeded(0, batch["input_ids"].device):
                self._model.train()
                self._random = not torch.equal(self._run(alone), given)
        except _ODD as error:
            self._refused = f"{type(error).__name__}: {error}"
            return
        finally:
            self._model.eval()
        for a, b in zip(whole, short, strict=True):
            gap, size = float((a - b).abs().max()), float(a.abs().max())
            if not gap <= _TOLERANCE.get(a.dtype, 5e-2) * size:
                self._refused = f"a pass that starts above them differs by {gap:.2g} of {size:.2g}"


@contextmanager
def other_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context, calling this one module calls ``forward``; its hooks are run as ever."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def lower_of(net: nn.Module, *, most: int = KEPT_BYTES) -> Lower | None:
    """The frozen lower layers of a model; None if its lowest layer is trained, or it is no stack of layers."""
    stacks = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(m) for m in module}) == 1
    ]
    if not stacks:
        return None
    name, stack = max(stacks, key=lambda found: sum(p.numel() for p in found[1].parameters()))
    first = next(
        (i for i, layer in enumerate(stack) if any(p.requires_grad for p in layer.parameters())), len(stack)
    )
    return Lower(net, name, first, most=most) if first else None


def _stack(model: nn.Module, name: str) -> nn.ModuleList:
    return cast(nn.ModuleList, model.get_submodule(name))


def _value_and_gradients(model: nn.Module, loss: Loss, batch: Batch) -> tuple[Tensor, Tensor]:
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.inference_mode(mode=False), torch.enable_grad():
        values = loss(model, batch)
        found = torch.autograd.grad(values.sum(), trained, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, trained, strict=True)]
    return values.detach(), torch.cat([part.flatten().to(values.dtype) for part in parts])
