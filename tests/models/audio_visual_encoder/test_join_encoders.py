"""Model and processor of two pre-trained encoders, from the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, AutoModel, AutoProcessor, ResNetConfig

from hf_emktd import CavMaeConfig, CavMaeProcessor
from hf_emktd.models.audio_visual_encoder.join_encoders import join_encoders, main
from tiny_encoders import VISION_CONFIGS, make_audio_config


@pytest.fixture
def encoders(tmp_path):
    """Folders of an AST with its feature extractor and of a ViT with its image processor's file."""
    AutoModel.from_config(make_audio_config(max_length=64)).save_pretrained(tmp_path / "ast")
    ASTFeatureExtractor(num_mel_bins=16, max_length=64, mean=-3.5, std=2.5).save_pretrained(tmp_path / "ast")
    AutoModel.from_config(VISION_CONFIGS["vit"]).save_pretrained(tmp_path / "vit")
    normalisation = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(normalisation))
    return tmp_path / "ast", tmp_path / "vit"


def test_sound_is_prepared_as_ast_does(encoders, tmp_path):
    join_encoders(*encoders, tmp_path / "joined", num_labels=3)
    processor = AutoProcessor.from_pretrained(tmp_path / "joined")
    assert type(processor) is CavMaeProcessor
    sound = np.random.default_rng(0).normal(0.01, 0.1, 8000).astype(np.float32)
    own = processor(audio=sound, sampling_rate=16000, return_tensors="pt")["input_values"]
    expected = ASTFeatureExtractor.from_pretrained(encoders[0])(sound, sampling_rate=16000, return_tensors="pt")
    torch.testing.assert_close(own, expected["input_values"], atol=2e-3, rtol=1e-3)  # sums in another order


def test_pictures_are_normalised_as_the_encoder_saw_them(encoders, tmp_path):
    join_encoders(*encoders, tmp_path / "joined", image_size=32)
    processor = AutoProcessor.from_pretrained(tmp_path / "joined")
    pixels = processor(images=Image.new("RGB", (40, 30), (255, 127, 0)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    expected = torch.tensor([(1 - 0.5) / 0.25, (127 / 255 - 0.5) / 0.25, -0.5 / 0.25])
    torch.testing.assert_close(pixels[0, :, 16, 16], expected)


def test_encoders_without_preprocessors_get_the_usual_constants(encoders, tmp_path):
    (encoders[0] / "preprocessor_config.json").unlink()
    (encoders[1] / "preprocessor_config.json").unlink()
    join_encoders(*encoders, tmp_path / "joined")
    processor = AutoProcessor.from_pretrained(tmp_path / "joined")
    assert (processor.feature_extractor.mean, processor.feature_extractor.std) == (-4.2677393, 2 * 4.5689974)
    assert processor.image_processor.image_mean == [0.485, 0.456, 0.406]
    assert processor.feature_extractor.audio_length == 64


def test_command_line(encoders, tmp_path, capsys):
    CavMaeConfig(id2label={0: "bell", 1: "dog"}).save_pretrained(tmp_path / "teacher")
    options = ["--output_dir", str(tmp_path / "joined"), "--classes_of", str(tmp_path / "teacher")]
    main(["--audio", str(encoders[0]), "--vision", str(encoders[1]), "--fusion_depth", "1", *options])
    assert "audio ((3, 15),)" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "joined")
    assert model.config.id2label == {0: "bell", 1: "dog"} and len(model.base_model.fusion.layers) == 1
    given = AutoModel.from_pretrained(encoders[1]).state_dict()
    own = model.base_model.visual_encoder.state_dict()
    assert all(torch.equal(own[name], given[name]) for name in own)


def test_an_unknown_encoder_ends_in_one_line(encoders, tmp_path, capsys):
    ResNetConfig().save_pretrained(tmp_path / "resnet")
    with pytest.raises(SystemExit) as ended:
        main(["--audio", str(encoders[0]), "--vision", str(tmp_path / "resnet"), "--output_dir", str(tmp_path / "x")])
    message = capsys.readouterr().err
    assert ended.value.code == 1 and "cannot be derived" in message and len(message.strip().splitlines()) == 1
