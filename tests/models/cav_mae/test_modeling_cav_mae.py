import copy
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeModel
from hf_emktd.models.cav_mae.modeling_cav_mae import sincos_position_embeddings

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "cav_mae.json").read_text())


class TestSize:
    @pytest.mark.parametrize(
        ("preset", "expected"), [("base", 164_739_381), ("small", 41_671_989), ("tiny", 10_661_685)]
    )
    def test_number_of_parameters(self, preset, expected):
        with torch.device("meta"):
            model = CavMaeForAudioVisualClassification(CavMaeConfig.from_preset(preset))
        assert sum(parameter.numel() for parameter in model.parameters()) == expected
        assert model.num_parameters() == expected

    @pytest.mark.parametrize(("modality", "patch"), [("audio", 16 * 16), ("visual", 3 * 16 * 16)])
    def test_one_modality_carries_nothing_of_the_other(self, modality, patch):
        """By hand: embeddings, eleven layers and a joint one with two norms each, the last norm and the head."""
        config = CavMaeConfig.from_preset("tiny", modalities=[modality])
        with torch.device("meta"):
            model = CavMaeForAudioVisualClassification(config)
        width, tokens = 192, math.prod(getattr(config, f"{modality}_grid"))
        embeddings = (patch + 1 + tokens + 1) * width
        layer = 2 * 2 * width + (3 * width + width) * (width + 1) + 4 * width * (width + 1) + width * (4 * width + 1)
        head = 2 * width + 309 * (width + 1)
        assert model.num_parameters() == embeddings + 12 * layer + 2 * width + head
        other = "visual" if modality == "audio" else "audio"
        assert not [name for name, _ in model.named_parameters() if other in name or "layernorm_" + modality in name]


class TestInitialisation:
    @pytest.mark.parametrize(("branch", "grid"), [("audio", (8, 4)), ("visual", (2, 2))])
    def test_position_embeddings_equal_the_official_ones(self, branch, grid):
        embeddings = sincos_position_embeddings(128, grid)[0]
        embeddings = embeddings[::5, ::9] if branch == "audio" else embeddings[:, ::9]
        torch.testing.assert_close(embeddings, torch.tensor(GOLDEN["position_embeddings"][branch]), atol=1e-6, rtol=0)

    def test_position_embeddings_by_hand(self):
        # width 4: sine and cosine of the column, then of the row; the last token of 2 x 3 is row 1, column 2
        token = sincos_position_embeddings(4, (2, 3))[0, 5]
        expected = [math.sin(2), math.cos(2), math.sin(1), math.cos(1)]
        assert token.tolist() == pytest.approx(expected, abs=1e-7)

    def test_every_parameter_follows_the_official_rule(self, tiny_config):
        torch.manual_seed(0)
        config = tiny_config(hidden_size=64)
        for name, parameter in CavMaeForAudioVisualClassification(config).named_parameters():
            if "position_embeddings" in name:
                grid = config.audio_grid if "audio" in name else config.visual_grid
                assert torch.equal(parameter, sincos_position_embeddings(64, grid)), name
            elif "modality_embeddings" in name:
                assert 0.01 < parameter.std() < 0.03, name
            elif "projection.bias" in name:
                fan_in = (1 if "audio" in name else 3) * 8 * 8
                assert 0 < parameter.abs().max() <= fan_in**-0.5, name
            elif "layernorm" in name or name.endswith("bias"):
                assert (parameter == float("layernorm" in name and "weight" in name)).all(), name
            else:
                fan_out, fan_in = parameter.flatten(1).shape
                bound = math.sqrt(6 / (fan_in + fan_out))
                assert 0.9 * bound < parameter.abs().max() <= bound, name

    def test_backbone_of_another_model_leaves_only_the_head_new(self, tiny_model, tiny_config, tmp_path):
        with torch.no_grad():
            for parameter in tiny_model.parameters():
                parameter.uniform_(-1, 1)
        tiny_model.cav_mae.save_pretrained(tmp_path)
        model, info = CavMaeForAudioVisualClassification.from_pretrained(tmp_path, output_loading_info=True)
        head = {f"classifier.{name}" for name in ("layernorm.weight", "layernorm.bias", "dense.weight", "dense.bias")}
        assert set(info["missing_keys"]) == head
        for name, parameter in tiny_model.cav_mae.named_parameters():
            assert torch.equal(model.cav_mae.get_parameter(name), parameter), name
        assert (model.classifier.layernorm.weight == 1).all() and (model.classifier.dense.bias == 0).all()
        bound = math.sqrt(6 / (16 + 5))
        assert 0.5 * bound < model.classifier.dense.weight.abs().max() <= bound

    def test_missing_embeddings_are_initialised_when_loading(self, tiny_model, tmp_path):
        state = {name: value for name, value in tiny_model.state_dict().items() if "audio_embeddings" not in name}
        tiny_model.save_pretrained(tmp_path, state_dict=state)
        model = CavMaeForAudioVisualClassification.from_pretrained(tmp_path)
        embeddings = model.cav_mae.audio_embeddings
        assert torch.equal(embeddings.position_embeddings, sincos_position_embeddings(16, (2, 4)))
        assert 0 < embeddings.modality_embeddings.std() < 0.05
        assert 0 < embeddings.patch_embeddings.projection.weight.abs().max() <= math.sqrt(6 / (64 + 16))


