"""LoRA (Hu et al., 2021), by the peft library: small matrices are trained beside the frozen weights of a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .families import family_of

if TYPE_CHECKING:
    from .arguments import AudioVisualTrainingArguments

ALL_LINEAR = "all-linear"


@dataclass
class LoraArguments:
    """
    Whether a model is adapted instead of trained whole, and how. `lora_rank` alone is enough.

    Raises:
        ValueError: for a rank or alpha that is not positive, or options without a rank.
    """

    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Train adapters of this rank and the head; all else stays as it is. By default the whole model is "
            "trained."
        },
    )
    lora_alpha: float | None = field(
        default=None, metadata={"help": "Adapters count alpha / rank times; by default twice the rank."}
    )
    lora_target_modules: list[str] = field(
        default_factory=lambda: [ALL_LINEAR],
        metadata={
            "help": "Ends of the names of the layers that get an adapter, such as q_proj v_proj; by default all "
            "linear layers."
        },
    )
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters."})
    merge_adapter: bool | None = field(
        default=None,
        metadata={
            "help": "true saves the whole model, adapters merged into it, false the adapter alone. By default a "
            "teacher is saved as an adapter of the model it started from, and a student whole."
        },
    )

    def __post_init__(self) -> None:
        if self.lora_rank is None:
            if self.lora_alpha is not None or self.merge_adapter is not None:
                raise ValueError("lora_alpha and merge_adapter are options of adapters; give lora_rank, too.")
            return
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.lora_rank}.")
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise ValueError(f"lora_alpha must be positive, got {self.lora_alpha}.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must lie in [0, 1), got {self.lora_dropout}.")

    def settle(self, args: AudioVisualTrainingArguments, start: str | None, merge: bool) -> None:
        """
        Takes `merge` for `merge_adapter` where that was left alone.

        Args:
            args: of the run.
            start: directory or Hub id that the model starts from.
            merge: whether the model is saved whole by default.

        Raises:
            ValueError: if nothing says what to adapt, an option has no meaning beside adapters, or what will be pushed
                could not be loaded by others.
        """
        if self.lora_rank is None:
            return
        self.merge_adapter = merge if self.merge_adapter is None else self.merge_adapter
        if start is None:
            raise ValueError("lora_rank adapts a model that has learnt something; name one to start from.")
        if args.freeze or args.freeze_epochs:
            raise ValueError(
                "freeze and freeze_epochs have no meaning beside lora_rank, which freezes all but the head."
            )
        if args.push_to_hub and not self.merge_adapter and Path(start).is_dir():
            raise ValueError(
                f"the adapter's base {start} lies on this machine alone, so nobody could load the pushed adapter. "
                "Push the base first and start from its Hub id, or push the whole model with --merge_adapter true."
            )

    def to_dict(self) -> dict[str, Any]:
        """The options that a repetition of the run needs; none where the whole model is trained."""
        return {} if self.lora_rank is None else dict(vars(self))

    def to_config(self, config: PreTrainedConfig) -> LoraConfig:
        """For peft; the modules that the model's family trains whole are saved with the adapters."""
        targets = ALL_LINEAR if self.lora_target_modules == [ALL_LINEAR] else self.lora_target_modules
        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=targets,
            modules_to_save=list(family_of(config).trained_whole),
        )


def add_adapters(model: PreTrainedModel, args: LoraArguments) -> PreTrainedModel | PeftModel:
    """
    `model` with new adapters, all else but the modules that its family trains whole frozen; the model itself where
    `args` ask for none.

    Raises:
        ValueError: if no layer has a name that `lora_target_modules` ends.
    """
    if args.lora_rank is None:
        return model
    with without_peft_warning():
        return get_peft_model(model, args.to_config(model.config))


@contextmanager
def without_peft_warning() -> Iterator[None]:
    """Around the making of a `PeftModel`, which asks transformers by a name that is to go: nobody else can mend it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def merge_adapters(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """
    The model with its adapters added into its weights, on the CPU; `model` is used up. One without is left alone.

    In float64, so that a merged model and its adapter, loaded on any machine, have equal weights: the entropy monitor
    knows its teacher by them.
    """
    if not isinstance(model, PeftModel):
        return model
    dtype = model.dtype
    return model.cpu().double().merge_and_unload().to(dtype)


def inner_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model of transformers, with its adapters where it has any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def without_adapters(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """What to count parameters and operations of: the model, or one of its architecture that has no weights."""
    if not isinstance(model, PeftModel):
        return model
    with torch.device("meta"):
        return AutoModel.from_config(model.config)


def base_name(model: PreTrainedModel | PeftModel) -> str | None:
    """Directory or Hub id of the model that an adapter belongs to; `None` of a whole model."""
    return model.active_peft_config.base_model_name_or_path if isinstance(model, PeftModel) else None
