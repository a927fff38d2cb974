"""
AVSegFormer: which pixels sound (Gao et al., 2024, https://huggingface.co/papers/2307.01146).

Frame by frame, PVTv2 sees the picture and VGGish hears 0.96 s of sound. A deformable encoder mixes three scales of the
picture, queries that have listened to the sound read it, and a gate computed from the sound weighs the channels of the
map that the mask is predicted from. Official files: `model/AVSegFormer.py`, `model/head/AVSegHead.py`, `model/utils/`,
`ops/modules/ms_deform_attn.py` and `model/vggish/vggish.py`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel, PvtV2Backbone, PvtV2Config
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2EncoderLayer
from transformers.utils import ModelOutput

from .configuration_avsegformer import EXAMPLE_FRAMES, MEL_BANDS, POOLED_CONVOLUTIONS, AvSegFormerConfig

# Label of a pixel that no loss sees; a frame without a mask has nothing else.
IGNORE_INDEX = -100
# Added to both squared sums of the Dice loss, as in the official code.
DICE_SMOOTHING = 0.001
# Stages of the picture encoder that the deformable encoder mixes; the first, finest one joins after it.
ENCODER_STAGES = (2, 3, 4)
MASK_UPSCALING = 4


@dataclass
class AvSegFormerModelOutput(ModelOutput):
    """
    Output of [`AvSegFormerModel`].

    Args:
        mask_features (`torch.Tensor` of shape `(batch_size, frames, hidden_size, image_size / 4, image_size / 4)`):
            Map of the picture whose channels the sound has weighed.
        query_states (`torch.Tensor` of shape `(batch_size, frames, num_queries, hidden_size)`):
            Output of the decoder's last layer.
        audio_tokens (`torch.Tensor` of shape `(batch_size, frames * 24, audio_channels[-1])`, *optional*):
            With `output_tokens=True`; which layer, hence which shape, `config.audio_token_layer` says. All tokens of
            the first frame come first, here and below.
        visual_tokens (`torch.Tensor` of shape `(batch_size, frames * rows * columns, width)`, *optional*):
            With `output_tokens=True`; which stage, `config.visual_token_stage` says.
        fusion_tokens (`torch.Tensor` of shape `(batch_size, frames * rows * columns, hidden_size)`, *optional*):
            With `output_tokens=True`; of what, `config.fusion_token_source` says. No source of the EM-KTD paper
            tells which tokens it compares in segmentation, so all three are choices of this package.
        stage_embeddings, stage_maps (`tuple[torch.Tensor]`, *optional*):
            With `output_tokens=True`, four of shape `(batch_size, frames, width, rows, columns)` each: the patch
            embeddings that each stage of the picture encoder starts from, and its normalised result. The widths are
            `config.stage_widths`.
    """

    mask_features: torch.Tensor | None = None
    query_states: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    fusion_tokens: torch.Tensor | None = None
    stage_embeddings: tuple[torch.Tensor, ...] | None = None
    stage_maps: tuple[torch.Tensor, ...] | None = None


@dataclass
class AvSegFormerSegmenterOutput(ModelOutput):
    """
    Output of [`AvSegFormerForAudioVisualSegmentation`].

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*):
            Mask loss and weighted auxiliary loss, returned when `labels` are given.
        logits (`torch.Tensor` of shape `(batch_size, frames, image_size, image_size)`):
            Scores before the sigmoid: positive where a pixel sounds.
        mask_features, audio_tokens, visual_tokens, fusion_tokens, stage_embeddings, stage_maps:
            See [`AvSegFormerModelOutput`].
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask_features: torch.Tensor | None = None
    audio_tokens: torch.Tensor | None = None
    visual_tokens: torch.Tensor | None = None
    fusion_tokens: torch.Tensor | None = None
    stage_embeddings: tuple[torch.Tensor, ...] | None = None
    stage_maps: tuple[torch.Tensor, ...] | None = None


def dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Dice loss with squared terms, `1 - 2 pg / (p² + g² + 0.002)` summed over a frame's pixels, averaged over frames.

    Official files: `scripts/s4/loss.py` and `scripts/ms3/loss.py`. As there, a frame whose mask is empty costs 1
    whatever is predicted and gives no gradient; where silence shall be learnt, use `"bce"` or `"dice_bce"`.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, frames, height, width)`):
            Scores before the sigmoid. The loss is computed in float32.
        labels (`torch.Tensor` of shape `(batch_size, frames, height, width)`):
            1 sounding, 0 not, -100 ignored. Frames without any label do not count; if there are no others, the loss
            is zero and so is its gradient.

    Raises:
        `ValueError`: if the shapes differ.
    """
    logits, labels = _flatten_frames(logits, labels)
    known = labels != IGNORE_INDEX
    probabilities, targets = logits.sigmoid() * known, labels * known
    overlap = (probabilities * targets).sum(-1)
    squares = probabilities.square().sum(-1) + targets.square().sum(-1) + 2 * DICE_SMOOTHING
    labelled = known.any(-1)
    return ((1 - 2 * overlap / squares) * labelled).sum() / labelled.sum().clamp(min=1)


def binary_cross_entropy_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy averaged over labelled pixels; arguments, precision and errors as [`dice_loss`]."""
    logits, labels = _flatten_frames(logits, labels)
    known = labels != IGNORE_INDEX
    losses = nn.functional.binary_cross_entropy_with_logits(logits, (labels * known).to(logits), reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def dice_and_cross_entropy_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of [`dice_loss`] and [`binary_cross_entropy_loss`]; arguments, precision and errors as there."""
    return dice_loss(logits, labels) + binary_cross_entropy_loss(logits, labels)


MASK_LOSSES = {"dice": dice_loss, "bce": binary_cross_entropy_loss, "dice_bce": dice_and_cross_entropy_loss}


def segmentation_loss(
    logits: torch.Tensor,
    mask_features: torch.Tensor,
    labels: torch.Tensor,
    kind: str = "dice",
    auxiliary_weight: float = 0.1,
) -> dict[str, torch.Tensor]:
    """
    The two parts of the official loss; their sum is what is minimised.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, frames, height, width)`):
            Scores before the sigmoid.
        mask_features (`torch.Tensor` of shape `(batch_size, frames, hidden_size, rows, columns)`):
            Their channel mean, enlarged to the labels' size, shall be a mask too.
        labels (`torch.Tensor` of shape `(batch_size, frames, height, width)`):
            See [`dice_loss`].
        kind (`str`, *optional*, defaults to `"dice"`):
            `"dice"`, as in the official configurations, `"bce"`, or `"dice_bce"`, their sum, which learns shapes as
            the first and empty masks as the second.
        auxiliary_weight (`float`, *optional*, defaults to 0.1):
            Factor that `"auxiliary"` already carries.

    Returns:
        `dict`: float32 scalars `"mask"` and `"auxiliary"`.

    Raises:
        `ValueError`: if `kind` is unknown or `logits` and `labels` differ in shape.
    """
    if kind not in MASK_LOSSES:
        raise ValueError(f"kind must be one of {', '.join(map(repr, MASK_LOSSES))} but is {kind!r}.")
    mask = MASK_LOSSES[kind](logits, labels)
    mean = mask_features.mean(dim=2).float()
    mean = nn.functional.interpolate(mean, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return {"mask": mask, "auxiliary": auxiliary_weight * MASK_LOSSES[kind](mean, labels)}


def _flatten_frames(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as `(batch, frames, pixels)`, the logits at least in float32."""
    if logits.shape != labels.shape:
        raise ValueError(
            f"labels must be {tuple(logits.shape)} like the logits but are {tuple(labels.shape)}; resize the masks to "
            "the model's image_size, for instance with AvSegFormerImageProcessor.resize_mask."
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(-2), labels.flatten(-2)


def sine_position_encoding(width: int, grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """
    Fixed encoding of the places of a map, float32 `(rows * columns, width)`, row by row.

    The first half of the width encodes the row, the second the column, counted from 1, sine and cosine in turn;
    official file `model/utils/positional_encoding.py`, not normalised as its configurations have it.
    """
    pairs = torch.arange(width // 4, dtype=torch.float32, device=device)
    frequencies = 10000.0 ** (-4 * pairs / width)
    halves = []
    for size in grid:
        angles = torch.arange(1, size + 1, dtype=torch.float32, device=device)[:, None] * frequencies
        halves.append(torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1))
    rows, columns = grid
    places = (halves[0][:, None].expand(-1, columns, -1), halves[1][None].expand(rows, -1, -1))
    return torch.cat(places, dim=2).flatten(0, 1)


def initial_sampling_offsets(config: AvSegFormerConfig) -> torch.Tensor:
    """
    Where the deformable attention looks at first: head by head in all directions, a pixel further with each point.

    The biases `(heads * stages * points * 2,)` of its offsets.
    """
    angles = torch.arange(config.num_attention_heads) * (2 * math.pi / config.num_attention_heads)
    directions = torch.stack((angles.cos(), angles.sin()), dim=1)
    directions = directions / directions.abs().amax(dim=1, keepdim=True)
    steps = torch.arange(1, config.num_points + 1).view(1, 1, -1, 1)
    return (directions[:, None, None] * steps).expand(-1, len(ENCODER_STAGES), -1, -1).flatten()


def starting(layer: nn.Linear | nn.Conv2d, rule: str) -> nn.Linear | nn.Conv2d:
    """Marks a layer whose initial weights follow another rule than the rest of the head; see `_init_weights`."""
    layer.initial_weights = rule
    return layer


def group_normed(convolution: nn.Conv2d, config: AvSegFormerConfig) -> nn.Sequential:
    """A convolution to `hidden_size` channels and a group norm."""
    return nn.Sequential(convolution, nn.GroupNorm(config.norm_groups, config.hidden_size))


def all_rows(embedding: nn.Embedding, number: int, like: torch.Tensor) -> torch.Tensor:
    """An embedding's table by way of its call, since the weight of an offloaded one is not there before."""
    return embedding(torch.arange(number, device=like.device))


class AvSegFormerStage(PvtV2EncoderLayer):
    """A stage of PVTv2 that can also return the patch embeddings that it starts from."""

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False, with_embeddings: bool = False
    ) -> tuple[tuple, int, int]:
        """As in transformers; `with_embeddings` both tokens `(batch, rows * columns, width)`, rows and columns."""
        if not with_embeddings:
            return super().forward(hidden_states, output_attentions)
        embeddings, rows, columns = self.patch_embedding(hidden_states)
        hidden_states = embeddings
        for block in self.blocks:
            hidden_states = block(hidden_states, rows, columns)[0]
        return (self.layer_norm(hidden_states), embeddings), rows, columns


def build_visual_encoder(config: AvSegFormerConfig) -> PvtV2Backbone:
    """PVTv2 that returns the normalised maps of its four stages."""
    encoder = PvtV2Backbone(
        PvtV2Config(
            hidden_sizes=list(config.vision_hidden_sizes),
            depths=list(config.vision_depths),
            num_attention_heads=list(config.vision_num_attention_heads),
            mlp_ratios=list(config.vision_mlp_ratios),
            sr_ratios=list(config.vision_sr_ratios),
            drop_path_rate=config.vision_drop_path_rate,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
    )
    for stage in encoder.encoder.layers:
        stage.__class__ = AvSegFormerStage  # PvtV2Encoder names the class of its stages; the modules are the same
    # transformers has 1e-6 everywhere; the official code leaves these two norms at PyTorch's default
    for name, module in encoder.named_modules():
        if name.endswith(("patch_embedding.layer_norm", "attention.layer_norm")):
            module.eps = 1e-5
    return encoder


class AvSegFormerAudioEncoder(nn.Module):
    """VGGish: six convolutions and three linear layers, a ReLU after each."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        widths = [1, *config.audio_channels]
        self.convolutions = nn.ModuleList(
            starting(nn.Conv2d(before, after, kernel_size=3, padding=1), "relu") for before, after in pairwise(widths)
        )
        rows, columns = config.audio_grid
        hidden = config.audio_hidden_size
        widths = [widths[-1] * rows * columns, hidden, hidden, config.audio_embedding_size]
        self.layers = nn.ModuleList(starting(nn.Linear(before, after), "relu") for before, after in pairwise(widths))

    def forward(self, examples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The last convolutional map `(batch, audio_channels[-1], 6 times, 4 frequencies)` and the embeddings `(batch,
        audio_embedding_size)` of examples `(batch, 96, 64)`.
        """
        features = examples.unsqueeze(1)
        for index, convolution in enumerate(self.convolutions):
            # channels last: pooling and convolving narrow maps takes half the time on a CPU
            features = convolution(features).relu().contiguous(memory_format=torch.channels_last)
            if index in POOLED_CONVOLUTIONS:
                features = nn.functional.max_pool2d(features, kernel_size=2, stride=2)
        embeddings = features.permute(0, 2, 3, 1).flatten(1)  # channels last, as the TensorFlow original
        for layer in self.layers:
            embeddings = layer(embeddings).relu()
        return features, embeddings


class AvSegFormerDeformableAttention(nn.Module):
    """
    Multi-scale deformable attention: every token looks at a few places near its own in each map.

    The official core is a CUDA kernel; this is bilinear sampling with `grid_sample`, in float32.
    """

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        width = config.hidden_size
        self.num_attention_heads = config.num_attention_heads
        self.num_levels = len(ENCODER_STAGES)
        self.num_points = config.num_points
        looks = self.num_attention_heads * self.num_levels * self.num_points
        self.sampling_offsets = starting(nn.Linear(width, 2 * looks), "offsets")
        self.attention_weights = starting(nn.Linear(width, looks), "zero")
        self.value = starting(nn.Linear(width, width), "zero_bias")
        self.output = starting(nn.Linear(width, width), "zero_bias")

    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        references: torch.Tensor,
        grids: list[tuple[int, int]],
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch, tokens, width)`): Tokens of all maps, map by map.
            positions (`torch.Tensor` of shape `(tokens, width)`): Their encoding, added where they decide to look.
            references (`torch.Tensor` of shape `(tokens, 2)`): Their own column and row, from 0 to 1.
            grids (`list[tuple[int, int]]`): Rows and columns of each map.
        """
        batch, tokens, width = hidden_states.shape
        heads, levels, points = self.num_attention_heads, self.num_levels, self.num_points
        queries = hidden_states + positions
        precision = torch.promote_types(hidden_states.dtype, torch.float32)
        offsets = self.sampling_offsets(queries).view(batch, tokens, heads, levels, points, 2).to(precision)
        weights = self.attention_weights(queries).view(batch, tokens, heads, levels * points).softmax(-1)
        weights = weights.view(batch, tokens, heads, levels, points).transpose(1, 2).flatten(0, 1).to(precision)
        values = self.value(hidden_states).to(precision).transpose(1, 2).reshape(batch * heads, width // heads, tokens)
        maps = values.split([rows * columns for rows, columns in grids], dim=2)
        context = torch.zeros_like(values)
        for level, (rows, columns) in enumerate(grids):
            places = references[:, None, None] + offsets[:, :, :, level] / offsets.new_tensor([columns, rows])
            sampled = nn.functional.grid_sample(
                maps[level].unflatten(2, (rows, columns)),
                (2 * places - 1).transpose(1, 2).flatten(0, 1),
                align_corners=False,
            )
            context = context + (sampled * weights[:, None, :, level]).sum(-1)
        return self.output(context.view(batch, width, tokens).transpose(1, 2).to(hidden_states.dtype))


class AvSegFormerFeedForward(nn.Module):
    """Feed-forward layer, dropout after both halves."""

    def __init__(self, width: int, hidden_width: int, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(nn.functional.gelu(self.fc1(hidden_states)))))


class AvSegFormerEncoderLayer(GradientCheckpointingLayer):
    """Post-norm layer with deformable attention."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        self.attention = AvSegFormerDeformableAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = AvSegFormerFeedForward(config.hidden_size, config.feed_forward_size, config.dropout)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        references: torch.Tensor,
        grids: list[tuple[int, int]],
    ) -> torch.Tensor:
        attended = self.attention(hidden_states, positions, references, grids)
        hidden_states = self.attention_norm(hidden_states + self.dropout(attended))
        return self.feed_forward_norm(hidden_states + self.feed_forward(hidden_states))


class AvSegFormerEncoder(nn.Module):
    """Mixes maps of three scales."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        self.level_embeddings = nn.Parameter(torch.zeros(len(ENCODER_STAGES), config.hidden_size))
        self.layers = nn.ModuleList(AvSegFormerEncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Tokens `(batch, tokens, width)` of maps `(batch, width, rows, columns)`, one map after the other."""
        hidden_states = torch.cat([each.flatten(2) for each in maps], dim=2).transpose(1, 2)
        grids = [tuple(each.shape[2:]) for each in maps]
        positions, references = self._places(grids, hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, references, grids)
        return hidden_states

    def _places(self, grids: list[tuple[int, int]], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Position encodings `(tokens, width)` and reference points `(tokens, 2)`, float32."""
        positions, references = [], []
        for (rows, columns), level in zip(grids, self.level_embeddings, strict=True):
            encoding = sine_position_encoding(like.shape[2], (rows, columns), like.device)
            positions.append(encoding.to(like.dtype) + level)
            y, x = ((torch.arange(size, device=like.device) + 0.5) / size for size in (rows, columns))
            references.append(torch.stack((x.repeat(rows), y.repeat_interleave(columns)), dim=1))
        return torch.cat(positions), torch.cat(references)


class AvSegFormerAttention(nn.Module):
    """Multi-head attention to oneself or to other tokens, its three projections in one matrix."""

    def __init__(self, config: AvSegFormerConfig, bias: bool, dropout: float):
        super().__init__()
        self.num_attention_heads = config.num_attention_heads
        self.dropout = dropout
        width = config.hidden_size
        self.in_projection = starting(nn.Linear(width, 3 * width, bias=bias), "zero_bias")
        self.out_projection = starting(nn.Linear(width, width, bias=bias), "zero_bias")

    def forward(self, hidden_states: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
        parts = self._project(hidden_states, hidden_states if others is None else others)
        query, key, value = (part.unflatten(2, (self.num_attention_heads, -1)).transpose(1, 2) for part in parts)
        context = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_projection(context.transpose(1, 2).flatten(2))

    def _project(self, hidden_states: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if others is hidden_states:
            return self.in_projection(hidden_states).chunk(3, dim=2)
        if type(self.in_projection) is not nn.Linear or hasattr(self.in_projection, "_hf_hook"):
            # adapters, offloading and quantisation live in the call
            query = self.in_projection(hidden_states).chunk(3, dim=2)[0]
            return query, *self.in_projection(others).chunk(3, dim=2)[1:]
        width, (weight, bias) = hidden_states.shape[2], (self.in_projection.weight, self.in_projection.bias)
        biases = (None, None) if bias is None else (bias[:width], bias[width:])
        query = nn.functional.linear(hidden_states, weight[:width], biases[0])
        return query, *nn.functional.linear(others, weight[width:], biases[1]).chunk(2, dim=2)


class AvSegFormerQueryLayer(GradientCheckpointingLayer):
    """Post-norm layer in which queries see each other, then the picture or the sound."""

    def __init__(self, config: AvSegFormerConfig, feed_forward_size: int, bias: bool, dropout: float):
        super().__init__()
        self.self_attention = AvSegFormerAttention(config, bias, dropout)
        self.self_attention_norm = nn.LayerNorm(config.hidden_size)
        self.cross_attention = AvSegFormerAttention(config, bias, dropout)
        self.cross_attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = AvSegFormerFeedForward(config.hidden_size, feed_forward_size, dropout)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        queries = self.self_attention_norm(queries + self.dropout(self.self_attention(queries)))
        queries = self.cross_attention_norm(queries + self.dropout(self.cross_attention(queries, tokens)))
        return self.feed_forward_norm(queries + self.feed_forward(queries))


class AvSegFormerQueryGenerator(nn.Module):
    """Queries that have listened to the sound."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        self.num_queries = config.num_queries
        self.queries = nn.Embedding(config.num_queries, config.hidden_size)
        self.layers = nn.ModuleList(
            AvSegFormerQueryLayer(config, config.query_feed_forward_size, bias=False, dropout=0.0)
            for _ in range(config.query_layers)
        )

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Queries `(batch, num_queries, width)` for sounds `(batch, 1, width)`."""
        # shape[0], not len(), which torch.export would take for a constant
        queries = all_rows(self.queries, self.num_queries, sound).expand(sound.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, sound)
        return queries


class AvSegFormerMixer(nn.Module):
    """Channel gate: the sound attends to the picture, and the result weighs the picture's channels."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        width = config.hidden_size
        self.num_attention_heads = config.num_attention_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.output = nn.Linear(width, width)

    def forward(self, features: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        """The map `(batch, width, rows, columns)` gated by the sound `(batch, 1, width)`."""
        parts = (self.query(sound), *self.key_value(features.flatten(2).transpose(1, 2)).chunk(2, dim=2))
        query, key, value = (part.unflatten(2, (self.num_attention_heads, -1)).transpose(1, 2) for part in parts)
        context = nn.functional.scaled_dot_product_attention(query, key, value)
        gate = self.output(context.transpose(1, 2).flatten(2)).sigmoid()
        return features * gate.transpose(1, 2).unsqueeze(3)


class AvSegFormerMaskHead(nn.Module):
    """Turns the mask feature and the queries' agreement with it into one map of logits."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__()
        width, hidden = config.hidden_size, config.mask_mlp_size
        widths = [config.num_queries, hidden, hidden, width]
        self.query_mlp = nn.ModuleList(nn.Conv2d(before, after, kernel_size=1) for before, after in pairwise(widths))
        self.reduction = nn.Conv2d(width, width // 2, kernel_size=3, padding=1)
        self.refinement = nn.Conv2d(width // 2, width // 8, kernel_size=3, padding=1)
        self.prediction = nn.Conv2d(width // 8, 1, kernel_size=1, bias=False)

    def forward(self, features: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, 4 * rows, 4 * columns)` of maps `(batch, width, rows, columns)`."""
        features = features.contiguous(memory_format=torch.channels_last)  # faster, as in the sound encoder
        agreement = torch.einsum("bqc,bchw->bqhw", queries, features)
        for index, layer in enumerate(self.query_mlp):
            agreement = layer(agreement if index == 0 else agreement.relu())
        reduced = self.reduction(features + agreement)
        enlarged = nn.functional.interpolate(
            reduced, scale_factor=MASK_UPSCALING, mode="bilinear", align_corners=False
        )
        return self.prediction(self.refinement(enlarged).relu()).squeeze(1)


class AvSegFormerPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading, common to the AVSegFormer models."""

    config: AvSegFormerConfig
    config_class = AvSegFormerConfig
    base_model_prefix = "avsegformer"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["AvSegFormerStage", "AvSegFormerEncoderLayer", "AvSegFormerQueryLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the official head: Xavier weights, PyTorch's default biases. The picture encoder initialises itself."""
        if isinstance(module, nn.Linear | nn.Conv2d):
            self._init_layer(module, getattr(module, "initial_weights", "xavier"))
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, AvSegFormerEncoder):
            init.normal_(module.level_embeddings)

    def _init_layer(self, layer: nn.Linear | nn.Conv2d, rule: str) -> None:
        """
        `"xavier"`, with default biases, or `"zero_bias"`; `"pytorch"`: all default; `"zero"`; `"offsets"`, see
        [`initial_sampling_offsets`]; `"relu"` for VGGish, which the official code only ever loads: the sound keeps its
        scale through nine layers with ReLU.
        """
        if rule in ("zero", "offsets"):
            init.zeros_(layer.weight)
        elif rule == "relu":
            init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif rule == "pytorch":
            init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
        else:
            init.xavier_uniform_(layer.weight)
        if layer.bias is None:
            return
        if rule == "offsets":
            init.copy_(layer.bias, initial_sampling_offsets(self.config))
        elif rule in ("xavier", "pytorch"):
            bound = layer.weight[0].numel() ** -0.5
            init.uniform_(layer.bias, -bound, bound)
        else:
            init.zeros_(layer.bias)


class AvSegFormerModel(AvSegFormerPreTrainedModel):
    """Both encoders, the transformer and the gate, without the mask head; see [`AvSegFormerModelOutput`]."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__(config)
        width = config.hidden_size
        self.visual_encoder = build_visual_encoder(config)
        self.audio_encoder = AvSegFormerAudioEncoder(config)
        self.audio_projection = starting(nn.Linear(config.audio_embedding_size, width), "pytorch")
        self.input_projections = nn.ModuleList(
            group_normed(nn.Conv2d(channels, width, kernel_size=1), config) for channels in config.vision_hidden_sizes
        )
        self.encoder = AvSegFormerEncoder(config)
        self.query_generator = AvSegFormerQueryGenerator(config)
        self.queries = nn.Embedding(config.num_queries, width)
        self.decoder_layers = nn.ModuleList(
            AvSegFormerQueryLayer(config, config.feed_forward_size, bias=True, dropout=config.dropout)
            for _ in range(config.decoder_layers)
        )
        self.lateral_projection = group_normed(nn.Conv2d(width, width, kernel_size=1), config)
        self.smoothing = group_normed(nn.Conv2d(width, width, kernel_size=3, padding=1), config)
        self.mixer = AvSegFormerMixer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution, as callers want a module that returns one tensor."""
        return self.visual_encoder.encoder.layers[0].patch_embedding.proj

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        output_tokens: bool = False,
        return_dict: bool | None = None,
    ) -> AvSegFormerModelOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, frames, 96, 64)`):
                Log-mel spectrograms from [`AvSegFormerFeatureExtractor`], one example a frame.
            pixel_values (`torch.Tensor` of shape `(batch_size, frames, 3, image_size, image_size)`):
                Normalised pictures from [`AvSegFormerImageProcessor`]. Frames do not see each other, so any number of
                them will do.
            output_tokens (`bool`, *optional*, defaults to `False`):
                Whether to return the tokens of the three branches.
            return_dict (`bool`, *optional*):
                Whether to return an [`AvSegFormerModelOutput`] instead of a tuple.

        Raises:
            `ValueError`: if an input is absent or a shape does not fit.
        """
        self._check_inputs(input_values, pixel_values)
        clips = pixel_values.shape[:2]
        dtype = self.queries.weight.dtype  # a linear layer's may be quantised
        sound_map, embeddings = self.audio_encoder(input_values.flatten(0, 1).to(dtype))
        sound = self.audio_projection(embeddings).unsqueeze(1)
        patches, maps = self._stages(pixel_values.flatten(0, 1).to(dtype), output_tokens)
        projected = [project(each) for project, each in zip(self.input_projections, maps, strict=True)]
        memory = self.encoder(projected[1:])
        queries = self.query_generator(sound) + all_rows(self.queries, self.config.num_queries, sound)
        for layer in self.decoder_layers:
            queries = layer(queries, memory)
        features = self.mixer(self._finest_map(projected[0], projected[1], memory), sound)
        tokens = {}
        if output_tokens:
            audio = {"convolution": sound_map, "embedding": embeddings, "projection": sound[:, 0]}
            fusion = {"mask_feature": features, "queries": queries}
            tokens = self._tokens(audio, maps, fusion, len(pixel_values))
            for name, stages in (("stage_embeddings", patches), ("stage_maps", maps)):
                tokens[name] = tuple(each.unflatten(0, clips) for each in stages)
        output = AvSegFormerModelOutput(
            mask_features=features.unflatten(0, clips), query_states=queries.unflatten(0, clips), **tokens
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _stages(
        self, pixels: torch.Tensor, with_embeddings: bool
    ) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """Patch embeddings, if wanted, and normalised maps of each stage, `(frames, width, rows, columns)`."""
        if not with_embeddings:
            return [], self.visual_encoder(pixels, return_dict=True).feature_maps
        embeddings: list[torch.Tensor] = []
        maps: list[torch.Tensor] = []
        for stage in self.visual_encoder.encoder.layers:
            each, rows, columns = stage(maps[-1] if maps else pixels, with_embeddings=True)
            result, start = (tokens.transpose(1, 2).unflatten(2, (rows, columns)) for tokens in each)
            embeddings.append(start)
            maps.append(result.contiguous())
        return embeddings, tuple(maps)

    def _finest_map(self, first: torch.Tensor, second: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """First stage and enlarged encoded second stage in one map `(frames, hidden_size, rows, columns)`."""
        rows, columns = second.shape[2:]
        encoded = memory[:, : rows * columns].transpose(1, 2).unflatten(2, (rows, columns))
        encoded = nn.functional.interpolate(encoded, size=first.shape[2:], mode="bilinear", align_corners=False)
        return self.smoothing(self.lateral_projection(first) + encoded).relu()

    def _tokens(
        self,
        audio: dict[str, torch.Tensor],
        maps: tuple[torch.Tensor, ...],
        fusion: dict[str, torch.Tensor],
        batch: int,
    ) -> dict[str, torch.Tensor]:
        """The three branches' tokens as the configuration chooses them, `(batch, frames * tokens, width)` each."""
        config = self.config
        heard, fused = audio[config.audio_token_layer], fusion[config.fusion_token_source]
        if config.audio_token_layer == "convolution":
            heard = heard.transpose(2, 3).flatten(2).transpose(1, 2)
        if config.fusion_token_source == "mask_feature":
            fused = nn.functional.avg_pool2d(fused, kernel_size=4).flatten(2).transpose(1, 2)
        seen = maps[config.visual_token_stage - 1].flatten(2).transpose(1, 2)
        tokens = {"audio_tokens": heard, "visual_tokens": seen, "fusion_tokens": fused}
        return {name: each.reshape(batch, -1, each.shape[-1]) for name, each in tokens.items()}

    def _check_inputs(self, input_values: torch.Tensor | None, pixel_values: torch.Tensor | None) -> None:
        if input_values is None or pixel_values is None:
            absent = "input_values" if input_values is None else "pixel_values"
            raise ValueError(
                f"AVSegFormer needs both inputs but got no {absent}; for a clip without sound pass silence, "
                "processor.feature_extractor.silence(frames), as its input_values."
            )
        size = self.config.image_size
        sound, picture = tuple(input_values.shape), tuple(pixel_values.shape)
        fits = len(sound) == 4 and sound[2:] == (EXAMPLE_FRAMES, MEL_BANDS) and picture[2:] == (3, size, size)
        if not fits or sound[:2] != picture[:2]:
            raise ValueError(
                f"input_values must be (batch, frames, {EXAMPLE_FRAMES}, {MEL_BANDS}) and pixel_values (batch, "
                f"frames, 3, {size}, {size}), with equal batch and frames, but are {sound} and {picture}; make them "
                "with AvSegFormerProcessor.from_config(model.config)."
            )


class AvSegFormerForAudioVisualSegmentation(AvSegFormerPreTrainedModel):
    """AVSegFormer with its mask head: a binary mask of what sounds for every frame."""

    def __init__(self, config: AvSegFormerConfig):
        super().__init__(config)
        self.avsegformer = AvSegFormerModel(config)
        self.mask_head = AvSegFormerMaskHead(config)
        self.post_init()

    def forward(
        self,
        input_values: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_tokens: bool = False,
        return_dict: bool | None = None,
    ) -> AvSegFormerSegmenterOutput | tuple:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, frames, 96, 64)`):
                Log-mel spectrograms from [`AvSegFormerFeatureExtractor`], one example a frame.
            pixel_values (`torch.Tensor` of shape `(batch_size, frames, 3, image_size, image_size)`):
                Normalised pictures from [`AvSegFormerImageProcessor`].
            labels (`torch.Tensor` of shape `(batch_size, frames, image_size, image_size)`, *optional*):
                1 sounding, 0 not, -100 ignored (int64): [`segmentation_loss`] with the configuration's `mask_loss`
                and `auxiliary_weight`.
            output_tokens (`bool`, *optional*, defaults to `False`):
                Whether to return the tokens of the three branches.
            return_dict (`bool`, *optional*):
                Whether to return an [`AvSegFormerSegmenterOutput`] instead of a tuple.

        Raises:
            `ValueError`: if an input is absent or a shape does not fit.
        """
        outputs = self.avsegformer(input_values, pixel_values, output_tokens=output_tokens, return_dict=True)
        features, queries = outputs.mask_features, outputs.query_states
        logits = self.mask_head(features.flatten(0, 1), queries.flatten(0, 1)).unflatten(0, features.shape[:2])
        output = AvSegFormerSegmenterOutput(
            loss=None if labels is None else self._segmentation_loss(logits, features, labels),
            logits=logits,
            mask_features=features,
            audio_tokens=outputs.audio_tokens,
            visual_tokens=outputs.visual_tokens,
            fusion_tokens=outputs.fusion_tokens,
            stage_embeddings=outputs.stage_embeddings,
            stage_maps=outputs.stage_maps,
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def _segmentation_loss(self, logits: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        config = self.config
        return sum(segmentation_loss(logits, features, labels, config.mask_loss, config.auxiliary_weight).values())


__all__ = [
    "AvSegFormerForAudioVisualSegmentation",
    "AvSegFormerModel",
    "AvSegFormerModelOutput",
    "AvSegFormerPreTrainedModel",
    "AvSegFormerSegmenterOutput",
    "binary_cross_entropy_loss",
    "dice_loss",
    "segmentation_loss",
]
