"""
An audio and a visual encoder of transformers, joined by a small fusion transformer.

The fusion is that of CAV-MAE (Gong et al., 2023, https://huggingface.co/papers/2210.07839): the tokens of both
modalities in one sequence, the classifier on their mean; with a projection before it, since the widths differ.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .configuration_audio_visual_encoder import AudioVisualEncoderConfig


@dataclass
class AudioVisualEncoderModelOutput(ModelOutput):
    """
    Output of [`AudioVisualEncoderModel`].

    Args:
        pooler_output (`torch.Tensor` of shape `(batch_size, fusion_hidden_size)`):
            Mean of the normalised fusion tokens, of those of the one modality where the other is absent.
        audio_tokens (`torch.Tensor` of shape `(batch_size, audio_tokens, audio_width)`, *optional*):
            What the audio encoder returns, after its own final norm, without prefix tokens; `None` without audio.
        visual_tokens (`torch.Tensor` of shape `(batch_size, visual_tokens, visual_width)`, *optional*):
            The same of the visual encoder, a feature map row by row; `None` without a picture.
        fusion_tokens (`torch.Tensor` of shape `(batch_size, audio_tokens + visual_tokens, fusion_hidden_size)`,
            *optional*):
            Output of the fusion layers after the final norm, audio tokens first; `None` unless all the model's inputs
            are given.
    """

    pooler_output: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    fusion_tokens: torch.Tensor | None = None


@dataclass
class AudioVisualEncoderClassifierOutput(ModelOutput):
    """
    Output of [`AudioVisualEncoderForAudioVisualClassification`]: the fields of [`AudioVisualEncoderModelOutput`] and

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


class AudioVisualEncoderAttention(nn.Module):
    """Multi-head self-attention with one fused projection."""

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__()
        self.config = config
        self.num_attention_heads = config.fusion_num_attention_heads
        self.head_dim = config.fusion_hidden_size // config.fusion_num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.qkv = nn.Linear(config.fusion_hidden_size, 3 * config.fusion_hidden_size)
        self.output = nn.Linear(config.fusion_hidden_size, config.fusion_hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, tokens, 3, self.num_attention_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        context, _ = attend(self, query, key, value, None, dropout=0.0, scaling=self.scaling)
        return self.output(context.reshape(batch, tokens, width))


class AudioVisualEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__()
        width, eps = config.fusion_hidden_size, config.fusion_layer_norm_eps
        inner = int(width * config.fusion_mlp_ratio)
        self.layernorm_before = nn.LayerNorm(width, eps=eps)
        self.attention = AudioVisualEncoderAttention(config)
        self.layernorm_after = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.layernorm_before(hidden_states))
        return hidden_states + self.mlp(self.layernorm_after(hidden_states))


class AudioVisualEncoderProjection(nn.Module):
    """An encoder's tokens in the width of the fusion. Normalised first: encoders differ in scale."""

    def __init__(self, config: AudioVisualEncoderConfig, width: int):
        super().__init__()
        self.layernorm = nn.LayerNorm(width, eps=config.fusion_layer_norm_eps)
        self.dense = nn.Linear(width, config.fusion_hidden_size)
        self.modality_embeddings = nn.Parameter(torch.zeros(1, 1, config.fusion_hidden_size))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layernorm(tokens)) + self.modality_embeddings


