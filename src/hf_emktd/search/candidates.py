"""Which students of a teacher are looked at: smaller widths and depths of its own family, with its own inputs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedConfig

from ..metrics import count_parameters
from ..models.avsegformer import AvSegFormerConfig
from ..models.avsegformer.configuration_avsegformer import PRESETS as PVT_SIZES
from ..models.cav_mae import CavMaeConfig
from ..training.families import family_of
from ..training.students import build_student_config

# A teacher with fewer heads leaves too few widths to choose from; its heads are halved too.
FEW_HEADS = 6
DEPTH_SHARES = (1, 3 / 4, 1 / 2, 1 / 4)
WIDTH_SHARES = (1, 1 / 2, 1 / 4, 1 / 8)
HEAD_SHARES = (1, 1 / 2, 1 / 4)


@dataclass(frozen=True)
class Candidate:
    """
    A student that may be chosen.

    Args:
        fields: what is set beside the default student of the teacher.
        config: of the student.
        parameters: of the whole student, frozen ones included.
    """

    fields: dict[str, Any]
    config: PreTrainedConfig
    parameters: int

    @property
    def student_fields(self) -> list[str]:
        """As `distill.py --student_fields` takes them."""
        return _as_options(self.fields)


def list_candidates(teacher: PreTrainedConfig) -> list[Candidate]:
    """
    All students of `teacher`'s family that are searched, those with most parameters first; all have fewer than it.

    For CAV-MAE every multiple of the teacher's head width, and of half of it where the teacher has fewer than six
    heads, with four depths, one or two joint layers, the whole or half the feed-forward width, and patches of the
    teacher's side or twice that. For AVSegFormer PVTv2 of the depths of b0 to b5 and of one layer a stage, in the
    teacher's widths, halves, quarters and eighths; VGGish as it is, narrower in its hidden layers, or narrow; and the
    head whole, halved and quartered. Inputs keep the teacher's sizes.

    Raises:
        ValueError: if the teacher's family is unknown or has no search.
    """
    family = family_of(teacher)
    if family.config_class not in FIELDS:
        raise ValueError(
            f"students of an {teacher.model_type} are not searched: its encoders come in sizes of their own. "
            "Compare a few configs of yours with distill.py --student DIR instead."
        )
    limit = count_parameters(on_meta(teacher))
    candidates = []
    for fields in tqdm(list(FIELDS[family.config_class](teacher)), desc="Count parameters"):
        config = build_student_config(teacher, None, _as_options(fields))
        parameters = count_parameters(on_meta(config))
        if parameters < limit:
            candidates.append(Candidate(fields, config, parameters))
    return sorted(candidates, key=lambda candidate: -candidate.parameters)


def spread(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """
    `count` of the candidates that differ as much as possible, in the order they came in: first the first, then again
    and again the one farthest from all taken. Distances are between the principal components, scaled to one deviation,
    of the logarithms of parameters and fields: fields that only change together count once.

    Raises:
        ValueError: if `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"the number of candidates must be at least 1, got {count}.")
    if len(candidates) <= count:
        return list(candidates)
    places = _principal_components(
        np.log([[candidate.parameters, *_numbers(candidate.fields)] for candidate in candidates])
    )
    taken = [0]
    distances = np.linalg.norm(places - places[0], axis=1)
    while len(taken) < count:
        taken.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(places - places[taken[-1]], axis=1))
    return [candidates[index] for index in sorted(taken)]


def on_meta(config: PreTrainedConfig) -> torch.nn.Module:
    """A model of `config` without memory for its weights."""
    with torch.device("meta"):
        return AutoModel.from_config(config, dtype=torch.float32)


def _cav_mae_fields(teacher: CavMaeConfig) -> Iterator[dict[str, Any]]:
    depths = _shares_of(teacher.modality_specific_depth, DEPTH_SHARES)
    joint_depths = sorted({1, 2, teacher.joint_depth})
    mlp_ratios = (teacher.mlp_ratio, teacher.mlp_ratio / 2)
    for (width, heads), *others in itertools.product(
        _cav_mae_widths(teacher), depths, joint_depths, mlp_ratios, _patch_sizes(teacher)
    ):
        names = ("modality_specific_depth", "joint_depth", "mlp_ratio", "patch_size")
        yield {"hidden_size": width, "num_attention_heads": heads, **dict(zip(names, others, strict=True))}


def _cav_mae_widths(teacher: CavMaeConfig) -> list[tuple[int, int]]:
    """Widths with their heads."""
    heads = teacher.num_attention_heads
    head_width = teacher.hidden_size // heads
    head_widths = [head_width, head_width // 2] if heads < FEW_HEADS and head_width % 2 == 0 else [head_width]
    pairs = [(each * count, count) for each in head_widths for count in range(1, heads + 1)]
    return [(width, count) for width, count in pairs if width % 4 == 0]  # CavMaeConfig asks for it


def _patch_sizes(teacher: CavMaeConfig) -> list[int]:
    sides = (teacher.audio_length, teacher.num_mel_bins, teacher.image_size)
    return [patch for patch in (teacher.patch_size, 2 * teacher.patch_size) if not any(side % patch for side in sides)]


def _avsegformer_fields(teacher: AvSegFormerConfig) -> Iterator[dict[str, Any]]:
    pictures, sounds, heads = _picture_encoders(teacher), _sound_encoders(teacher), _mask_heads(teacher)
    for picture, sound, head in itertools.product(pictures, sounds, heads):
        yield {**picture, **sound, **head}


def _picture_encoders(teacher: AvSegFormerConfig) -> list[dict[str, Any]]:
    all_depths = [preset["vision_depths"] for preset in PVT_SIZES.values()] + [[1, 1, 1, 1]]
    capped = [tuple(map(min, depths, teacher.vision_depths)) for depths in all_depths]
    widths = [_stage_widths(teacher, share) for share in WIDTH_SHARES]
    return [
        {"vision_hidden_sizes": list(sizes), "vision_depths": list(depths)}
        for sizes, depths in itertools.product(dict.fromkeys(widths), dict.fromkeys(capped))
    ]


def _stage_widths(teacher: AvSegFormerConfig, share: float) -> tuple[int, ...]:
    pairs = zip(teacher.vision_hidden_sizes, teacher.vision_num_attention_heads, strict=True)
    return tuple(_rounded(share * width, heads) for width, heads in pairs)


def _sound_encoders(teacher: AvSegFormerConfig) -> list[dict[str, Any]]:
    """The teacher's, which distill.py hands on; a quarter of its hidden layers (VGGish-S); narrow throughout."""
    hidden, channels = teacher.audio_hidden_size, list(teacher.audio_channels)
    sizes = [
        (hidden, channels),
        (max(1, hidden // 4), channels),
        (max(1, hidden // 16), [max(1, channel // 2) for channel in channels]),
    ]
    return [{"audio_hidden_size": hidden, "audio_channels": channels} for hidden, channels in sizes]


def _mask_heads(teacher: AvSegFormerConfig) -> list[dict[str, Any]]:
    step = math.lcm(8, teacher.num_attention_heads, teacher.norm_groups)  # what AvSegFormerConfig asks of the width
    widths = ("feed_forward_size", "query_feed_forward_size", "mask_mlp_size")
    depths = ("encoder_layers", "decoder_layers", "query_layers")
    heads = []
    for share in HEAD_SHARES:
        sizes = {name: _rounded(share * getattr(teacher, name)) for name in (*widths, *depths)}
        heads.append({"hidden_size": _rounded(share * teacher.hidden_size, step), **sizes})
    return [head for index, head in enumerate(heads) if head not in heads[:index]]


FIELDS: dict[type, Callable[[Any], Iterator[dict[str, Any]]]] = {
    CavMaeConfig: _cav_mae_fields,
    AvSegFormerConfig: _avsegformer_fields,
}


def _shares_of(depth: int, shares: Sequence[float]) -> list[int]:
    return list(dict.fromkeys(_rounded(share * depth) for share in shares))


def _rounded(size: float, step: int = 1) -> int:
    """The nearest multiple of `step`, and at least one of it."""
    return max(1, round(size / step)) * step


def _principal_components(columns: np.ndarray) -> np.ndarray:
    """Those with a hundredth of the variance or more, each of deviation one."""
    deviations = columns.std(axis=0)
    columns = (columns - columns.mean(axis=0))[:, deviations > 0] / deviations[deviations > 0]
    components, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    kept = sizes**2 >= 0.01 * (sizes**2).sum()
    return components[:, kept] * len(columns) ** 0.5


def _as_options(fields: dict[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in fields.items()]


def _numbers(fields: dict[str, Any]) -> list[float]:
    values = [value if isinstance(value, list) else [value] for value in fields.values()]
    return list(itertools.chain.from_iterable(values))
