"""The learner for language models and text classifiers of transformers, whole or with LoRA adapters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from steelyard.errors import CapabilityError, FitError, SettingError
from steelyard.learners import torch_checks as checks
from steelyard.learners.recipes import Recipe, last_recipe, penalty, recipe_settings
from steelyard.learners.torch_batches import require_examples
from steelyard.learners.torch_course import Course, stage_members
from steelyard.learners.torch_evaluation import evaluated, forget, whole_hessian
from steelyard.learners.torch_losses import Batch
from steelyard.learners.torch_spans import Span, spans, states
from steelyard.learners.torch_state import checksum, dump, function_name, restore
from steelyard.learners.torch_steps import Moments
from steelyard.learners.torch_training import TorchFitted, known_moments, present, train
from steelyard.learners.transformers_answers import answered, packed
from steelyard.learners.transformers_fits import (
    Start,
    beginning,
    check_half,
    check_trainable,
    filled,
    is_half,
    sharing_copy,
    trainable,
    widened,
)
from steelyard.learners.transformers_frozen import lower_of
from steelyard.learners.transformers_labels import class_names, labels_of, outputs_of
from steelyard.learners.transformers_load import device_of, facts_of, open_model, padding_of, reading_of
from steelyard.learners.transformers_measure import frozen_head, functions_for, head_agrees, pooled
from steelyard.learners.transformers_settings import Files, LoRA, Text
from steelyard.learners.transformers_spans import SPAN
from steelyard.learners.transformers_table import POSITIONS, TokenTable, numeric_columns, positions_of
from steelyard.learners.transformers_text import describe_cuts, encode
from steelyard.records import Examples, Measurement

if TYPE_CHECKING:
    from steelyard.learners.torch_replay import TorchTraining

_EVALUATED = 16  # examples per forward pass without gradients
_REMEMBERED = 4  # tables, and modules with adapters, kept for reuse
_LARGE = 16_000_000  # trained parameters from which only one module is kept


class Transformers:
    """Fine-tunes a causal language model or a sequence classifier, and answers for it.

    Examples are a text (every token counts), a ``prompt`` and a ``completion`` (the completion counts),
    ``messages`` (what the assistant says counts, by the chat template) or sequences of tokens; for classifiers
    a text or two, with a label. The loss of an example is the sum of its tokens' losses in nats.

    Batches are padded on the right to their longest example; padding is neither attended to nor counted, so the
    other examples of a batch change nothing. The model is opened from a local folder, never from the network,
    or copied from a module, which is left as it is. Fitted models hold the trained parameters alone.

    Args:
        model: A folder that ``save_pretrained`` wrote (of a model or of an adapter), a ``.gguf`` file, or a
            transformers or PEFT model.
        tokenizer: A tokenizer or its folder; None: that of the model's folder.
        adapter: Folder of a trained LoRA adapter for this model; only it is trained and attributed to.
        lora: New LoRA adapters; only they are trained and attributed to.
        recipe: How to fine-tune: ``SGD``, ``Adam``, ``AdamW`` or ``Stages`` of them.
        trained: The model as given is the one that is explained. Without a recipe, no refits.
        start: Where fits start: ``"given"`` (the parameters as given), ``"fresh"`` (adapters, or all parameters,
            drawn anew under the seed of the fit), or a function that makes a model. Default: fresh adapters,
            given parameters.
        measurement: ``"loss"``; ``"log_probability"`` of the completion or label; ``"margin"`` (log-odds,
            summed over tokens); ``"span"`` (log-probability of the part of the completion that the column
            ``span`` names); or ``(function, Measurement(...))`` with ``(model, batch) -> [batch]``.
        reduction: ``"sum"`` or ``"mean"`` of an example's token losses.
        max_length: Tokens to which longer examples are cut, which the report says; None: none may be longer
            than the model's context.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``; None: float32 from a folder, its own
            for a module.
        text: How text becomes tokens.
        files: How the folder is opened: task, GGUF file, attention, device, remote code.
        classes: Text labels in the order of a classifier's logits; None: those of the model's configuration.
        gradient_checkpointing: Fits compute activations again in the backward pass: less memory, a third slower.

    Raises:
        SettingError: If settings contradict one another.
        ModelError: If the model cannot be opened, or its tokenizer or adapter belongs to another.

    Example:
        >>> from steelyard.learners import AdamW, LoRA
        >>> LoRA(rank=4, target_modules=("q_proj", "v_proj")).alpha
        16
    """

    def __init__(  # noqa: PLR0913 - the one place where a model, its data and its training come together
        self,
        model: str | Path | nn.Module,
        *,
        tokenizer: Any = None,
        adapter: str | Path | None = None,
        lora: LoRA | None = None,
        recipe: Recipe | None = None,
        trained: bool = False,
        start: Start | None = None,
        measurement: str | tuple[Callable[..., Any], Measurement] = "loss",
        reduction: str = "sum",
        max_length: int | None = None,
        dtype: str | None = None,
        text: Text | None = None,
        files: Files | None = None,
        classes: Sequence[str] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        if recipe is None and not trained:
            raise SettingError(
                "Transformers: neither recipe= nor trained=True, so there is no model to explain.",
                fix="give recipe=AdamW(lr=..., epochs=...), or trained=True if the model is trained.",
            )
        loaded = open_model(model, tokenizer, adapter=adapter, lora=lora, files=files or Files(), dtype=dtype)
        net, self._task, self._notes = loaded.net, loaded.task, loaded.notes
        check_half(net, recipe)
        checks.check_parameters(net)
        self._net, self._recipe, self._trained, self._dtype = net, recipe, trained, dtype
        self._begin = beginning(
            net, start, adapted=loaded.adapted, trained=trained, refits=recipe is not None,
            checkpointing=gradient_checkpointing,
        )  # fmt: skip
        outputs = outputs_of(net) if loaded.task == "classifier" else None
        self._outputs = outputs
        self._classes = None if outputs is None else class_names(net, classes)
        self._functions = replace(
            functions_for(loaded.task, reduction, measurement, outputs),
            lower=lower_of(net),
            head=frozen_head(net) if loaded.task == "causal" else "",
        )
        self._tried = False
        self._positioned = False
        self._reading = reading_of(loaded, text or Text(), max_length)
        self._lora, self._digest = lora, ""
        self._padding = padding_of(net, loaded.tokenizer)
        self._checked: dict[tuple[str, str], tuple[str, ...]] = {}
        self._modules: WeakKeyDictionary[TorchFitted, nn.Module] = WeakKeyDictionary()
        self._tables: WeakKeyDictionary[Examples, TokenTable] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"Transformers({', '.join(f'{name}={value!r}' for name, value in self.settings().items())})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_modules": None, "_tables": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._modules, self._tables = WeakKeyDictionary(), WeakKeyDictionary()

    @property
    def measurement(self) -> Measurement:
        """What :meth:`measure` returns: name, unit, direction."""
        return self._functions.measure.measurement

    def settings(self) -> Mapping[str, Any]:
        """Settings as plain values, for provenance."""
        sizes = [(p.numel(), p.requires_grad) for p in self._net.parameters()]
        start = self._begin.start
        return {
            "model": type(self._net).__name__,
            "task": self._task,
            "parameters": sum(size for size, trained in sizes if trained),
            "frozen": sum(size for size, trained in sizes if not trained),
            "lora": None if self._lora is None else asdict(self._lora),
            "dtype": self._dtype,
            "measurement": self.measurement.name,
            "reduction": self._functions.reduction,
            "max_length": self._reading.max_length,
            "text": asdict(self._reading.text),
            **(recipe_settings(self._recipe) if self._recipe else {"recipe": None}),
            "trained": self._trained,
            "start": start if isinstance(start, str) else function_name(start),
        }

    def fingerprint(self) -> str:
        """Checksum of architecture, parameters as given, tokenizer, loss, measurement and recipe.

        Cost: one look at all parameters, the first time.
        """
        if not self._digest:
            facts = {
                **self.settings(),
                "classes": self._classes,
                "function": self._functions.measure.function,
            }
            facts["tokens"] = facts_of(self._reading.tokenizer)
            self._digest = checksum(self._net, facts, with_values=True)
        return self._digest

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        """Look for whatever would make results wrong, before any work; notes on handled cases come back.

        Cost: the first time for the same examples, all texts are tokenised; a few forward passes of eight examples.
        In float16 one forward pass of all examples, because one that overflows means that everything is computed in a
        wider number type.

        Raises:
            ModelError: If loss or measurement is not one finite, repeatable number per example by itself.
            DataError: If an example is empty, too long, or has a label that is no class of the model.
        """
        # Every method and every verification asks; on a large model a look takes as long as a dozen gradients.
        asked = (train.checksum, query.checksum)
        if asked not in self._checked:
            self._checked[asked] = self._look(train, query)
        # A fit that overflowed since then has left a note of its own.
        return tuple(dict.fromkeys((*self._checked[asked], *self._notes)))

    def _look(self, train: Examples, query: Examples) -> tuple[str, ...]:
        notes: tuple[str, ...] = ()
        for examples in (train, query):
            table = self._table(require_examples(examples))
            notes += describe_cuts(examples, table.encoded, self._reading)
        if is_half(self._net):
            given = TorchFitted(trainable(self._net), 0)
            self.loss(given, train)
            self.measure(given, query)
        notes += self._notes
        model = filled(self._net, trainable(self._net))
        loss, measured = self._comparable(self.loss_function), self._comparable(self.measurement_function)
        checks.check_few("loss", loss, model, train, self._table)
        checks.check_few("measurement", measured, model, query, self._table)
        notes += checks.describe_modules(self._net, trains=self._recipe is not None)
        if self._functions.lower is not None:
            notes += (self._functions.lower.note(),)
        return notes + checks.describe_decay(self._recipe)

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> TorchFitted:
        """Fine-tune from the start. An example of weight 0 is absent: it does not even change the batch order.

        Cost: epochs times examples gradient-equivalents.

        Args:
            examples: Training examples.
            weights: ``[example]`` Factors on the losses, times the column ``weight`` if there is one; batches are
                still divided by their size.
            seed: Of new parameters, batch order and dropout.

        Raises:
            FitError: If training diverges; names epoch, step and example.
            CapabilityError: If the learner has no recipe.
            DataError: If an example or a weight cannot be used.
        """
        if self._recipe is None:
            raise CapabilityError(
                "this Transformers learner came trained and without a recipe, so it cannot be trained again.",
                fix="give recipe=AdamW(lr=..., epochs=...) beside trained=True; on the command line, say how it was "
                "trained: --recipe epochs=3,lr=2e-4,batch_size=8 (with --fresh, if this run had begun without).",
            )
        course = self._course(self._recipe, require_examples(examples), weights, seed)
        try:
            return train(self._begin.draw, self.loss_function, course)
        except FitError as error:
            if not is_half(self._net):
                raise
            self._widen(f"a fit failed in float16 ({error.problem})")
            return train(self._begin.draw, self.loss_function, course)

    def explained(self, examples: Examples, seed: int = 0) -> TorchFitted:
        """The model that is asked about: the one given if it came trained, else ``fit(examples)``."""
        return TorchFitted(trainable(self._net), seed) if self._trained else self.fit(examples, seed=seed)

    def measure(self, fitted: TorchFitted, queries: Examples) -> Float64[np.ndarray, " query"]:
        """The measurement of every query, with dropout off."""
        return self._evaluate(fitted, queries, self.measurement_function).numpy()

    def loss(self, fitted: TorchFitted, examples: Examples) -> Float64[np.ndarray, " example"]:
        """Training loss of every example with dropout off, without regularisation, unweighted."""
        return self._evaluate(fitted, examples, self.loss_function).numpy()

    def probabilities(self, fitted: TorchFitted, examples: Examples) -> Float64[np.ndarray, "example class"]:
        """Class probabilities of a classifier, columns in the order of its outputs.

        Raises:
            CapabilityError: If the model is a language model, or has one output.
        """
        if self._outputs is None or self._outputs < 2:
            raise CapabilityError(
                "class probabilities need a sequence classifier with several outputs.",
                fix="use a method without probabilities.",
            )
        return self._evaluate(fitted, examples, self._chances).numpy()

    def embed(self, fitted: TorchFitted, examples: Examples) -> Float32[np.ndarray, "example feature"]:
        """The last hidden states, averaged over the tokens that are no padding."""
        found = self._evaluate(fitted, examples, lambda m, b: pooled(self._functions, m, b))
        return found.numpy().astype(np.float32)

    def checkpoints(self, fitted: TorchFitted) -> Iterator[tuple[TorchFitted, float]]:
        """Fitted models along the training, each with the sum of learning rates since the one before.

        Where none were asked for, the final model with the learning rates of the whole training.

        Raises:
            CapabilityError: If the training is not known: the model came trained.
        """
        return states(fitted)

    def spans(self, fitted: TorchFitted, examples: Examples) -> Sequence[Span]:
        """The training behind a fitted model: every kept state with what happened since the one before.

        Raises:
            CapabilityError: If the training is not known: the model came trained.
        """
        return spans(fitted, self._recipe, examples)

    def replay(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> "TorchTraining":
        """The training that :meth:`fit` does, to be gone through again step by step and back.

        Raises:
            CapabilityError: If the training is not known: the model came trained.
        """
        from steelyard.learners.torch_replay import TorchTraining

        if self._trained or self._recipe is None:
            raise CapabilityError(
                "the training of this model is not known: it came trained.",
                fix="let the learner train it: recipe=AdamW(...) without trained=True; or use ekfac.",
            )
        course = self._course(self._recipe, require_examples(examples), weights, seed)
        return TorchTraining(self._begin.draw, self.loss_function, course, len(examples))

    def moments(self, fitted: TorchFitted) -> Moments:
        """Adam's moments at this model, by parameter and without bias correction.

        Raises:
            CapabilityError: If the training is not known, or did not end with Adam or AdamW.
        """
        return known_moments(fitted)

    def dump(self, fitted: TorchFitted) -> Mapping[str, np.ndarray]:
        """The trained parameters as arrays."""
        return dump(fitted)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> TorchFitted:
        """The inverse of :meth:`dump`.

        Raises:
            ModelError: If the arrays are of another model or of other adapters.
        """
        fitted = restore(arrays, self._net)
        check_trainable(fitted.parameters, self._net)
        return fitted

    def gradients(self, fitted: TorchFitted) -> Any:
        """The gradient engine at this model; in float32 for a model in float16, whose products would overflow."""
        from steelyard.gradients.engine import TorchGradients

        return TorchGradients(self, fitted, dtype=torch.float32 if is_half(self._net) else None)

    def hessian(
        self, fitted: TorchFitted, examples: Examples, weights: np.ndarray | None = None
    ) -> Float[np.ndarray, "param param"]:
        """The Gauss-Newton matrix of the summed weighted loss plus its regularisation, in float64.

        Args:
            fitted: Where to evaluate it.
            examples: Training examples.
            weights: ``[example]`` Weight of every example in the sum; its column ``weight``, else 1, if None.

        Raises:
            SettingError: If more than 20,000 parameters are trained.
        """
        return whole_hessian(self, fitted, examples, weights)

    def regularisation(self, fitted: TorchFitted) -> float:
        """Coefficient of ``|parameters|² / 2`` in the mean loss; AdamW's decoupled decay is no such term."""
        return 0.0 if self._recipe is None else penalty(last_recipe(self._recipe))

    def load(self, fitted: TorchFitted) -> nn.Module:
        """The model with the fitted parameters, in evaluation mode; frozen parameters are shared by all.

        The module is kept while ``fitted`` lives and is among the last few used; do not train it.
        """
        module = self._modules.pop(fitted, None)
        if module is None:
            check_trainable(fitted.parameters, self._net)
            module = filled(self._net, fitted.parameters)
        self._modules[fitted] = module
        size = sum(value.numel() for value in fitted.parameters.values())
        forget(self._modules, 1 if size >= _LARGE else _REMEMBERED)
        return module.eval()

    def batches(self, examples: Examples, size: int) -> Iterator[Batch]:
        """Batches of at most ``size`` examples as tensors, in order."""
        table = self._table(require_examples(examples))
        for begin in range(0, len(examples), size):
            yield table.batch(slice(begin, begin + size))

    def loss_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` training losses, unreduced over examples and differentiable."""
        return self._functions.loss(model, batch)

    def measurement_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch]`` query measurements, differentiable where the user's own are."""
        return self._functions.measurement(model, batch)

    def sampled_loss_function(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """``[batch]`` losses at tokens (or labels) drawn from the model's own predictions."""
        return self._functions.sampled(model, batch, generator)

    def output_function(self, model: nn.Module, batch: Batch) -> Tensor:
        """``[batch, outputs]``: the logits of all tokens, or of the classes."""
        return self._functions.outputs(model, batch)

    def output_hessian_factor(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``[batch, outputs, rank]``: R with R Rᵀ the Hessian of each loss in the outputs."""
        return self._functions.hessian_factor(outputs, batch)

    def output_hessian_product(self, outputs: Tensor, tangents: Tensor, batch: Batch) -> Tensor:
        """``[vector, batch, outputs]``: that Hessian times tangents of this shape, at any size of vocabulary."""
        return self._functions.hessian_product(outputs, tangents, batch)

    def lengths(self, examples: Examples) -> Int[np.ndarray, " example"]:
        """Tokens per example, after cutting."""
        return self._table(examples).encoded.lengths

    def token_spans(self, examples: Examples) -> list[list[tuple[int, int]]]:
        """First character and the one after the last of every token in :meth:`texts`; empty for special tokens."""
        return self._table(examples).encoded.spans()

    def texts(self, examples: Examples) -> list[str]:
        """What the tokens of each example are made of: prompt and completion together, or the chat as text."""
        return list(self._table(examples).encoded.texts)

    def answer(self, fitted: TorchFitted, queries: Examples, *, tokens: int = 64) -> Examples:
        """The queries with the model's own most probable answers as completions, or as the assistant's message.

        To ask which examples made the model answer so, measure the ``log_probability`` of these queries.

        Args:
            fitted: The model that answers.
            queries: With a prompt, or with messages; completions in them are replaced.
            tokens: Most tokens per answer.

        Raises:
            CapabilityError: If the model is a classifier or the queries are plain texts.
            DataError: If an answer is empty.
        """
        return answered(self.load(fitted), require_examples(queries), self._reading, self._padding, tokens)

    def packed(self, examples: Examples, length: int, *, apart: bool = False) -> Examples:
        """Blocks of ``length`` tokens, filled with one example after another, as pre-training packs them.

        A token sees all of its block before it, other examples' tokens too, and positions count from the start of
        the block: losses and gradients are those of the block, not those of its examples apart. With ``apart``, a
        token sees its own example alone, whose positions count from 0: the loss of a block of whole examples is the
        sum of theirs.

        The blocks are then the examples that are trained on and attributed to; the column ``sources`` says which
        examples each holds a part of. A block of prompts alone, with no token that counts, is left out.

        Args:
            examples: In order.
            length: Tokens per block.
            apart: Whether examples are kept from attending to each other.

        Raises:
            CapabilityError: If the model does not keep them apart, which is tested on the first two.
        """
        encoded = self._table(require_examples(examples)).encoded
        if apart:
            self._check_apart(examples.take(slice(0, 2)))
        return packed(examples, encoded, length, apart=apart)

    def _check_apart(self, pair: Examples) -> None:
        given = TorchFitted(trainable(self._net), 0)
        loss = replace(self._functions, reduction="sum").loss
        encoded, alone = self._table(pair).encoded, float(self._evaluate(given, pair, loss).sum())
        try:
            block = packed(pair, encoded, max(2, int(encoded.lengths.sum())), apart=True)
            together = float(self._evaluate(given, block, loss).sum())
        except (TypeError, ValueError, RuntimeError) as error:
            raise CapabilityError(
                f"{type(self._net).__name__} takes no mask that keeps packed examples apart ({error}).",
                fix="pack with apart=False, or do not pack.",
            ) from error
        half = next(self._net.parameters()).dtype.itemsize < 4
        if not abs(together - alone) <= (5e-2 if half else 1e-3) * abs(alone):
            raise CapabilityError(
                f"{type(self._net).__name__} does not keep packed examples apart: two of them have a loss of "
                f"{together:g} in a block and of {alone:g} by themselves.",
                fix="pack with apart=False, or open the model with attention='sdpa' or 'eager'.",
            )

    def _course(self, recipe: Recipe, examples: Examples, weights: np.ndarray | None, seed: int) -> Course:
        table = self._table(examples)
        rows, kept = present(examples.weights(), weights)
        dtype = torch.promote_types(next(self._net.parameters()).dtype, torch.float32)
        factors = None if kept is None else torch.tensor(kept, dtype=dtype, device=table.device)
        members = stage_members(recipe, examples, rows)
        return Course(table, recipe, rows, factors, seed, keep=trainable, members=members)

    def _table(self, examples: Examples) -> TokenTable:
        if POSITIONS in examples.columns and not self._positioned:
            # From now on positions are told for every batch, so that layers that read them are always alike.
            self._positioned = True
            self._tables.clear()
        table = self._tables.pop(examples, None)
        if table is None:
            spans = self._functions.measure.name == "span" and SPAN in examples.columns
            encoded = encode(examples, self._reading, spans=spans)
            classes = None
            if self._outputs is not None and examples.label is not None:
                classes = labels_of(examples, self._outputs, self._classes)
            extra = numeric_columns(examples) if self._functions.measure.function is not None else {}
            device = device_of(self._net)
            places = positions_of(examples, encoded) if self._positioned else None
            table = TokenTable(
                examples.ids, encoded, classes, self._padding, device, extra, self._shorten, places
            )
        self._tables[examples] = table
        forget(self._tables, _REMEMBERED)
        return table

    def _shorten(self, batch: dict[str, Tensor]) -> None:
        """Let passes leave out what is frozen, where that is seen to change nothing."""
        if not self._tried and "labels" in batch:
            self._tried = True
            if self._functions.head and not head_agrees(
                self._functions, sharing_copy(self._net).eval(), batch
            ):
                self._functions = replace(self._functions, head="")
        if self._functions.lower is not None:
            self._functions.lower.add_to(batch, self._functions.loss)

    def _chances(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._functions.run(model, batch).logits.float().softmax(1)

    def _comparable(
        self, function: Callable[[nn.Module, Batch], Tensor]
    ) -> Callable[[nn.Module, Batch], Tensor]:
        # Values computed in half precision agree between batches to half precision only.
        dtype = next(self._net.parameters()).dtype
        kept = torch.bfloat16 if dtype.itemsize < 4 else dtype
        return lambda model, batch: function(model, batch).to(kept)

    def _evaluate(
        self, fitted: TorchFitted, examples: Examples, function: Callable[[nn.Module, Batch], Tensor]
    ) -> Tensor:
        found = evaluated(function, self.load(fitted), self.batches(examples, _EVALUATED))
        bad = (~torch.isfinite(found)).nonzero()
        if len(bad) and is_half(self._net):
            example = str(examples.ids[int(bad[0, 0])])
            self._widen(f"example {example!r} of {examples.source} overflows float16")
            return self._evaluate(fitted, examples, function)
        return found

    def _widen(self, reason: str) -> None:
        self.fingerprint()  # of the model as it was given, whenever it is asked for
        self._net, name = widened(self._net)
        self._begin = replace(self._begin, net=self._net)
        self._functions = replace(self._functions, lower=lower_of(self._net))
        self._modules.clear()
        self._tables.clear()
        self._dtype = f"{name}, because {reason}"
        self._notes += (f"{reason}: everything is computed in {name} instead.",)