class TestForward:
    def test_tokens_of_three_branches(self, tiny_model, tiny_inputs):
        output = tiny_model(**tiny_inputs, output_tokens=True)
        assert output.logits.shape == (3, 5)
        assert output.audio_tokens.shape == (3, 8, 16)
        assert output.visual_tokens.shape == (3, 4, 16)
        assert output.fusion_tokens.shape == (3, 12, 16)
        assert torch.equal(output.pooler_output, output.fusion_tokens.mean(dim=1))
        assert torch.equal(output.logits, tiny_model.classifier(output.pooler_output))

    def test_tokens_stay_inside_unless_asked_for(self, tiny_model, tiny_inputs):
        assert set(tiny_model(**tiny_inputs)) == {"logits", "pooler_output"}

    def test_audio_tokens_run_through_time_first(self, tiny_model, tiny_inputs):
        """Changing one patch of the spectrogram changes the embedding of token f * time + t alone."""
        changed = tiny_inputs["input_values"].clone()
        changed[:, 16:24, 8:16] += 1  # time patch 2, frequency patch 1
        embed = tiny_model.cav_mae.audio_embeddings
        before, after = (embed(x[:, None].transpose(2, 3)) for x in (tiny_inputs["input_values"], changed))
        assert (before != after).any(dim=2)[0].nonzero().flatten().tolist() == [1 * 4 + 2]

    @pytest.mark.parametrize(("given", "absent"), [("input_values", "visual"), ("pixel_values", "audio")])
    @pytest.mark.parametrize("mode", ["missing", "only"])
    def test_either_input_may_be_absent(self, tiny_model, tiny_inputs, given, absent, mode):
        inputs = {given: tiny_inputs[given]}
        output = tiny_model(**inputs, single_modality_mode=mode, output_tokens=True)
        assert output.logits.shape == (3, 5)
        assert output[f"{'audio' if absent == 'visual' else 'visual'}_tokens"] is not None
        assert output.get(f"{absent}_tokens") is None and output.get("fusion_tokens") is None

    def test_missing_mode_averages_shared_and_modality_path(self, tiny_model, tiny_inputs):
        with torch.no_grad():
            for name, parameter in tiny_model.named_parameters():
                if "_audio." in name:
                    parameter.uniform_(-1, 1)
        model, tokens = tiny_model.cav_mae, tiny_model.cav_mae(tiny_inputs["input_values"]).audio_tokens
        layer = model.joint_layers[0]
        shared = model.layernorm(layer(tokens)).mean(dim=1)
        alone = model.layernorm_audio(layer(tokens, "audio")).mean(dim=1)
        assert not torch.allclose(shared, alone, atol=0.1)
        missing = model(tiny_inputs["input_values"]).pooler_output
        only = model(tiny_inputs["input_values"], single_modality_mode="only").pooler_output
        torch.testing.assert_close(missing, (shared + alone) / 2)
        torch.testing.assert_close(only, alone)

    def test_configuration_sets_the_default_mode(self, tiny_model, tiny_inputs):
        with torch.no_grad():
            tiny_model.cav_mae.layernorm_audio.weight.uniform_(-1, 1)
        only = tiny_model(tiny_inputs["input_values"], single_modality_mode="only").logits
        missing = tiny_model(tiny_inputs["input_values"], single_modality_mode="missing").logits
        tiny_model.config.single_modality_mode = "only"
        assert torch.equal(tiny_model(tiny_inputs["input_values"]).logits, only)
        assert not torch.equal(only, missing)

    def test_return_dict_and_hidden_states(self, tiny_model, tiny_inputs):
        output = tiny_model(**tiny_inputs, output_hidden_states=True, output_tokens=True)
        assert [len(output[f"{branch}_hidden_states"]) for branch in ("audio", "visual", "fusion")] == [3, 3, 2]
        assert torch.equal(output.audio_hidden_states[-1], output.audio_tokens)
        joint = torch.cat([output.audio_tokens, output.visual_tokens], dim=1)
        assert torch.equal(output.fusion_hidden_states[0], joint)
        assert torch.equal(tiny_model(**tiny_inputs, return_dict=False)[0], output.logits)
        assert torch.equal(tiny_model.cav_mae(**tiny_inputs, return_dict=False)[0], output.pooler_output)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "neither input_values nor pixel_values"),
            ({"input_values": torch.zeros(2, 31, 16)}, r"\(batch, 32, 16\) but are \(2, 31, 16\)"),
            ({"pixel_values": torch.zeros(2, 10, 3, 16, 16)}, r"\(batch, 3, 16, 16\).*one frame at a time"),
            ({"input_values": torch.zeros(2, 32, 16), "single_modality_mode": "none"}, "must be .* but is 'none'"),
        ],
    )
    def test_wrong_inputs_are_named(self, tiny_model, inputs, message):
        with pytest.raises(ValueError, match=message):
            tiny_model(**inputs)


