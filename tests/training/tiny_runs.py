"""Tiny models, clips and runs, for the tests here and for `distributed_driver.py`, which has two processes."""

from __future__ import annotations

import wave
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image

from hf_emktd.data import AudioVisualCollator, AugmentationArguments, ClipTransform
from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig, LiveTeacher
from hf_emktd.models.cav_mae import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.training import ClipViews, DistillationArguments, EMKTDTrainer, build_objectives

LABELS = ["bell", "dog", "rain"]
OFF = AugmentationArguments.none()
# the paper's two objectives, in the plain form that needs no calibration
PLAIN = {"objective": ["em_ktd", "kd"], "ktd_scale": "none", "ktd_weight": 30.0}


def make_model(seed: int = 0, **overrides) -> CavMaeForAudioVisualClassification:
    """Audio grid 4 x 4, visual grid 2 x 2, three classes."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "modality_specific_depth": 1, "patch_size": 8}
    inputs = {"audio_length": 32, "num_mel_bins": 32, "image_size": 16, "id2label": dict(enumerate(LABELS))}
    return CavMaeForAudioVisualClassification(CavMaeConfig(**(sizes | inputs | overrides)))


def make_monitor(teacher: CavMaeForAudioVisualClassification) -> EntropyMonitor:
    torch.manual_seed(7)
    config = EntropyMonitorConfig(branch_widths=dict(teacher.config.branch_widths), id2label=teacher.config.id2label)
    monitor = EntropyMonitor(config)
    for probe in monitor.probes.values():
        torch.nn.init.normal_(probe[-1].weight)  # entropies that differ between clips and branches
    return monitor


def make_teacher(**overrides) -> LiveTeacher:
    model = make_model(seed=1, **overrides)
    return LiveTeacher(model, make_monitor(model))


def make_features(count: int = 16, size: int = 16, seed: int = 0, labels: list[int] | None = None) -> Dataset:
    """Rows as `extract_features` stores them: a tilted noise spectrogram and two coloured frames each."""
    features = Features(
        {
            "clip_id": Value("string"),
            "label": ClassLabel(names=LABELS),
            "fbank": Value("binary"),
            "frames": List(Value("binary")),
        }
    )
    random = np.random.default_rng(seed)
    labels = [index % len(LABELS) for index in range(count)] if labels is None else labels
    return Dataset.from_list([_row(f"clip{i}", label, size, random) for i, label in enumerate(labels)], features)


def make_table(folder: Path) -> Path:
    """A table of 12 training, 6 validation and 7 test clips: tones of a class's pitch, noise of its brightness."""
    random = np.random.default_rng(0)
    lines = ["split,label,image,audio"]
    for split, count in (("train", 12), ("validation", 6), ("test", 7)):
        for index in range(count):
            label = index % len(LABELS)
            name = f"{split}{index}"
            _write_sound(folder / f"{name}.wav", 300 * (label + 1), random)
            Image.fromarray(random.integers(0, 80 * (label + 1), (20, 24, 3), np.uint8)).save(folder / f"{name}.png")
            lines.append(f"{split},{LABELS[label]},{name}.png,{name}.wav")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


def _write_sound(path: Path, hertz: float, random: np.random.Generator) -> None:
    samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4000) / 16000) + 0.05 * random.standard_normal(4000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples.clip(-1, 1) * 32767).astype(np.int16).tobytes())


def _row(clip_id: str, label: int, size: int, random: np.random.Generator) -> dict:
    fbank = random.normal(-5 + label, 3, (32, 32)) + np.linspace(-2, 2, 32) * (label - 1)
    frames = [_jpeg(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(2)]
    return {"clip_id": clip_id, "label": label, "fbank": fbank.astype(np.float16).tobytes(), "frames": frames}


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def make_views(features: Dataset, augmentation: AugmentationArguments = OFF, student=None, teacher=None) -> ClipViews:
    processor = CavMaeProcessor.from_config((student or make_model()).config)
    teacher_processor = None if teacher is None else CavMaeProcessor.from_config(teacher.config)
    return ClipViews(features, ClipTransform(processor, augmentation, teacher_processor, partners=features))


def make_arguments(output_dir: str | Path, kind: type = DistillationArguments, **options):
    """On the CPU, every step logged, nothing saved, plain gradient descent: a step is linear in the gradient."""
    defaults = {
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_steps": 2,
        "per_device_train_batch_size": 8,
    }
    if kind is DistillationArguments:
        defaults |= PLAIN
    return kind(output_dir=str(output_dir), **(defaults | options))


def make_trainer(
    output_dir: str | Path,
    *,
    student=None,
    teacher: LiveTeacher | None = None,
    views=None,
    objectives=None,
    collator=None,
    optimizers=(None, None),
    **options,
) -> EMKTDTrainer:
    """A distillation from `make_teacher()` on 16 clips; `options` are those of `DistillationArguments`."""
    student = make_model() if student is None else student
    args = make_arguments(output_dir, **options)
    teacher = make_teacher() if teacher is None else teacher
    if objectives is None:
        objectives = build_objectives(args, student.config, teacher.model.config)
    views = make_views(make_features()) if views is None else views
    return EMKTDTrainer(
        student,
        args,
        teacher=teacher,
        objectives=objectives,
        train_dataset=views,
        eval_dataset=make_views(make_features(count=7, seed=1)),
        train_labels=views.features["label"][:] if isinstance(views, ClipViews) else None,
        data_collator=collator or AudioVisualCollator(),
        optimizers=optimizers,
    )


def logged(trainer) -> list[dict[str, float]]:
    """The training log lines, without what depends on the clock."""
    return [line for line in trainer.state.log_history if "loss" in line]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
