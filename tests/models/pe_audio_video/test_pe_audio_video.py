"""PE-AV of transformers as a frozen teacher: tokens and grids, saving, and a student that learns from its logits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModel, PeAudioVideoEncoder, PeAudioVideoEncoderConfig, ViTConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "training"))

from tiny_runs import LABELS, make_arguments, make_model, weights

from hf_emktd import PeAudioVideoClassificationConfig, PeAudioVideoForAudioVisualClassification
from hf_emktd.data import AudioVisualCollator
from hf_emktd.distillation import LiveTeacher, check_compatible
from hf_emktd.training import EMKTDTrainer, build_objectives

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
}
# a codec token every 8 samples; PE-AV's own picture encoder is timm's, any other of transformers will do
CODEC = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4], "codebook_dim": 4, "hidden_size": 16}
PICTURE = ViTConfig(**{**SIZES, "hidden_size": 16}, image_size=16, patch_size=8, num_labels=6)


def make_config(**overrides) -> PeAudioVideoClassificationConfig:
    """20 tokens of sound and of fusion, 5 of film, three classes."""
    encoder = {
        **SIZES,
        "hidden_size": 24,
        "audio_config": {"model_type": "pe_audio_encoder", **SIZES, "dac_config": CODEC},
        "video_config": {**SIZES, "vision_config": PICTURE.to_dict()},
    }
    sizes = {"num_samples": 160, "num_frames": 5, "image_size": 16, "id2label": dict(enumerate(LABELS))}
    return PeAudioVideoClassificationConfig(**{"encoder_config": encoder, **sizes, **overrides})


@pytest.fixture(autouse=True)
def _timm():
    """transformers 5.17 wants it for any PE-AV, whatever the picture encoder."""
    try:
        make_config()
    except ImportError as error:
        if "timm" in str(error):
            pytest.skip("this transformers makes no PE-AV without timm")
        raise


def make_teacher(**overrides) -> PeAudioVideoForAudioVisualClassification:
    torch.manual_seed(0)
    return PeAudioVideoForAudioVisualClassification(make_config(**overrides)).eval()


def make_inputs(config: PeAudioVideoClassificationConfig, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in config.input_shapes.items()}


def test_tokens_lie_on_the_grids_that_the_config_tells():
    teacher = make_teacher()
    inputs = make_inputs(teacher.config)
    assert teacher.config.branch_grids == {"audio": ((1, 20),), "visual": ((1, 5),), "fusion": ((1, 20),)}
    signal = LiveTeacher(teacher)(**inputs)
    shapes = {branch: tuple(tokens.shape) for branch, tokens in signal.tokens.items()}
    assert shapes == {"audio": (2, 20, 16), "visual": (2, 5, 16), "fusion": (2, 20, 24)}
    inner = teacher.encoder(input_values=inputs["input_values"], pixel_values_videos=inputs["pixel_values"])
    torch.testing.assert_close(signal.tokens["fusion"], inner.last_hidden_state)
    torch.testing.assert_close(signal.logits, teacher.classifier(teacher.layernorm(inner.pooler_output)))


def test_the_encoder_is_frozen_and_stays_so(tmp_path):
    teacher = make_teacher()
    teacher.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    inputs = make_inputs(teacher.config)
    torch.testing.assert_close(loaded(**inputs).logits, teacher(**inputs).logits)
    for model in (teacher, loaded):
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == {"layernorm.weight", "layernorm.bias", "classifier.weight", "classifier.bias"}
    assert type(AutoConfig.from_pretrained(tmp_path).encoder_config.video_config.vision_config) is ViTConfig


def test_around_a_loaded_encoder():
    config = make_config()
    torch.manual_seed(2)
    encoder = PeAudioVideoEncoder(config.encoder_config).eval()
    fields = {name: getattr(config, name) for name in ("num_samples", "num_frames", "image_size", "id2label")}
    teacher = PeAudioVideoForAudioVisualClassification.from_encoder(encoder, **fields)
    assert teacher.encoder is encoder and teacher.num_parameters() > encoder.num_parameters()
    logits = teacher(**make_inputs(config)).logits
    assert logits.shape == (2, 3) and logits.isfinite().all() and logits.requires_grad


def test_around_an_encoder_of_half_precision(tmp_path):
    config = make_config()
    encoder = PeAudioVideoEncoder(config.encoder_config).eval().to(torch.bfloat16)
    fields = {name: getattr(config, name) for name in ("num_samples", "num_frames", "image_size", "id2label")}
    teacher = PeAudioVideoForAudioVisualClassification.from_encoder(encoder, **fields)
    inputs = {name: values.to(torch.bfloat16) for name, values in make_inputs(config).items()}
    logits = teacher(**inputs).logits
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    teacher.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    # loading leaves the encoder's rotary frequencies in float32, `to` does not
    torch.testing.assert_close(loaded(**inputs).logits, logits, atol=0.02, rtol=0.05)


def test_a_config_that_names_a_precision_for_the_encoder_gives_a_model_of_one():
    config = make_config()
    config.encoder_config.dtype = "bfloat16"
    model = PeAudioVideoForAudioVisualClassification(config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_published_sizes():
    config = PeAudioVideoClassificationConfig(encoder_config=PeAudioVideoEncoderConfig())
    assert config.hop_length == 1920 and config.branch_grids["audio"] == ((1, 250),)


@pytest.mark.parametrize("fields, message", [({"num_samples": 161}, "use 160"), ({"num_frames": 0}, "at least 1")])
def test_sizes_that_do_not_fit(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(**fields)


def test_other_inputs_are_refused():
    teacher = make_teacher()
    inputs = make_inputs(teacher.config)
    with pytest.raises(ValueError, match=r"input_values must be \(batch, 1, 160\)"):
        teacher(inputs["input_values"][..., :80], inputs["pixel_values"])


def test_a_cav_mae_learns_from_logits_alone():
    student = make_model()
    with pytest.raises(ValueError, match="finer than the teacher's"):
        check_compatible(student.config, make_config())
    check_compatible(student.config, make_config(expose_tokens=False))


class Views(Dataset):
    """Clips as a user would prepare them for both: a spectrogram and a frame, a waveform and a film."""

    def __init__(self, student, teacher, count: int = 8) -> None:
        own, given = (make_inputs(config, count) for config in (student, teacher))
        self.columns = {**own, **{f"teacher_{name}": values for name, values in given.items()}}

    def __len__(self) -> int:
        return len(self.columns["pixel_values"])

    def __getitem__(self, index: int) -> dict:
        return {name: values[index].numpy() for name, values in self.columns.items()} | {"label": index % 3}


def test_distilled_with_clips_of_ones_own(tmp_path):
    student, teacher = make_model(), make_teacher(expose_tokens=False)
    before, below = weights(student), weights(teacher)
    args = make_arguments(tmp_path, objective=["kd"])
    trainer = EMKTDTrainer(
        student,
        args,
        teacher=LiveTeacher(teacher),
        objectives=build_objectives(args, student.config, teacher.config),
        train_dataset=Views(student.config, teacher.config),
        data_collator=AudioVisualCollator(),
    )
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss_kd" in line]
    assert logged and all(line["loss_kd"] > 0 for line in logged)
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, below[name]) for name, value in teacher.state_dict().items())
