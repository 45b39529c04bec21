"""The learner for PyTorch modules: trains by a recipe, measures, and serves the gradient engine."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from steelyard.errors import CapabilityError, ModelError, SettingError
from steelyard.learners import torch_checks as checks
from steelyard.learners.last_layer import LastLayer
from steelyard.learners.recipes import (
    Recipe,
    last_recipe,
    penalty,
    recipe_settings,
    shortened,
)
from steelyard.learners.torch_batches import (
    Layout,
    Table,
    Take,
    agree,
    layout_of,
    require_examples,
    tabulate,
)
from steelyard.learners.torch_course import Course, Reweigh, stage_members
from steelyard.learners.torch_embedding import embeddings
from steelyard.learners.torch_evaluation import evaluated, forget, whole_hessian
from steelyard.learners.torch_functions import Functions
from steelyard.learners.torch_last_layer import linear_layer
from steelyard.learners.torch_losses import Batch, Loss, NamedLoss, resolve_loss, resolve_measure
from steelyard.learners.torch_spans import Span, spans, states
from steelyard.learners.torch_stacked import Stack, measure_stack
from steelyard.learners.torch_start import Start, check_resettable, origin_of, wider
from steelyard.learners.torch_state import check_state, checksum, dump, function_name, restore
from steelyard.learners.torch_steps import Moments
from steelyard.learners.torch_together import Together, decide, measure_together
from steelyard.learners.torch_training import (
    TorchFitted,
    UserFit,
    known_moments,
    present,
    seeded,
    snapshot,
    train,
    train_by_user,
)
from steelyard.records import Examples, Measurement

if TYPE_CHECKING:
    from steelyard.learners.torch_replay import TorchTraining

_EVALUATED = 256  # examples per forward pass without gradients
_REMEMBERED = 4  # modules and tables kept for reuse


class Torch:
    """Trains a ``torch.nn.Module`` and answers for it.

    Training loss and query measurement are two functions of a model and a batch; a batch is a dictionary of
    tensors by column name (``batch["input"]``, ``batch["label"]``, every other numeric column). Named losses
    call ``model(*inputs)`` with the input columns in order. Text labels are numbered in sorted order.

    The module is copied when the learner is made: the caller's is never changed, nor is torch's random state.
    Fits draw from torch's global generator and put it back, so run them in processes, not in threads.

    Args:
        net: The module; or a function that makes a new one, called under the seed of each fit.
        loss: ``"cross_entropy"`` (logits, class labels), ``"mse"``, ``"binary_cross_entropy"`` (logits), a
            function ``(model, batch) -> [batch]``, or a :class:`Loss`, which says more about such a function.
        measurement: ``"loss"``, ``"margin"`` (correct logit minus logsumexp of the others),
            ``"log_probability"``, or a function ``(model, batch) -> [batch]`` with its meaning:
            ``(function, Measurement(...))``.
        recipe: How to train: ``SGD``, ``Adam``, ``AdamW``, or your own ``fit(examples, weights, seed) ->
            module``, which sees only examples whose weight is not 0.
        trained: The module's parameters are the model that is explained. Without a recipe, no refits.
        start: Where fits start: ``"fresh"`` from new parameters (``reset_parameters`` of every submodule),
            ``"given"`` from the module's own (fine-tuning), or from what a function makes under the seed.
        embedding: Submodule whose output is the embedding; None: what the last linear layer reads.
        classes: Text labels in the order of the logits; None: those of the training examples, sorted.

    Raises:
        SettingError: If settings contradict one another.
        ModelError: If there are no parameters, or a fresh start is impossible.

    Example:
        >>> import torch
        >>> from steelyard.learners import SGD, Torch
        >>> Torch(torch.nn.Linear(4, 3), recipe=SGD(lr=0.1, epochs=5), measurement="margin").measurement.unit
        'logits'
    """

    def __init__(  # noqa: PLR0913 - the one place where a model, its functions and its training come together
        self,
        net: nn.Module | Callable[[], nn.Module],
        *,
        loss: str | Callable[..., Any] | Loss = "cross_entropy",
        measurement: str | tuple[Callable[..., Any], Measurement] | Callable[..., Any] = "loss",
        recipe: Recipe | UserFit | None = None,
        trained: bool = False,
        start: Start = "fresh",
        embedding: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        if recipe is None and not trained:
            raise SettingError(
                "Torch: neither recipe= nor trained=True, so there is no model to explain.",
                fix="give recipe=SGD(lr=..., epochs=...), or trained=True if the module is trained.",
            )
        given = resolve_loss(loss)
        self._functions = Functions(given, resolve_measure(measurement, given))
        self._origin = origin_of(net, start, trained=trained)
        self._net = self._origin.net
        checks.check_parameters(self._net)
        if self._origin.start == "fresh" and isinstance(recipe, Recipe):
            check_resettable(self._net)
        self._recipe, self._trained, self._embedding = recipe, trained, embedding
        self._classes = tuple(str(name) for name in classes) if classes is not None else None
        floating = next(p for p in self._net.parameters() if p.is_floating_point())
        self._dtype, self._device = floating.dtype, floating.device
        # What is learned from the first examples seen, and what is kept to be reused.
        self._layout: Layout | None = None
        self._adopted: tuple[str, ...] | None = None
        self._width: int | None = None
        self._reweigh: Reweigh | None = None
        self._modules: WeakKeyDictionary[TorchFitted, nn.Module] = WeakKeyDictionary()
        self._tables: WeakKeyDictionary[Examples, Table] = WeakKeyDictionary()
        self._ways: WeakKeyDictionary[Examples, Together] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"Torch({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_modules": None, "_tables": None, "_ways": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._modules, self._tables, self._ways = (WeakKeyDictionary() for _ in range(3))

    @property
    def measurement(self) -> Measurement:
        """What :meth:`measure` returns: name, unit, direction."""
        return self._functions.measure.measurement

    def settings(self) -> Mapping[str, Any]:
        """Settings as plain values, for provenance."""
        recipe, loss = self._recipe, self._functions.given
        named = None if recipe is None else function_name(recipe)
        return {
            "model": type(self._net).__name__,
            "parameters": sum(p.numel() for p in self._net.parameters()),
            "loss": loss.name if isinstance(loss, NamedLoss) else function_name(loss.function),
            "measurement": self.measurement.name,
            **(recipe_settings(recipe) if isinstance(recipe, Recipe) else {"recipe": named}),
            "trained": self._trained,
            "start": self._origin.start,
        }

    def fingerprint(self) -> str:
        """Checksum of architecture, loss, measurement and recipe; of parameters if they are used as given."""
        loss, measure = self._functions.given, self._functions.measure
        facts = {**self.settings(), "classes": self._classes, "embedding": self._embedding}
        if isinstance(loss, Loss):
            facts |= {"function": loss.function, "outputs": loss.outputs, "factor": loss.hessian_factor}
        facts |= {"measure": measure.of_model, "factory": self._origin.factory}
        if self._reweigh is not None:
            facts["reweigh"] = repr(self._reweigh) if is_dataclass(self._reweigh) else self._reweigh
        if not isinstance(self._recipe, Recipe):
            facts["fit"] = self._recipe
        return checksum(self._net, facts, with_values=self._trained or self._origin.start == "given")

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        """Look for whatever would make results wrong, before any work; notes on handled cases come back.

        Cost: a few forward passes of eight examples; labels of all examples are read.

        Raises:
            ModelError: If loss or measurement is not one finite, repeatable number per example by itself.
            DataError: If a label or a column cannot be used, or there is only one class to learn.
        """
        layout = self._remember(require_examples(train))
        fresh = not self._trained and self._origin.start != "given"
        notes = checks.check_several_classes(train, refuse=fresh) if self._functions.kind == "class" else ()
        model = self._begin().eval()
        checks.check_few("loss", self.loss_function, model, train, self._table)
        checks.check_few(
            "measurement", self.measurement_function, model, require_examples(query), self._table
        )
        notes += checks.describe_modules(self._net, trains=self._recipe is not None)
        if layout.classes is not None and self._classes is None and self._trained:
            numbered = ", ".join(f"{name} = {k}" for k, name in enumerate(layout.classes[:8]))
            notes += (f"text labels were numbered in sorted order ({numbered}); classes=... says otherwise.",)
        return notes + checks.describe_decay(self._recipe)

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> TorchFitted:
        """Train from the start. An example of weight 0 is absent: it does not even change the batch order.

        Cost: epochs times examples gradient-equivalents.

        Args:
            examples: Training examples.
            weights: ``[example]`` Factors on the losses, times the column ``weight`` if there is one; batches are
                still divided by their size.
            seed: Of initial parameters, batch order and randomness inside the network.

        Raises:
            FitError: If training diverges; names epoch, step and example.
            CapabilityError: If the learner has no recipe.
            DataError: If a label or a weight cannot be used.
        """
        if self._recipe is None:
            raise CapabilityError(
                "this Torch learner came trained and without a recipe, so it cannot be trained again.",
                fix="give recipe=SGD(lr=..., epochs=...) (or Adam, AdamW, your own fit) beside trained=True.",
            )
        layout = self._remember(require_examples(examples))
        if isinstance(self._recipe, Recipe):
            course = self._course(self._recipe, examples, weights, seed)
            fitted = train(self._origin.draw, self.loss_function, course)
        else:
            rows, kept = present(examples.weights(), weights)
            chosen = examples if len(rows) == len(examples) else examples.take(rows)
            given = np.ones(len(rows)) if kept is None else kept
            fitted = train_by_user(self._recipe, chosen, given, seed=seed, device=self._device)
            check_state(fitted.parameters, self._net)
        return replace(fitted, classes=layout.classes)

    def follow(
        self,
        examples: Examples,
        watch: Callable[[int, TorchFitted], None],
        weights: np.ndarray | None = None,
        seed: int = 0,
    ) -> TorchFitted:
        """Train as :meth:`fit` does, bit by bit, and show the model after every epoch, counted from 1.

        Cost: a fit, and one copy of the parameters per epoch.

        Raises:
            CapabilityError: If there is no recipe, or it is the user's own function.
        """
        if not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "the epochs of this training cannot be seen: the model came trained, or from your own fit.",
                fix="give recipe=SGD(lr=..., epochs=...) (or Adam, AdamW), or use self_confidence or knn_label.",
            )
        layout = self._remember(require_examples(examples))

        def show(epoch: int, state: dict[str, Tensor]) -> None:
            watch(epoch, TorchFitted(state, seed, classes=layout.classes))

        course = replace(self._course(self._recipe, examples, weights, seed), watch=show)
        return replace(train(self._origin.draw, self.loss_function, course), classes=layout.classes)

    def shortened(self, share: float) -> "Torch":
        """The same learner trained for that share of its epochs, at least one, the schedule drawn together.

        Raises:
            CapabilityError: If there is no recipe, or it is the user's own function.
        """
        if not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "the epochs of this training are not known: the model came trained, or from your own fit.",
                fix="give recipe=SGD(lr=..., epochs=...) (or Adam, AdamW).",
            )
        twin = copy.copy(self)
        twin._recipe, twin._ways = shortened(self._recipe, share), WeakKeyDictionary()
        return twin

    def reweighing(self, reweigh: Reweigh) -> "Torch":
        """The same learner, whose training asks a function for a further factor on every loss of every batch.

        Fits of it go one by one, and methods that replay a training refuse it.

        Args:
            reweigh: See ``torch_course.Reweigh``; a function, or a frozen dataclass that can be called.

        Raises:
            CapabilityError: If there is no recipe, or it is the user's own function.
        """
        if not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "the steps of this training cannot be reached: the model came trained, or from your own fit.",
                fix="give recipe=SGD(lr=..., epochs=...) (or Adam, AdamW).",
            )
        twin = copy.copy(self)
        twin._reweigh, twin._ways = reweigh, WeakKeyDictionary()
        return twin

    def laid_out(
        self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0
    ) -> tuple[Callable[[], nn.Module], Course]:
        """What :meth:`fit` begins with and goes through, for training loops of one's own.

        Raises:
            CapabilityError: If there is no recipe, or it is the user's own function.
        """
        if not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "the steps of this training are not known: the model came trained, or from your own fit.",
                fix="give recipe=SGD(lr=..., epochs=...) (or Adam, AdamW).",
            )
        self._remember(require_examples(examples))
        return self._origin.draw, self._course(self._recipe, examples, weights, seed)

    def with_extra_class(self, examples: Examples) -> "tuple[Torch, int | str]":
        """A learner whose last linear layer has one output more, and the label of that output.

        Raises:
            CapabilityError: If the loss is not cross-entropy, the last layer is not linear, or its outputs are not
                the classes.
        """
        classes = self._remember(require_examples(examples)).classes
        if self._functions.kind != "class" or not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "a class can only be added to a network that is trained here by loss='cross_entropy'.",
                fix="use aum with threshold='none'.",
            )
        outputs = self._outputs_of(examples.take(slice(0, 1)), self._layout or Layout(), self._take())
        extra: int | str = outputs if classes is None else f"{max(classes)}+"
        other = Torch(
            wider(self._origin, outputs),
            loss="cross_entropy",
            recipe=self._recipe,
            start="given" if self._origin.start == "given" else "fresh",
            classes=None if classes is None else (*classes, str(extra)),
        )
        return other, extra

    def explained(self, examples: Examples, seed: int = 0) -> TorchFitted:
        """The model that is asked about: the module as given if it came trained, else ``fit(examples)``."""
        if not self._trained:
            return self.fit(examples, seed=seed)
        layout = self._remember(require_examples(examples))
        return TorchFitted(snapshot(self._net), seed, classes=layout.classes)

    def measure(self, fitted: TorchFitted, queries: Examples) -> Float64[np.ndarray, " query"]:
        """The measurement of every query, in evaluation mode."""
        return self._evaluate(fitted, queries, self.measurement_function).numpy()

    def loss(self, fitted: TorchFitted, examples: Examples) -> Float64[np.ndarray, " example"]:
        """Training loss of every example in evaluation mode, without regularisation, unweighted."""
        return self._evaluate(fitted, examples, self.loss_function).numpy()

    def probabilities(self, fitted: TorchFitted, examples: Examples) -> Float64[np.ndarray, "example class"]:
        """Class probabilities, columns in the order of the label values 0, 1 and so on.

        Raises:
            CapabilityError: If the loss is not a named classification loss with one answer per example.
        """
        return self._functions.probabilities(self._evaluate(fitted, examples, self._outputs)).numpy()

    def embed(self, fitted: TorchFitted, examples: Examples) -> Float32[np.ndarray, "example feature"]:
        """What the last linear layer reads, averaged over positions; or what ``embedding`` gives."""
        own = isinstance(self._functions.given, Loss) and self._functions.given.outputs is None
        run = self.loss_function if own else self._outputs

        def read(model: nn.Module, batch: Batch) -> Tensor:
            return embeddings(model, run, batch, module=self._embedding)

        return self._evaluate(fitted, examples, read).numpy().astype(np.float32)

    def last_layer(self, fitted: TorchFitted) -> LastLayer:
        """The last linear layer of a network with a named loss, as a linear model on what it reads.

        Raises:
            CapabilityError: If the loss is the user's own, or the network does not end in a linear layer.
        """
        return linear_layer(fitted, self._functions.given, self.load(fitted), self._outputs, self.batches)

    def checkpoints(self, fitted: TorchFitted) -> Iterator[tuple[TorchFitted, float]]:
        """Fitted models along the training, each with the sum of learning rates since the one before.

        Where none were asked for, the final model with the learning rates of the whole training.

        Raises:
            CapabilityError: If the training is not known: the model came trained or from the user's own fit.
        """
        return states(fitted)

    def spans(self, fitted: TorchFitted, examples: Examples) -> Sequence[Span]:
        """The training behind a fitted model: every kept state with what happened since the one before.

        Raises:
            CapabilityError: If the training is not known: the model came trained or from the user's own fit.
        """
        return spans(fitted, self._recipe, examples)

    def replay(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> "TorchTraining":
        """The training that :meth:`fit` does, to be gone through again step by step and back.

        Raises:
            CapabilityError: If the training is not known: the model came trained or from the user's own fit.
        """
        from steelyard.learners.torch_replay import TorchTraining

        if self._trained or self._reweigh is not None or not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "the training of this model is not known: it came trained, is reweighed, or from your own fit.",
                fix="let the learner train it: recipe=SGD(...) without trained=True; or use ekfac.",
            )
        self._remember(require_examples(examples))
        course = self._course(self._recipe, examples, weights, seed)
        return TorchTraining(self._origin.draw, self.loss_function, course, len(examples))

    def together(self, examples: Examples) -> int:
        """How many fits on subsets of these examples are best made at once; 1: one by one."""
        return self._together(examples).count

    def together_note(self, examples: Examples) -> str:
        """How fits are made and why so."""
        return self._together(examples).reason

    def measure_together(
        self,
        examples: Examples,
        weightings: Float[np.ndarray, "fit example"],
        seeds: Sequence[int],
        queries: Examples,
    ) -> Float64[np.ndarray, "fit query"]:
        """Train once per weighting, side by side, and measure; the numbers of :meth:`fit` up to rounding.

        Args:
            examples: Training examples.
            weightings: As :meth:`fit` takes them, one row per fit.
            seeds: One per fit.
            queries: What is measured.

        Returns:
            A row of NaN for a training that diverged or had nothing to train on.

        Raises:
            CapabilityError: If the learner has no recipe.
        """
        if not isinstance(self._recipe, Recipe):
            raise CapabilityError(
                "fits are made together by a recipe, and this learner has none.",
                fix="give recipe=SGD(lr=..., epochs=...), or fit one by one.",
            )
        recipe, own = self._recipe, self._functions.measure.of_model is not None
        courses = [self._course(recipe, examples, *one) for one in zip(weightings, seeds, strict=True)]

        def ask(stack: Stack) -> np.ndarray:
            batches = self.batches(queries, _EVALUATED)
            return measure_stack(stack, self.measurement_function, batches, one_by_one=own)

        return measure_together(self._origin.draw, self.loss_function, courses, ask)

    def moments(self, fitted: TorchFitted) -> Moments:
        """Adam's moments at this model, by parameter and without bias correction.

        Raises:
            CapabilityError: If the training is not known, or did not end with Adam or AdamW.
        """
        return known_moments(fitted)

    def measuring(self, measurement: str) -> "Torch":
        """The same learner with another measurement: ``"lead"``, ``"margin"``, ``"log_probability"`` or ``"loss"``.

        Raises:
            SettingError: If it has no meaning for the loss.
        """
        twin, given = copy.copy(self), self._functions.given
        twin._functions = Functions(given, resolve_measure(measurement, given))
        return twin

    def explaining(self, fitted: TorchFitted) -> "Torch":
        """The same learner, whose explained model is this one."""
        twin = copy.copy(self)
        twin._net, twin._trained = copy.deepcopy(self.load(fitted)), True
        return twin

    def continuing(self, fitted: TorchFitted) -> "Torch":
        """The same learner, whose trainings go on from this model; the optimiser begins anew."""
        twin = self.explaining(fitted)
        twin._origin = replace(self._origin, net=twin._net, factory=None, start="given")
        twin._trained, twin._ways = False, WeakKeyDictionary()
        return twin

    def dump(self, fitted: TorchFitted) -> Mapping[str, np.ndarray]:
        """The fitted model as arrays."""
        return dump(fitted)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> TorchFitted:
        """The inverse of :meth:`dump`.

        Raises:
            ModelError: If the arrays are of another architecture.
        """
        fitted = restore(arrays, self._net)
        check_state(fitted.parameters, self._net)
        self._adopt(fitted)
        return fitted

    def gradients(self, fitted: TorchFitted) -> Any:
        """The gradient engine at this model."""
        from steelyard.gradients.engine import TorchGradients

        return TorchGradients(self, fitted)

    def hessian(
        self, fitted: TorchFitted, examples: Examples, weights: np.ndarray | None = None
    ) -> Float[np.ndarray, "param param"]:
        """The Gauss-Newton matrix of the summed weighted loss plus its regularisation, in float64.

        Args:
            fitted: Where to evaluate it.
            examples: Training examples.
            weights: ``[example]`` Weight of every example in the sum; its column ``weight``, else 1, if None.

        Raises:
            CapabilityError: If the loss's curvature in the outputs is not known.
        """
        return whole_hessian(self, fitted, examples, weights)

    def regularisation(self, fitted: TorchFitted) -> float:
        """Coefficient of ``|parameters|² / 2`` in the mean loss of the last stage; AdamW's decay is no such term."""
        return penalty(last_recipe(self._recipe)) if isinstance(self._recipe, Recipe) else 0.0

    def load(self, fitted: TorchFitted) -> nn.Module:
        """The model with the fitted parameters, in evaluation mode; each fitted model has its own module.

        The module is kept while ``fitted`` lives and is among the last few used; do not train it.
        """
        module = self._modules.pop(fitted, None)
        self._adopt(fitted)
        if module is None:
            check_state(fitted.parameters, self._net)
            module = copy.deepcopy(self._net)
            module.load_state_dict(fitted.parameters)
        self._modules[fitted] = module
        forget(self._modules, _REMEMBERED)
        return module.eval()

    def batches(self, examples: Examples, size: int) -> Iterator[Batch]:
        """Batches of at most ``size`` examples as tensors, in order."""
        table = self._table(require_examples(examples))
        for begin in range(0, len(examples), size):
            yield table.batch(slice(begin, begin + size))

    def loss_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` training losses, unreduced and differentiable."""
        return self._functions.loss(model, batch, self._layout or Layout())

    def measurement_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` query measurements, differentiable where the user's own are."""
        return self._functions.measurement(model, batch, self._layout or Layout())

    def sampled_loss_function(
        self, model: nn.Module, batch: Batch, generator: torch.Generator
    ) -> Tensor | None:
        """``[batch]`` losses at labels drawn from the model's predictions; None where those are not known.

        The mean outer product of their gradients is the Gauss-Newton matrix of the loss: labels are drawn
        from the softmax, from a normal distribution of variance K/2 around K outputs (``mse``), or from
        Bernoulli distributions, the loss times sqrt(K) (``binary_cross_entropy``).
        """
        return self._functions.sampled(model, batch, self._layout or Layout(), generator)

    def output_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch, outputs]``: what the loss is a convex function of; CapabilityError where not known."""
        return self._functions.flat_outputs(model, batch, self._layout or Layout())

    def output_hessian_factor(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``[batch, outputs, rank]``: R with R Rᵀ the Hessian of each loss in the outputs."""
        return self._functions.hessian_factor(outputs, batch)

    def _course(self, recipe: Recipe, examples: Examples, weights: np.ndarray | None, seed: int) -> Course:
        rows, kept = present(examples.weights(), weights)
        factors = None if kept is None else torch.tensor(kept, dtype=self._dtype, device=self._device)
        members = stage_members(recipe, examples, rows)
        table = self._table(examples)
        return Course(table, recipe, rows, factors, seed, members=members, reweigh=self._reweigh)

    def _together(self, examples: Examples) -> Together:
        found = self._ways.get(require_examples(examples))
        if found is None:
            if self._reweigh is not None:
                found = Together(1, "fits are made one by one: every step asks for weights")
            elif isinstance(self._recipe, Recipe):
                course = self._course(self._recipe, examples, None, 0)
                found = decide(self._origin.draw, self.loss_function, course, self._net)
            else:
                found = Together(1, "")
            self._ways[examples] = found
        return found

    def _outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._functions.outputs(model, batch, self._layout or Layout())

    def _begin(self) -> nn.Module:
        # The model that checks look at: the one explained, or the untrained one of seed 0.
        if self._trained or not isinstance(self._recipe, Recipe):
            return copy.deepcopy(self._net)
        with seeded(0, self._device):
            return self._origin.draw()

    def _remember(self, examples: Examples) -> Layout:
        if self._layout is None:
            found = layout_of(examples)
            known = self._classes or self._adopted
            self._layout = replace(found, classes=known) if found.classes and known else found
        agree(self._layout, examples)
        return self._layout

    def _adopt(self, fitted: TorchFitted) -> None:
        # A model fitted elsewhere brings the numbers of its text labels; other numbers would mean other classes.
        known = self._layout.classes if self._layout else self._classes or self._adopted
        if fitted.classes in (None, known):
            return
        if known is not None or self._layout is not None:
            raise ModelError(
                f"the model was fitted to the classes {list(fitted.classes or ())}, but this learner has "
                f"{list(known or ())}.",
                fix="make another learner for this model, or give both the same classes=....",
            )
        self._adopted = fitted.classes

    def _table(self, examples: Examples) -> Table:
        table = self._tables.pop(examples, None)
        if table is None:
            layout = agree(self._remember(examples), examples)
            take = self._take()
            if take.kind == "class":
                take = replace(take, outputs=self._outputs_of(examples.take(slice(0, 1)), layout, take))
            table = tabulate(examples, layout, take)
        self._tables[examples] = table
        forget(self._tables, _REMEMBERED)
        return table

    def _take(self) -> Take:
        return Take(self._dtype, self._device, self._functions.kind)

    def _outputs_of(self, example: Examples, layout: Layout, take: Take) -> int:
        if self._width is not None:
            return self._width
        table = tabulate(example, replace(layout, label=None), take)
        with torch.no_grad():
            model = copy.deepcopy(self._net).eval()
            found = checks.call("model", self._outputs, model, table.batch(slice(0, 1)))
        self._width = int(found.shape[-1])
        return self._width

    def _evaluate(
        self, fitted: TorchFitted, examples: Examples, function: Callable[[nn.Module, Batch], Tensor]
    ) -> Tensor:
        return evaluated(function, self.load(fitted), self.batches(examples, _EVALUATED))
