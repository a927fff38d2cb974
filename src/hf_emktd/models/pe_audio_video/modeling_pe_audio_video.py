"""
transformers' perception encoder for sound and film (PE-AV, https://huggingface.co/facebook/pe-av-large) as a teacher:
the encoder as it is, frozen, and a linear head that is trained on the classes at hand.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModel, PeAudioVideoEncoder, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_pe_audio_video import PeAudioVideoClassificationConfig


@dataclass
class PeAudioVideoClassifierOutput(ModelOutput):
    """
    Output of [`PeAudioVideoForAudioVisualClassification`].

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*):
            Cross entropy, returned when `labels` are given.
        logits (`torch.Tensor` of shape `(batch_size, num_labels)`):
            Scores before the softmax.
        audio_tokens (`torch.Tensor` of shape `(batch_size, num_samples / hop_length, audio_width)`, *optional*):
            Last states of the audio encoder, without its class token.
        visual_tokens (`torch.Tensor` of shape `(batch_size, num_frames, video_width)`, *optional*):
            Last states of the film encoder, one a frame, without its class token.
        fusion_tokens (`torch.Tensor` of shape `(batch_size, num_samples / hop_length, fusion_width)`, *optional*):
            Last states of the encoder of both, at the rate of the sound, without its class token.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    fusion_tokens: torch.Tensor | None = None


class PeAudioVideoForAudioVisualClassification(PreTrainedModel):
    """
    PE-AV's encoder, frozen, with a layer norm and a linear layer on its pooled output.

    The encoder has no path for one modality alone, so both inputs are needed.
    """

    config: PeAudioVideoClassificationConfig
    config_class = PeAudioVideoClassificationConfig
    base_model_prefix = "encoder"
    main_input_name = "input_values"
    _supports_sdpa = True

    def __init__(self, config: PeAudioVideoClassificationConfig):
        super().__init__(config)
        # in the precision of the model around it, whatever the encoder was saved in
        self.encoder = AutoModel.from_config(config.encoder_config, dtype=torch.get_default_dtype())
        self.layernorm = nn.LayerNorm(config.encoder_config.hidden_size)
        self.classifier = nn.Linear(config.encoder_config.hidden_size, config.num_labels)
        self.post_init()
        self.encoder.requires_grad_(False)

    @classmethod
    def from_encoder(cls, encoder: PeAudioVideoEncoder, **fields: Any) -> Self:
        """
        A teacher around a loaded encoder, `PeAudioVideoModel.from_pretrained(...).audio_video_encoder`; the head is
        newly initialised, in the encoder's precision, and must be trained.

        Args:
            encoder (`PeAudioVideoEncoder`): Used as it is, not copied.
            fields: Fields of [`PeAudioVideoClassificationConfig`], such as `id2label` and `num_frames`.
        """
        with torch.device("meta"):
            model = cls(cls.config_class(encoder_config=encoder.config, **fields))
        model.encoder = encoder.requires_grad_(False)
        for part in (model.layernorm, model.classifier):
            part.to_empty(device=encoder.device).to(encoder.dtype).reset_parameters()
        return model

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As [`PreTrainedModel.from_pretrained`], which makes every loaded parameter trainable again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.encoder.requires_grad_(False)
        return loaded

    def forward(
        self,
        input_values: torch.Tensor,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_tokens: bool = False,
        return_dict: bool | None = None,
    ) -> PeAudioVideoClassifierOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, 1, num_samples)`):
                Waveforms at 48 kHz, from transformers' `PeAudioFeatureExtractor`.
            pixel_values (`torch.Tensor` of shape `(batch_size, num_frames, 3, image_size, image_size)`):
                Frames, from transformers' `PeVideoVideoProcessor`.
            labels (`torch.Tensor` of shape `(batch_size,)` or `(batch_size, num_labels)`, *optional*):
                Class ids (int64), or class probabilities (float): cross entropy.
            output_tokens (`bool`, *optional*, defaults to `False`):
                Whether to return the tokens of the three branches; none where the config exposes none.
            return_dict (`bool`, *optional*):
                Whether to return a [`PeAudioVideoClassifierOutput`] instead of a tuple.

        Raises:
            `ValueError`: if an input has another shape than the configuration says.
        """
        self._check_inputs(input_values=input_values, pixel_values=pixel_values)
        states = self.encoder(input_values=input_values, pixel_values_videos=pixel_values)
        logits = self.classifier(self.layernorm(states.pooler_output))
        tokens = {}
        if output_tokens and self.config.expose_tokens:
            tokens["audio_tokens"] = states.audio_model_output.last_hidden_state
            tokens["visual_tokens"] = states.video_model_output.last_hidden_state
            tokens["fusion_tokens"] = states.last_hidden_state
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        output = PeAudioVideoClassifierOutput(loss=loss, logits=logits, **tokens)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _check_inputs(self, **inputs: torch.Tensor) -> None:
        for name, shape in self.config.input_shapes.items():
            if tuple(inputs[name].shape[1:]) != shape:
                raise ValueError(
                    f"{name} must be (batch, {', '.join(map(str, shape))}) but are {tuple(inputs[name].shape)}; cut "
                    "or pad the clip, or set num_samples, num_frames and image_size of the config."
                )


__all__ = ["PeAudioVideoClassifierOutput", "PeAudioVideoForAudioVisualClassification"]
