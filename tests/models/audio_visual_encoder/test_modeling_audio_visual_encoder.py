"""Two encoders and their fusion keep the contract of docs/architecture.md."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import ASTModel, AutoModel

from hf_emktd import AudioVisualEncoderForAudioVisualClassification, AudioVisualEncoderModel
from tiny_encoders import VISION_CONFIGS, make_audio_config, make_config


def tokens_of(output) -> dict[str, torch.Tensor]:
    return {branch: getattr(output, f"{branch}_tokens") for branch in ("audio", "visual", "fusion")}


def make_model(config, seed: int = 0) -> AudioVisualEncoderForAudioVisualClassification:
    torch.manual_seed(seed)
    return AudioVisualEncoderForAudioVisualClassification(config).eval()


class TestEveryEncoder:
    @pytest.fixture(params=VISION_CONFIGS)
    def model(self, request):
        return make_model(make_config(request.param))

    def test_tokens_lie_on_the_grids_that_the_config_tells(self, model, tiny_inputs):
        output = model(**tiny_inputs, output_tokens=True)
        for branch, tokens in tokens_of(output).items():
            count = sum(math.prod(grid) for grid in model.config.branch_grids[branch])
            assert tokens.shape == (3, count, model.config.branch_widths[branch])
        assert output.logits.shape == (3, 5) and output.logits.isfinite().all()

    def test_survives_saving(self, model, tiny_inputs, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is AudioVisualEncoderForAudioVisualClassification
        torch.testing.assert_close(loaded(**tiny_inputs).logits, model(**tiny_inputs).logits)
        assert loaded.state_dict().keys() == model.state_dict().keys()

    def test_takes_pictures_of_another_size(self, model, tiny_inputs):
        larger = make_model(make_config(model.config.vision_config.model_type, image_size=64))
        tokens = larger(pixel_values=torch.randn(2, 3, 64, 64), output_tokens=True).visual_tokens
        assert tokens.shape[1] == math.prod(larger.config.visual_grid) > math.prod(model.config.visual_grid)
        with pytest.raises(ValueError, match=r"pixel_values must be \(batch, 3, 64, 64\)"):
            larger(pixel_values=tiny_inputs["pixel_values"])

    def test_every_part_is_trained(self, model, tiny_inputs):
        model.train()(**tiny_inputs, labels=torch.tensor([0, 1, 4])).loss.backward()
        unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert all(name.endswith("mask_token") for name in unused), unused


def test_patches_come_in_the_order_of_the_grid(tiny_model, tiny_inputs):
    """Of a patch that changes, the token at its place changes most: rows first, time runs fastest."""
    time = tiny_model.config.audio_grid[1]
    before = tiny_model(**tiny_inputs, output_tokens=True)
    sound, picture = (values.clone() for values in tiny_inputs.values())
    sound[:, 28:, :4] += 5.0  # the last frames, the lowest bins
    picture[:, :, :8, 8:] += 5.0
    after = tiny_model(sound, picture, output_tokens=True)
    for branch, place in (("audio", time - 1), ("visual", 1)):
        moved = (tokens_of(after)[branch] - tokens_of(before)[branch]).norm(dim=-1)
        assert (moved.argmax(dim=1) == place).all()


def test_the_audio_tokens_are_those_of_the_encoder_without_its_two_prefix_tokens(tiny_model, tiny_inputs):
    encoder = tiny_model.audio_visual_encoder.audio_encoder
    assert isinstance(encoder, ASTModel)
    expected = encoder(tiny_inputs["input_values"]).last_hidden_state[:, 2:]
    torch.testing.assert_close(tiny_model(**tiny_inputs, output_tokens=True).audio_tokens, expected)


def test_logits_are_read_from_the_mean_of_the_fusion_tokens(tiny_model, tiny_inputs):
    output = tiny_model(**tiny_inputs, output_tokens=True)
    torch.testing.assert_close(output.logits, tiny_model.classifier(output.fusion_tokens.mean(dim=1)))


@pytest.mark.parametrize("kept, branch", [("input_values", "audio"), ("pixel_values", "visual")])
def test_a_missing_modality(tiny_model, tiny_inputs, kept, branch):
    output = tiny_model(**{kept: tiny_inputs[kept]}, output_tokens=True)
    whole = tiny_model(**tiny_inputs, output_tokens=True)
    present = {name for name, tokens in tokens_of(output).items() if tokens is not None}
    assert present == {branch}
    torch.testing.assert_close(tokens_of(output)[branch], tokens_of(whole)[branch])
    assert output.logits.isfinite().all() and not torch.allclose(output.logits, whole.logits)


@pytest.mark.parametrize("modality, name", [("audio", "input_values"), ("visual", "pixel_values")])
def test_a_model_of_one_modality(tiny_inputs, modality, name):
    model = make_model(make_config(modalities=[modality]))
    output = model(**{name: tiny_inputs[name]}, output_tokens=True)
    assert output.fusion_tokens.shape[1] == tokens_of(output)[modality].shape[1]
    assert not hasattr(model.base_model, f"{'visual' if modality == 'audio' else 'audio'}_encoder")
    with pytest.raises(ValueError, match=f"a model of {modality} alone takes no"):
        model(**tiny_inputs)


def test_no_input_is_refused(tiny_model):
    with pytest.raises(ValueError, match="takes input_values or pixel_values"):
        tiny_model()


def test_tokens_stay_at_home_unless_asked_for(tiny_model, tiny_inputs):
    assert not any(tokens is not None for tokens in tokens_of(tiny_model(**tiny_inputs)).values())
    assert isinstance(tiny_model(**tiny_inputs, return_dict=False), tuple)


def test_soft_labels(tiny_model, tiny_inputs):
    hard = torch.tensor([1, 2, 3])
    soft = torch.nn.functional.one_hot(hard, 5).float()
    losses = [tiny_model(**tiny_inputs, labels=labels).loss for labels in (hard, soft)]
    torch.testing.assert_close(*losses)
    with pytest.raises(ValueError, match="must be"):
        tiny_model(**tiny_inputs, labels=soft[:, :4])


def test_gradient_checkpointing_changes_nothing(tiny_config, tiny_inputs):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(tiny_config).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert sum(getattr(module, "gradient_checkpointing", False) for module in model.modules()) > 3
        model(**tiny_inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_attention_backends_agree(tiny_config, tiny_inputs):
    model = make_model(tiny_config)
    fused = model(**tiny_inputs).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**tiny_inputs).logits, fused)


def test_half_precision_takes_float32_inputs(tiny_model, tiny_inputs, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    logits = model(**tiny_inputs).logits
    torch.testing.assert_close(logits.float(), tiny_model(**tiny_inputs).logits, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_config_that_names_a_precision_for_one_encoder_gives_a_model_of_one(tiny_inputs, dtype):
    audio = make_audio_config(dtype=dtype)
    model = make_model(make_config(audio_config=audio))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model(**tiny_inputs).logits.isfinite().all()


class TestFromEncoders:
    @pytest.fixture(params=["dinov2", "vit", "swin", "pvt_v2"])
    def encoders(self, request, tmp_path):
        torch.manual_seed(5)
        configs = {"audio": make_audio_config(), "vision": VISION_CONFIGS[request.param]}
        models = {name: AutoModel.from_config(config).eval() for name, config in configs.items()}
        for name, model in models.items():
            model.save_pretrained(tmp_path / name)
        return models, str(tmp_path / "audio"), str(tmp_path / "vision")

    def test_takes_their_weights(self, encoders, tiny_inputs):
        models, audio, vision = encoders
        joined = AudioVisualEncoderForAudioVisualClassification.from_encoders_pretrained(audio, vision, num_labels=5)
        output = joined.eval()(**tiny_inputs, output_tokens=True)
        own = models["vision"](tiny_inputs["pixel_values"]).last_hidden_state
        own = own.flatten(2).transpose(1, 2) if own.ndim == 4 else own[:, joined.config.prefix_tokens["visual"] :]
        torch.testing.assert_close(output.visual_tokens, own)
        heard = models["audio"](tiny_inputs["input_values"]).last_hidden_state[:, 2:]
        torch.testing.assert_close(output.audio_tokens, heard)

    def test_a_model_without_a_head_and_of_one_modality(self, encoders, tiny_inputs):
        _, audio, vision = encoders
        model = AudioVisualEncoderModel.from_encoders_pretrained(audio, vision, modalities=["audio"])
        assert model(tiny_inputs["input_values"]).fusion_tokens.shape[1] == 21

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_encoders_saved_in_half_precision(self, encoders, tiny_inputs, tmp_path, dtype):
        models, audio, vision = encoders
        models["audio"].to(dtype).save_pretrained(audio)
        joined = AudioVisualEncoderForAudioVisualClassification.from_encoders_pretrained(audio, vision, num_labels=5)
        assert {parameter.dtype for parameter in joined.parameters()} == {torch.float32}
        assert joined.eval()(**tiny_inputs).logits.isfinite().all()
        joined.save_pretrained(tmp_path / "joined")
        for wanted in (torch.float32, torch.bfloat16):
            loaded = AutoModel.from_pretrained(tmp_path / "joined", dtype=wanted)
            assert {parameter.dtype for parameter in loaded.parameters()} == {wanted}
            assert loaded(**tiny_inputs).logits.dtype == wanted