class AudioVisualEncoderFusion(nn.Module):
    """The layers that see both modalities. Positions are in the encoders' tokens already."""

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__()
        for modality in config.modalities:
            projection = AudioVisualEncoderProjection(config, config.branch_widths[modality])
            self.add_module(f"{modality}_projection", projection)
        self.layers = nn.ModuleList(AudioVisualEncoderLayer(config) for _ in range(config.fusion_depth))
        self.layernorm = nn.LayerNorm(config.fusion_hidden_size, eps=config.fusion_layer_norm_eps)

    def forward(self, tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """Normalised tokens of all modalities given, in their order: `(batch, tokens, fusion_hidden_size)`."""
        projected = [self.get_submodule(f"{modality}_projection")(value) for modality, value in tokens.items()]
        hidden_states = torch.cat(projected, dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.layernorm(hidden_states)


class AudioVisualEncoderPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading, common to both models. The encoders initialise themselves."""

    config: AudioVisualEncoderConfig
    config_class = AudioVisualEncoderConfig
    base_model_prefix = "audio_visual_encoder"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["AudioVisualEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__(config)
        self.main_input_name = next(iter(config.input_shapes))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal of deviation 0.02, as in ViT."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, AudioVisualEncoderProjection):
            init.normal_(module.modality_embeddings, std=0.02)

    @classmethod
    def from_encoders_pretrained(cls, audio: str, vision: str, **fields: Any) -> Self:
        """
        Joins two pre-trained encoders; fusion and head are newly initialised and must be trained. The model is of
        PyTorch's default precision, float32, whatever the encoders were saved in.

        Args:
            audio (`str`):
                Directory or Hub id of a model whose encoder is taken, such as
                `"MIT/ast-finetuned-audioset-10-10-0.4593"`; its own head is left behind.
            vision (`str`):
                The same of the visual encoder, such as `"facebook/dinov2-base"`.
            fields:
                Fields of [`AudioVisualEncoderConfig`], such as `image_size=224` or `id2label`.

        Raises:
            `ValueError`: as [`AudioVisualEncoderConfig`].
        """
        configs = {
            "audio_config": AutoConfig.from_pretrained(audio),
            "vision_config": AutoConfig.from_pretrained(vision),
        }
        model = cls(cls.config_class(**configs, **fields))
        for modality, source in (("audio", audio), ("visual", vision)):
            if modality in model.config.modalities:
                model.base_model.load_encoder(modality, source)
        return model


class AudioVisualEncoderModel(AudioVisualEncoderPreTrainedModel):
    """The branches without a head; see [`AudioVisualEncoderModelOutput`]."""

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__(config)
        configs = {"audio": config.audio_config, "visual": config.vision_config}
        for modality in config.modalities:
            # in the precision of the model around it, whatever the encoder was saved in
            encoder = AutoModel.from_config(configs[modality], dtype=torch.get_default_dtype())
            if getattr(encoder, "pooler", None) is not None:
                encoder.pooler = None  # reads class tokens only, so it would never be trained
            self.add_module(f"{modality}_encoder", encoder)
        self.encoder_options = {"visual": self._picture_options()} if "visual" in config.modalities else {}
        self.fusion = AudioVisualEncoderFusion(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.get_submodule(f"{self.config.modalities[0]}_encoder").get_input_embeddings()

    def load_encoder(self, modality: str, name_or_path: str) -> None:
        """Takes the weights of one encoder from a model of its type: a directory or Hub id."""
        encoder = self.get_submodule(f"{modality}_encoder")
        given = AutoModel.from_pretrained(name_or_path, dtype=torch.float32).state_dict()
        encoder.load_state_dict({name: given[name] for name in encoder.state_dict()})

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> AudioVisualEncoderModelOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, audio_length, num_mel_bins)`, *optional*):
                Normalised log-mel spectrograms.
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, image_size, image_size)`, *optional*):
                Normalised pictures. At least one of the two inputs must be given.
            return_dict (`bool`, *optional*):
                Whether to return an [`AudioVisualEncoderModelOutput`] instead of a tuple.

        Raises:
            `ValueError`: if both inputs are absent, one has another shape than the configuration says, or one is of a
                modality that the model lacks.
        """
        given = {"audio": input_values, "visual": pixel_values}
        given = {modality: values for modality, values in given.items() if values is not None}
        self._check_inputs(given)
        tokens = {modality: self._encode(modality, values) for modality, values in given.items()}
        fused = self.fusion(tokens)
        output = AudioVisualEncoderModelOutput(
            pooler_output=fused.mean(dim=1),
            audio_tokens=tokens.get("audio"),
            visual_tokens=tokens.get("visual"),
            fusion_tokens=fused if len(tokens) == len(self.config.modalities) else None,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _picture_options(self) -> dict[str, bool]:
        """Asks for position embeddings of another picture size, where the encoder does not make any by itself."""
        side, encoder = self.config.image_size, self.visual_encoder
        if encoder.config.image_size in (side, (side, side), [side, side]):
            return {}
        can_be_asked = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
        return {"interpolate_pos_encoding": True} if can_be_asked else {}

    def _encode(self, modality: str, values: torch.Tensor) -> torch.Tensor:
        """An encoder's tokens `(batch, rows * columns, width)`, row by row, without prefix tokens."""
        encoder = self.get_submodule(f"{modality}_encoder")
        states = encoder(values.to(encoder.dtype), **self.encoder_options.get(modality, {})).last_hidden_state
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        rows, columns = self.config.branch_grids[modality][0]
        prefix = self.config.prefix_tokens[modality]
        if states.shape[1] != prefix + rows * columns:
            raise ValueError(
                f"{type(encoder).__name__} returned {states.shape[1]} tokens, but its grid is {rows} x {columns} with "
                f"{prefix} before it; its rule in configuration_audio_visual_encoder.py does not describe it."
            )
        return states[:, prefix:]

    def _check_inputs(self, given: dict[str, torch.Tensor]) -> None:
        shapes = self.config.input_shapes
        if not given:
            raise ValueError(f"the model got no input; it takes {' or '.join(shapes)}.")
        names = {"audio": "input_values", "visual": "pixel_values"}
        for modality, values in given.items():
            name = names[modality]
            if name not in shapes:
                raise ValueError(
                    f"a model of {self.config.modalities[0]} alone takes no {name}, only {', '.join(shapes)}."
                )
            if tuple(values.shape[1:]) != shapes[name]:
                raise ValueError(
                    f"{name} must be (batch, {', '.join(map(str, shapes[name]))}) but are {tuple(values.shape)}; make "
                    "them with the processor saved beside the model. The model sees one frame at a time."
                )


class AudioVisualEncoderClassificationHead(nn.Module):
    """Layer norm and linear layer over the pooled tokens."""

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__()
        self.layernorm = nn.LayerNorm(config.fusion_hidden_size, eps=config.fusion_layer_norm_eps)
        self.dense = nn.Linear(config.fusion_hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.dense(self.layernorm(pooled))


class AudioVisualEncoderForAudioVisualClassification(AudioVisualEncoderPreTrainedModel):
    """
    Two encoders and their fusion with a classification head on the mean of the fusion tokens, as in CAV-MAE. Either of
    two inputs may be absent: the fusion layers then see the tokens of the other alone. Train with `modality_dropout`
    where that matters.
    """

    def __init__(self, config: AudioVisualEncoderConfig):
        super().__init__(config)
        self.audio_visual_encoder = AudioVisualEncoderModel(config)
        self.classifier = AudioVisualEncoderClassificationHead(config)
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_tokens: bool = False,
        return_dict: bool | None = None,
    ) -> AudioVisualEncoderClassifierOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, audio_length, num_mel_bins)`, *optional*):
                Normalised log-mel spectrograms.
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, image_size, image_size)`, *optional*):
                Normalised pictures. At least one of the two inputs must be given.
            labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
                Class ids (int64), or class probabilities (float, after mixup or label smoothing): cross entropy.
            output_tokens (`bool`, *optional*, defaults to `False`):
                Whether to return the tokens of the three branches.
            return_dict (`bool`, *optional*):
                Whether to return an [`AudioVisualEncoderClassifierOutput`] instead of a tuple.

        Raises:
            `ValueError`: as [`AudioVisualEncoderModel.forward`].
        """
        outputs = self.audio_visual_encoder(input_values, pixel_values, return_dict=True)
        logits = self.classifier(outputs.pooler_output)
        output = AudioVisualEncoderClassifierOutput(
            loss=None if labels is None else self._classification_loss(logits, labels),
            logits=logits,
            audio_tokens=outputs.audio_tokens if output_tokens else None,
            visual_tokens=outputs.visual_tokens if output_tokens else None,
            fusion_tokens=outputs.fusion_tokens if output_tokens else None,
            pooler_output=outputs.pooler_output,
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
    "AudioVisualEncoderClassifierOutput",
    "AudioVisualEncoderForAudioVisualClassification",
    "AudioVisualEncoderModel",
    "AudioVisualEncoderModelOutput",
    "AudioVisualEncoderPreTrainedModel",
]
