"""The entropy monitor: one probe per branch of a frozen teacher, and the branch weights made from its entropies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .kernels import at_least_float32, autocast_disabled
from .token_distillation import BRANCHES


@strict
class EntropyMonitorConfig(PreTrainedConfig):
    r"""
    Configuration of [`EntropyMonitor`].

    Args:
        branch_widths (`dict[str, int]`, *optional*, defaults to width 768 for every branch):
            Width of the teacher's tokens, by branch; the `branch_widths` of its config.
        hidden_layers (`int`, *optional*, defaults to 0):
            Hidden layers of each probe. 0 is the paper's linear probe; 1 and 2 are its ablation of two and three
            layers, whose hidden width and activation are not given in the paper: the branch's own width and GELU.
        teacher_name_or_path (`str`, *optional*):
            Where the teacher was loaded from.
        teacher_fingerprint (`str`, *optional*):
            [`~distillation.teacher.fingerprint`] of the teacher; another teacher's tokens are refused.
        statistics (`dict`, *optional*):
            What the trainer measured, by branch (accuracy, entropies).

    The number of classes comes with `num_labels` or `id2label`, which must be the teacher's.
    """

    model_type = "emktd_entropy_monitor"

    branch_widths: dict[str, int] | None = None
    hidden_layers: int = 0
    teacher_name_or_path: str | None = None
    teacher_fingerprint: str | None = None
    statistics: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.branch_widths is None:
            self.branch_widths = dict.fromkeys(BRANCHES, 768)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation."""
        unknown = [branch for branch in self.branch_widths if branch not in BRANCHES]
        if unknown or not self.branch_widths:
            raise ValueError(f"branch_widths names {list(self.branch_widths)}; known branches are {list(BRANCHES)}.")
        if min(self.branch_widths.values()) < 1:
            raise ValueError(f"branch_widths must be positive, got {self.branch_widths}.")
        if self.hidden_layers < 0:
            raise ValueError(f"hidden_layers must be 0 (linear probe) or more, got {self.hidden_layers}.")


@dataclass
class EntropyMonitorOutput(ModelOutput):
    """
    Output of [`EntropyMonitor`].

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `labels` are given):
            Sum over the branches of the mean cross entropy.
        logits (`dict[str, torch.Tensor]`): by branch, `(batch, num_labels)`, float32.
        entropies (`dict[str, torch.Tensor]`): by branch, `(batch,)`, float32, in nats: between 0 and
            `log(num_labels)`.
    """

    loss: Tensor | None = None
    logits: dict[str, Tensor] | None = None
    entropies: dict[str, Tensor] | None = None


class EntropyMonitor(PreTrainedModel):
    """
    One probe per branch on the mean of the frozen teacher's tokens; the entropy of its softmax says how much the
    branch knows about a clip (EM-KTD, ICLR 2026). Trained with cross entropy before distillation, then frozen.

    Each probe is a LayerNorm without parameters and one linear layer. The normalisation is not given in the paper: the
    lengths of tokens differ between branches (two of three come before any final norm) and one learning rate trains
    all probes, so without it entropies would tell lengths instead of knowledge.
    """

    config_class = EntropyMonitorConfig
    config: EntropyMonitorConfig
    base_model_prefix = "monitor"
    main_input_name = "tokens"

    def __init__(self, config: EntropyMonitorConfig):
        super().__init__(config)
        self.probes = nn.ModuleDict(
            {
                branch: _probe(config.branch_widths[branch], config.num_labels, config.hidden_layers)
                for branch in BRANCHES
                if branch in config.branch_widths
            }
        )
        self.post_init()

    def forward(self, tokens: Mapping[str, Tensor], labels: Tensor | None = None) -> EntropyMonitorOutput:
        """
        Args:
            tokens: by branch, `(batch, tokens, width)` or their means `(batch, width)`; a branch that is missing or
                `None` is left out.
            labels: int64 `(batch,)` or float `(batch, num_labels)` probabilities.
        """
        logits = {
            branch: self._branch_logits(probe, tokens[branch])
            for branch, probe in self.probes.items()
            if tokens.get(branch) is not None
        }
        if not logits:
            raise ValueError(f"the monitor has probes for {list(self.probes)}, but got tokens of {list(tokens)}.")
        loss = None
        if labels is not None:
            loss = torch.stack([F.cross_entropy(branch_logits, labels) for branch_logits in logits.values()]).sum()
        entropies = {branch: entropy_of(branch_logits) for branch, branch_logits in logits.items()}
        return EntropyMonitorOutput(loss=loss, logits=logits, entropies=entropies)

    def _branch_logits(self, probe: nn.Module, tokens: Tensor) -> Tensor:
        with autocast_disabled(tokens):
            return at_least_float32(probe(mean_tokens(tokens).to(self.dtype)))


def _probe(width: int, num_labels: int, hidden_layers: int) -> nn.Sequential:
    hidden = [layer for _ in range(hidden_layers) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), *hidden, nn.Linear(width, num_labels))


def mean_tokens(tokens: Tensor) -> Tensor:
    """`(batch, tokens, width)` -> `(batch, width)`, float32 or float64: what the probes see. Means pass unchanged."""
    tokens = at_least_float32(tokens)
    return tokens.mean(dim=1) if tokens.ndim == 3 else tokens


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats: `(..., classes)` -> `(...)`, float32 or float64. A logit of -inf adds 0."""
    log_probabilities = at_least_float32(logits).log_softmax(dim=-1)
    finite = log_probabilities.clamp_min(torch.finfo(log_probabilities.dtype).min)
    return -(log_probabilities.exp() * finite).sum(dim=-1)


def entropy_weights(entropies: Mapping[str, Tensor], lam: float = 0.5) -> dict[str, Tensor]:
    r"""
    Branch weights \\(w_m = \exp(-\lambda H_m)\\), each of the shape of its entropies (EM-KTD, ICLR 2026).

    Args:
        lam: \\(\lambda\\) per nat. Not given in the paper; 0.5 did best in a pilot of ours (85.9 % teacher, 5 %
            student on occluded spoken and written digits).
    """
    return {branch: torch.exp(-lam * entropy) for branch, entropy in entropies.items()}
