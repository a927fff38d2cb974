"""
CAV-MAE, fine-tuning architecture (Gong et al., 2023, https://huggingface.co/papers/2210.07839).

Audio and picture pass through layers of their own, then through joint layers; there is no class token. Official file:
`src/models/cav_mae.py`, class `CAVMAEFT`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .configuration_cav_mae import CavMaeConfig


@dataclass
class CavMaeModelOutput(ModelOutput):
    """
    Output of [`CavMaeModel`].

    Args:
        pooler_output (`torch.Tensor` of shape `(batch_size, hidden_size)`):
            Mean of the normalised joint tokens.
        audio_tokens (`torch.Tensor` of shape `(batch_size, audio_tokens, hidden_size)`, *optional*):
            Output of the audio branch's own last layer, no norm applied; `None` without audio.
        visual_tokens (`torch.Tensor` of shape `(batch_size, visual_tokens, hidden_size)`, *optional*):
            Output of the visual branch's own last layer, no norm applied; `None` without a picture.
        fusion_tokens (`torch.Tensor` of shape `(batch_size, audio_tokens + visual_tokens, hidden_size)`, *optional*):
            Output of the joint layers after the final norm, audio tokens first; `None` unless all the model's inputs
            are given. Of a model with one modality its tokens alone. The EM-KTD paper takes tokens from the last layer
            of each branch and is silent on the norm; after it is where the classifier reads them.
        audio_hidden_states, visual_hidden_states, fusion_hidden_states (`tuple[torch.Tensor]`, *optional*):
            With `output_hidden_states=True`: input of a branch's first layer, then the output of each of its layers.
    """

    pooler_output: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    fusion_tokens: torch.Tensor | None = None
    audio_hidden_states: tuple[torch.Tensor, ...] | None = None
    visual_hidden_states: tuple[torch.Tensor, ...] | None = None
    fusion_hidden_states: tuple[torch.Tensor, ...] | None = None


@dataclass
class CavMaeClassifierOutput(ModelOutput):
    """
    Output of [`CavMaeForAudioVisualClassification`]: the fields of [`CavMaeModelOutput`] and

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*):
            Cross entropy, returned when `labels` are given.
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`):
            Scores before the softmax.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    fusion_tokens: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    audio_hidden_states: tuple[torch.Tensor, ...] | None = None
    visual_hidden_states: tuple[torch.Tensor, ...] | None = None
    fusion_hidden_states: tuple[torch.Tensor, ...] | None = None


def norm_suffixes(config: CavMaeConfig) -> tuple[str, ...]:
    """Ends of the names of a layer's norms: shared ones and, in a model with two modalities, some of each."""
    own = [f"_{modality}" for modality in config.modalities]
    return ("", *own) if len(own) > 1 else ("",)


def sincos_position_embeddings(width: int, grid: tuple[int, int]) -> torch.Tensor:
    """
    Fixed two-dimensional sine and cosine embeddings, float32 `(1, rows * columns, width)`.

    The first half of the width encodes the column (time), the second the row (frequency); official file
    `src/models/pos_embed.py`.
    """
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = [position.reshape(-1, 1) * frequencies for position in (columns, rows)]
    embeddings = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return embeddings.float().unsqueeze(0)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention over `(batch, heads, tokens, head_dim)`; the softmax is taken in float32."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CavMaePatchEmbeddings(nn.Module):
    """Turns `(batch, channels, height, width)` into `(batch, tokens, hidden_size)`, row by row."""

    def __init__(self, config: CavMaeConfig, num_channels: int):
        super().__init__()
        patch = config.patch_size
        self.projection = nn.Conv2d(num_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projection(pixels.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)


class CavMaeEmbeddings(nn.Module):
    """Patch, position and modality embeddings of one modality."""

    def __init__(self, config: CavMaeConfig, num_channels: int, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.patch_embeddings = CavMaePatchEmbeddings(config, num_channels)
        self.position_embeddings = nn.Parameter(torch.zeros(1, math.prod(grid), config.hidden_size))
        self.modality_embeddings = nn.Parameter(torch.zeros(1, 1, config.hidden_size))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.patch_embeddings(pixels) + self.position_embeddings + self.modality_embeddings


class CavMaeAttention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, config: CavMaeConfig):
        super().__init__()
        self.config = config
        self.num_attention_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, tokens, 3, self.num_attention_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        context, _ = attend(self, query, key, value, None, dropout=0.0, scaling=self.scaling)
        return self.output(context.reshape(batch, tokens, width))


class CavMaeMLP(nn.Module):
    """Feed-forward layer."""

    def __init__(self, config: CavMaeConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class CavMaeLayer(GradientCheckpointingLayer):
    """
    Pre-norm transformer layer with three pairs of norms: shared, audio and visual.

    Only a joint layer ever uses the modality norms. The layers of the audio and of the visual branch carry them too,
    as the official checkpoints do, but frozen: they never receive a gradient, which DDP would wait for. A model with
    one modality has the shared pair alone.
    """

    def __init__(self, config: CavMaeConfig, joint: bool):
        super().__init__()
        self.joint = joint
        for position in ("before", "after"):
            for suffix in norm_suffixes(config):
                norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
                self.add_module(f"layernorm_{position}{suffix}", norm)
        self.attention = CavMaeAttention(config)
        self.mlp = CavMaeMLP(config)
        self.freeze_unused_norms()

    def freeze_unused_norms(self) -> None:
        """Freezes the modality norms unless this is a joint layer."""
        for name, norm in self.named_children():
            if not self.joint and name.endswith(("_audio", "_visual")):
                norm.requires_grad_(False)

    def _norms(self, modality: str | None) -> tuple[nn.Module, nn.Module]:
        if modality == "audio":
            return self.layernorm_before_audio, self.layernorm_after_audio
        if modality == "visual":
            return self.layernorm_before_visual, self.layernorm_after_visual
        return self.layernorm_before, self.layernorm_after

    def forward(self, hidden_states: torch.Tensor, modality: str | None = None) -> torch.Tensor:
        before, after = self._norms(modality)
        hidden_states = hidden_states + self.attention(before(hidden_states))
        return hidden_states + self.mlp(after(hidden_states))


class CavMaePreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading, common to the CAV-MAE models."""

    config: CavMaeConfig
    config_class = CavMaeConfig
    base_model_prefix = "cav_mae"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["CavMaeLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: CavMaeConfig):
        super().__init__(config)
        self.main_input_name = next(iter(config.input_shapes))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As `initialize_weights` of the official file, which leaves a convolution's bias to PyTorch's default."""
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            bound = math.sqrt(6 / (fan_in + module.out_channels))  # Xavier of the patch seen as a linear layer
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
        elif isinstance(module, CavMaeEmbeddings):
            position = sincos_position_embeddings(self.config.hidden_size, module.grid)
            init.copy_(module.position_embeddings, position)
            init.normal_(module.modality_embeddings, std=0.02)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As [`PreTrainedModel.from_pretrained`], which makes every loaded parameter trainable again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for module in model.modules():
            if isinstance(module, CavMaeLayer):
                module.freeze_unused_norms()
        return loaded


class CavMaeModel(CavMaePreTrainedModel):
    """The branches of CAV-MAE without a head, three or, with one modality, two; see [`CavMaeModelOutput`]."""

    def __init__(self, config: CavMaeConfig):
        super().__init__(config)
        inputs = {"audio": (1, config.audio_grid), "visual": (3, config.visual_grid)}
        for modality in config.modalities:
            self.add_module(f"{modality}_embeddings", CavMaeEmbeddings(config, *inputs[modality]))
        for modality in config.modalities:
            layers = (CavMaeLayer(config, joint=False) for _ in range(config.modality_specific_depth))
            self.add_module(f"{modality}_layers", nn.ModuleList(layers))
        self.joint_layers = nn.ModuleList(CavMaeLayer(config, joint=True) for _ in range(config.joint_depth))
        for suffix in norm_suffixes(config):
            self.add_module(f"layernorm{suffix}", nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.get_submodule(f"{self.config.modalities[0]}_embeddings.patch_embeddings")

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        single_modality_mode: str | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CavMaeModelOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, audio_length, num_mel_bins)`, *optional*):
                Normalised log-mel spectrograms from [`CavMaeFeatureExtractor`].
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, image_size, image_size)`, *optional*):
                Normalised pictures from [`CavMaeImageProcessor`]. At least one of the two inputs must be given.
            single_modality_mode (`str`, *optional*):
                `"missing"` or `"only"`; by default the configuration's. Used when one of two inputs is absent.
            output_hidden_states (`bool`, *optional*):
                Whether to return the hidden states of each branch.
            return_dict (`bool`, *optional*):
                Whether to return a [`CavMaeModelOutput`] instead of a tuple.

        Raises:
            `ValueError`: if both inputs are absent, one has a shape the position embeddings do not fit, or one is of a
                modality that the model lacks.
        """
        self._check_inputs(input_values, pixel_values)
        keep = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        audio_states = visual_states = fusion_states = None
        if input_values is not None:
            embedded = self.audio_embeddings(input_values.unsqueeze(1).transpose(2, 3))
            audio_states = self._run_layers(self.audio_layers, embedded, keep=keep)
        if pixel_values is not None:
            visual_states = self._run_layers(self.visual_layers, self.visual_embeddings(pixel_values), keep=keep)

        fusion_tokens = None
        own_tokens = [states[-1] for states in (audio_states, visual_states) if states is not None]
        if len(own_tokens) == len(self.config.modalities):
            fusion_states = self._run_layers(self.joint_layers, torch.cat(own_tokens, dim=1), keep=keep)
            fusion_tokens = self.layernorm(fusion_states[-1])
            pooled = fusion_tokens.mean(dim=1)
        elif audio_states is not None:
            pooled = self._pool_single(audio_states[-1], "audio", single_modality_mode)
        else:
            pooled = self._pool_single(visual_states[-1], "visual", single_modality_mode)

        output = CavMaeModelOutput(
            pooler_output=pooled,
            audio_tokens=None if audio_states is None else audio_states[-1],
            visual_tokens=None if visual_states is None else visual_states[-1],
            fusion_tokens=fusion_tokens,
            audio_hidden_states=audio_states if keep else None,
            visual_hidden_states=visual_states if keep else None,
            fusion_hidden_states=fusion_states if keep else None,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    @staticmethod
    def _run_layers(
        layers: nn.ModuleList, hidden_states: torch.Tensor, modality: str | None = None, keep: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The last state, or with `keep` all of them, the input first: kept states hold their memory."""
        states = (hidden_states,)
        for layer in layers:
            hidden_states = layer(hidden_states, modality)
            states = (*states, hidden_states) if keep else (hidden_states,)
        return states

    def _pool_single(self, tokens: torch.Tensor, modality: str, mode: str | None) -> torch.Tensor:
        """Pooled vector `(batch, hidden_size)` of one of two modalities alone."""
        mode = self.config.single_modality_mode if mode is None else mode
        if mode not in ("missing", "only"):
            raise ValueError(f"single_modality_mode must be 'missing' or 'only' but is {mode!r}.")
        final_norm = self.layernorm_audio if modality == "audio" else self.layernorm_visual
        pooled = final_norm(self._run_layers(self.joint_layers, tokens, modality)[-1]).mean(dim=1)
        if mode == "only":
            return pooled
        shared = self.layernorm(self._run_layers(self.joint_layers, tokens)[-1]).mean(dim=1)
        return (shared + pooled) / 2

    def _check_inputs(self, input_values: torch.Tensor | None, pixel_values: torch.Tensor | None) -> None:
        given = {"input_values": input_values, "pixel_values": pixel_values}
        self._check_modalities([name for name, value in given.items() if value is not None])
        audio_shape = (self.config.audio_length, self.config.num_mel_bins)
        if input_values is not None and tuple(input_values.shape[1:]) != audio_shape:
            raise ValueError(
                f"input_values must be (batch, {audio_shape[0]}, {audio_shape[1]}) but are "
                f"{tuple(input_values.shape)}; make them with a processor of this model's audio_length and "
                "num_mel_bins: CavMaeProcessor.from_config(model.config)."
            )
        image_shape = (3, self.config.image_size, self.config.image_size)
        if pixel_values is not None and tuple(pixel_values.shape[1:]) != image_shape:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, image_shape))}) but are "
                f"{tuple(pixel_values.shape)}; the model sees one frame at a time (run it per frame and average the "
                "softmax), of the size that CavMaeProcessor.from_config(model.config) makes."
            )

    def _check_modalities(self, given: list[str]) -> None:
        taken = list(self.config.input_shapes)
        if not given:
            raise ValueError(
                f"CAV-MAE got neither input_values nor pixel_values; this model takes {' or '.join(taken)}."
            )
        if unread := [name for name in given if name not in taken]:
            raise ValueError(
                f"a model of {self.config.modalities[0]} alone takes no {unread[0]}; give it {taken[0]} only, as "
                "CavMaeProcessor.from_config(model.config) makes them."
            )


class CavMaeClassificationHead(nn.Module):
    """Layer norm and linear layer over the pooled tokens."""

    def __init__(self, config: CavMaeConfig):
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layernorm(pooled))


class CavMaeForAudioVisualClassification(CavMaePreTrainedModel):
    """
    CAV-MAE with a classification head on the mean of the joint tokens. Either of two inputs may be absent.

    A batch with both inputs leaves the modality norms (`layernorm_audio`, `layernorm_visual` and those of the joint
    layers) without a gradient, as in the official code. DDP therefore needs `find_unused_parameters=True`, which the
    Trainer sets by itself unless gradient checkpointing is on: then pass `ddp_find_unused_parameters=True`.
    """

    def __init__(self, config: CavMaeConfig):
        super().__init__(config)
        self.cav_mae = CavMaeModel(config)
        self.classifier = CavMaeClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        single_modality_mode: str | None = None,
        output_tokens: bool = False,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CavMaeClassifierOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, audio_length, num_mel_bins)`, *optional*):
                Normalised log-mel spectrograms from [`CavMaeFeatureExtractor`].
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, image_size, image_size)`, *optional*):
                Normalised pictures from [`CavMaeImageProcessor`]. At least one of the two inputs must be given.
            labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
                Class ids (int64), or class probabilities (float, after mixup or label smoothing): cross entropy.
            single_modality_mode (`str`, *optional*):
                `"missing"` or `"only"`; by default the configuration's. Used when one of two inputs is absent.
            output_tokens (`bool`, *optional*, defaults to `False`):
                Whether to return the tokens of the three branches.
            output_hidden_states (`bool`, *optional*):
                Whether to return the hidden states of each branch.
            return_dict (`bool`, *optional*):
                Whether to return a [`CavMaeClassifierOutput`] instead of a tuple.

        Raises:
            `ValueError`: as [`CavMaeModel.forward`].
        """
        outputs = self.cav_mae(
            input_values,
            pixel_values,
            single_modality_mode=single_modality_mode,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(outputs.pooler_output)
        output = CavMaeClassifierOutput(
            loss=None if labels is None else self._classification_loss(logits, labels),
            logits=logits,
            audio_tokens=outputs.audio_tokens if output_tokens else None,
            visual_tokens=outputs.visual_tokens if output_tokens else None,
            fusion_tokens=outputs.fusion_tokens if output_tokens else None,
            pooler_output=outputs.pooler_output,
            audio_hidden_states=outputs.audio_hidden_states,
            visual_hidden_states=outputs.visual_hidden_states,
            fusion_hidden_states=outputs.fusion_hidden_states,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    @staticmethod
    def _classification_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.is_floating_point() and labels.shape != logits.shape:
            raise ValueError(
                f"floating-point labels are class probabilities and must be {tuple(logits.shape)} like the logits but "
                f"are {tuple(labels.shape)}; pass class ids as int64 of shape (batch,)."
            )
        if labels.is_floating_point():
            labels = labels.to(logits.dtype)
        return nn.functional.cross_entropy(logits, labels)


__all__ = [
    "CavMaeClassifierOutput",
    "CavMaeForAudioVisualClassification",
    "CavMaeModel",
    "CavMaeModelOutput",
    "CavMaePreTrainedModel",
]