class TestOneModality:
    @pytest.fixture(params=["audio", "visual"])
    def modality(self, request) -> str:
        return request.param

    @pytest.fixture
    def model(self, modality, tiny_config) -> CavMaeForAudioVisualClassification:
        torch.manual_seed(0)
        return CavMaeForAudioVisualClassification(tiny_config(modalities=[modality])).eval()

    @pytest.fixture
    def inputs(self, model, tiny_inputs) -> dict[str, torch.Tensor]:
        return {name: tiny_inputs[name] for name in model.config.input_shapes}

    def test_two_branches_and_the_logits_of_the_fused_one(self, model, modality, inputs):
        output = model(**inputs, output_tokens=True)
        counts = {"audio": 8, "visual": 4}
        assert output[f"{modality}_tokens"].shape == output.fusion_tokens.shape == (3, counts[modality], 16)
        assert {"audio_tokens", "visual_tokens"} & set(output) == {f"{modality}_tokens"}
        joint = model.cav_mae.joint_layers[0](output[f"{modality}_tokens"])
        assert torch.equal(output.fusion_tokens, model.cav_mae.layernorm(joint))
        assert torch.equal(output.logits, model.classifier(output.fusion_tokens.mean(dim=1)))
        assert torch.equal(model(**inputs, single_modality_mode="only").logits, output.logits)

    def test_is_the_shared_path_of_a_model_with_both(self, model, modality, inputs, tiny_model):
        model.load_state_dict({name: tiny_model.state_dict()[name] for name in model.state_dict()})
        tokens = tiny_model(**inputs, output_tokens=True)[f"{modality}_tokens"]
        shared = tiny_model.cav_mae.layernorm(tiny_model.cav_mae.joint_layers[0](tokens))
        torch.testing.assert_close(model(**inputs, output_tokens=True).fusion_tokens, shared)

    def test_everything_learns(self, model, inputs):
        assert all(parameter.requires_grad for parameter in model.parameters())
        model.train()(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_the_other_input_is_refused(self, model, modality, tiny_inputs):
        other = next(name for name in tiny_inputs if name not in model.config.input_shapes)
        message = f"a model of {modality} alone takes no {other}; give it {model.main_input_name} only"
        for inputs in (tiny_inputs, {other: tiny_inputs[other]}):
            with pytest.raises(ValueError, match=message):
                model(**inputs)
        with pytest.raises(ValueError, match=f"neither .* nor .*; this model takes {model.main_input_name}"):
            model()

    def test_saved_and_loaded(self, model, inputs, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits)
        assert loaded.get_input_embeddings().projection.weight.shape[0] == 16


class TestLoss:
    def test_class_ids(self, tiny_model, tiny_inputs):
        labels = torch.tensor([0, 4, 2])
        output = tiny_model(**tiny_inputs, labels=labels)
        expected = -output.logits.log_softmax(dim=1)[torch.arange(3), labels].mean()
        torch.testing.assert_close(output.loss, expected)

    def test_class_probabilities(self, tiny_model, tiny_inputs):
        labels = torch.rand(3, 5, dtype=torch.float64).softmax(dim=1)
        output = tiny_model(**tiny_inputs, labels=labels)
        expected = -(labels * output.logits.log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(output.loss, expected.float())

    def test_float_class_ids_are_refused(self, tiny_model, tiny_inputs):
        with pytest.raises(ValueError, match=r"must be \(3, 5\).*are \(3,\); pass class ids as int64"):
            tiny_model(**tiny_inputs, labels=torch.tensor([0.0, 1.0, 2.0]))


class TestAttention:
    def test_eager_equals_sdpa(self, tiny_model, tiny_inputs):
        assert tiny_model.config._attn_implementation == "sdpa"
        expected = tiny_model(**tiny_inputs).logits
        tiny_model.set_attn_implementation("eager")
        torch.testing.assert_close(tiny_model(**tiny_inputs).logits, expected)

    def test_autocast_and_half_precision_weights(self, tiny_model, tiny_inputs):
        expected = tiny_model(**tiny_inputs).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = tiny_model(**tiny_inputs).logits
        torch.testing.assert_close(autocast.float(), expected, atol=0.05, rtol=0.05)
        half = tiny_model.to(torch.bfloat16)(**tiny_inputs).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)

    def test_compiles_to_one_graph(self, tiny_model, tiny_inputs):
        compiled = torch.compile(tiny_model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(**tiny_inputs).logits, tiny_model(**tiny_inputs).logits)
        alone = {"input_values": tiny_inputs["input_values"]}
        assert torch.equal(compiled(**alone).logits, tiny_model(**alone).logits)


class TestGradients:
    def test_frozen_are_exactly_the_norms_no_branch_uses(self, tiny_model):
        frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
        # two branches of two layers, each with norms before and after, of two modalities, with weight and bias
        assert len(frozen) == 2 * 2 * 2 * 2 * 2
        assert all(name.split(".")[1] in ("audio_layers", "visual_layers") for name in frozen)
        assert all("layernorm" in name and ("_audio." in name or "_visual." in name) for name in frozen)

    def test_everything_else_learns_from_both_inputs_but_the_modality_norms(self, tiny_model, tiny_inputs):
        tiny_model.train()(**tiny_inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
        without = {n for n, p in tiny_model.named_parameters() if p.requires_grad and p.grad is None}
        assert without == {
            f"cav_mae.{norm}_{modality}.{kind}"
            for norm in ("layernorm", "joint_layers.0.layernorm_before", "joint_layers.0.layernorm_after")
            for modality in ("audio", "visual")
            for kind in ("weight", "bias")
        }

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # its successor does not exist in transformers 5.17
    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_gradient_checkpointing_changes_nothing(self, tiny_model, tiny_inputs, use_reentrant):
        labels, expected = torch.tensor([0, 1, 2]), copy.deepcopy(tiny_model).train()
        expected(**tiny_inputs, labels=labels).loss.backward()
        tiny_model.train().gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        assert tiny_model.is_gradient_checkpointing
        forwards = []
        tiny_model.cav_mae.audio_layers[0].mlp.register_forward_pre_hook(lambda *_: forwards.append(1))
        tiny_model(**tiny_inputs, labels=labels).loss.backward()
        assert len(forwards) == 2  # once, and once more in the backward pass
        for (name, parameter), other in zip(tiny_model.named_parameters(), expected.parameters(), strict=True):
            assert (parameter.grad is None) == (other.grad is None), name
            if other.grad is not None:
                torch.testing.assert_close(parameter.grad, other.grad, msg=name)

    def test_gradient_equals_finite_differences(self, tiny_config, tiny_inputs):
        torch.manual_seed(0)
        model = CavMaeModel(tiny_config(modality_specific_depth=1)).double()
        audio, picture = (value[:1].double() for value in tiny_inputs.values())
        patch = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

        def pooled(patch: torch.Tensor) -> torch.Tensor:
            shifted = audio + torch.nn.functional.pad(patch, (3, 11, 5, 25))
            return model(shifted, picture + patch.sum()).pooler_output

        assert torch.autograd.gradcheck(pooled, (patch,))


class TestSaving:
    def test_auto_model_gives_the_whole_model_with_its_head(self, tiny_model, tiny_inputs, tmp_path):
        tiny_model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is CavMaeForAudioVisualClassification
        assert torch.equal(loaded(**tiny_inputs).logits, tiny_model(**tiny_inputs).logits)

    def test_loading_keeps_the_unused_norms_frozen(self, tiny_model, tmp_path):
        tiny_model.save_pretrained(tmp_path)
        frozen = [name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad]
        loaded, info = CavMaeForAudioVisualClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad] == frozen
        assert not info["missing_keys"] and not info["unexpected_keys"]

    def test_another_number_of_classes_gets_a_new_head(self, tiny_model, tmp_path):
        tiny_model.save_pretrained(tmp_path)
        loaded = CavMaeForAudioVisualClassification.from_pretrained(
            tmp_path, num_labels=8, ignore_mismatched_sizes=True
        )
        assert loaded.classifier.dense.weight.shape == (8, 16)
        assert torch.equal(loaded.cav_mae.layernorm.weight, tiny_model.cav_mae.layernorm.weight)
