"""Tiny models of masks, clips with masks and runs on them, beside `tiny_runs.py` for events."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from tiny_runs import make_arguments

from hf_emktd.data import AudioVisualCollator
from hf_emktd.data.scene_augmentation import SceneAugmentationArguments, SceneTransform
from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig, LiveTeacher
from hf_emktd.models.avsegformer import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation, AvSegFormerProcessor
from hf_emktd.training import ClipViews, EMKTDTrainer, build_objectives

FRAMES = 2
SIZES = {
    "vision_hidden_sizes": [8, 8, 16, 16],
    "vision_depths": [1, 1, 1, 1],
    "vision_num_attention_heads": [1, 1, 2, 2],
    "vision_mlp_ratios": [2, 2, 2, 2],
    "vision_drop_path_rate": 0.0,
    "audio_channels": [2, 2, 4, 4, 8, 8],
    "audio_hidden_size": 16,
    "audio_embedding_size": 8,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "query_layers": 1,
    "num_queries": 4,
    "feed_forward_size": 16,
    "query_feed_forward_size": 16,
    "mask_mlp_size": 8,
    "dropout": 0.0,
    "num_points": 2,
    "norm_groups": 4,
    "image_size": 64,
    "num_frames": FRAMES,
}


def make_config(**overrides) -> AvSegFormerConfig:
    return AvSegFormerConfig(**(SIZES | overrides))


def make_model(seed: int = 0, **overrides) -> AvSegFormerForAudioVisualSegmentation:
    torch.manual_seed(seed)
    return AvSegFormerForAudioVisualSegmentation(make_config(**overrides))


def make_monitor(teacher: AvSegFormerForAudioVisualSegmentation) -> EntropyMonitor:
    torch.manual_seed(7)
    config = teacher.config
    monitor = EntropyMonitor(
        EntropyMonitorConfig(
            task=config.task,
            branch_widths=dict(config.branch_widths),
            branch_grids=dict(config.branch_grids),
            id2label=config.id2label,
        )
    )
    for parameter in monitor.parameters():
        torch.nn.init.normal_(parameter)  # entropies that differ between clips and branches
    return monitor


def make_features(count: int = 8, size: int = 48, seed: int = 0, labelled: int = FRAMES) -> Dataset:
    """Rows as `extract_scene_features` stores them: a bright square that is the mask; of the first frames only."""
    features = Features(
        {
            "clip_id": Value("string"),
            "label": ClassLabel(names=["sounding"]),
            "log_mel": Value("binary"),
            "frames": List(Value("binary")),
            "masks": List(Value("binary")),
        }
    )
    random = np.random.default_rng(seed)
    return Dataset.from_list([_row(f"scene{index}", size, labelled, random) for index in range(count)], features)


def _row(clip_id: str, size: int, labelled: int, random: np.random.Generator) -> dict:
    log_mel = random.normal(-2, 1, (FRAMES, 96, 64)).astype(np.float16)
    frames, masks = [], []
    for frame in range(FRAMES):
        pixels = random.integers(0, 100, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), np.uint8)
        top, left = random.integers(0, size // 2, 2)
        mask[top : top + size // 2, left : left + size // 2] = 255
        pixels[mask > 0] += 150
        frames.append(_png(Image.fromarray(pixels)))
        masks.append(_png(Image.fromarray(mask).convert("1")) if frame < labelled else None)
    return {"clip_id": clip_id, "label": 0, "log_mel": log_mel.tobytes(), "frames": frames, "masks": masks}


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_views(features: Dataset, student=None, teacher=None, **augmentation) -> ClipViews:
    processor = AvSegFormerProcessor.from_config((student or make_model()).config)
    teacher_processor = None if teacher is None else AvSegFormerProcessor.from_config(teacher.config)
    options = SceneAugmentationArguments(**augmentation)
    return ClipViews(features, SceneTransform(processor, options, teacher_processor=teacher_processor))


def make_trainer(output_dir: str | Path, *, student=None, teacher_model=None, views=None, **options) -> EMKTDTrainer:
    """A distillation on 8 scenes; `options` are those of `DistillationArguments`."""
    student = make_model() if student is None else student
    teacher_model = make_model(seed=1) if teacher_model is None else teacher_model
    args = make_arguments(output_dir, **{"per_device_train_batch_size": 4, **options})
    views = make_views(make_features(), student, teacher_model) if views is None else views
    return EMKTDTrainer(
        student,
        args,
        teacher=LiveTeacher(teacher_model, make_monitor(teacher_model)),
        objectives=build_objectives(args, student.config, teacher_model.config),
        train_dataset=views,
        eval_dataset=make_views(make_features(count=3, seed=1), student),
        data_collator=AudioVisualCollator(),
    )
