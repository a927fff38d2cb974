import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from avsegformer_formulas import formula_inputs, formula_labels
from torch import nn
from transformers import AutoModel, Trainer, TrainingArguments

from formulas import formula_tensor
from hf_emktd import AvSegFormerConfig, AvSegFormerForAudioVisualSegmentation, AvSegFormerModel
from hf_emktd.distillation import LiveTeacher
from hf_emktd.metrics import count_macs
from hf_emktd.models.avsegformer import binary_cross_entropy_loss, dice_loss, segmentation_loss
from hf_emktd.models.avsegformer.modeling_avsegformer import (
    AvSegFormerDeformableAttention,
    initial_sampling_offsets,
    sine_position_encoding,
)

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "avsegformer.json").read_text())


class TestSize:
    @pytest.mark.parametrize(
        ("preset", "audio_hidden_size", "vision", "audio"),
        [("b0", 1024, 3.410, 18.264), ("b5", 4096, 81.443, 72.141)],
    )
    def test_number_of_parameters(self, preset, audio_hidden_size, vision, audio):
        with torch.device("meta"):
            config = AvSegFormerConfig.from_preset(preset, audio_hidden_size=audio_hidden_size)
            model = AvSegFormerForAudioVisualSegmentation(config)
        encoders = (model.avsegformer.visual_encoder, model.avsegformer.audio_encoder)
        millions = [sum(each.numel() for each in encoder.parameters()) / 1e6 for encoder in encoders]
        assert millions == pytest.approx([vision, audio], abs=5e-4)
        if preset == "b5":
            assert model.num_parameters() == 183_951_296  # as the official model without what it never runs

    def test_cost_grows_with_frames(self, tiny_model, tiny_inputs):
        one = {name: values[:1, :1] for name, values in tiny_inputs.items()}
        assert count_macs(tiny_model) == 3 * count_macs(tiny_model, **one)


class TestInitialisation:
    def test_heads_parameters_follow_the_official_rule(self, tiny_config):
        torch.manual_seed(0)
        model = AvSegFormerForAudioVisualSegmentation(tiny_config(hidden_size=64, num_attention_heads=4))
        decoder, deformable = model.avsegformer.decoder_layers[0], model.avsegformer.encoder.layers[0].attention
        for weight in (decoder.cross_attention.in_projection.weight, model.mask_head.reduction.weight):
            fan_out, fan_in = weight.shape[0] * weight[0, 0].numel(), weight[0].numel()
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.9 * bound < weight.abs().max() <= bound
        assert not decoder.self_attention.in_projection.bias.any()
        assert 0 < decoder.feed_forward.fc1.bias.abs().max() <= 64**-0.5
        assert not deformable.sampling_offsets.weight.any() and not deformable.attention_weights.weight.any()
        assert 0.8 < model.avsegformer.encoder.level_embeddings.std() < 1.2
        assert (model.avsegformer.smoothing[1].weight == 1).all()

    def test_picture_encoder_initialises_itself(self, tiny_model):
        layer = tiny_model.avsegformer.visual_encoder.encoder.layers[3].blocks[0]
        assert 0.018 < layer.mlp.dense1.weight.std() < 0.022 and not layer.mlp.dense1.bias.any()

    def test_offsets_point_in_all_directions(self, tiny_config):
        offsets = initial_sampling_offsets(tiny_config(num_attention_heads=8)).view(8, 3, 2, 2)
        # right, down right, down, ...: on the border of a square, one pixel for the first point, two for the second
        expected = [[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]]
        torch.testing.assert_close(offsets[:, 2, 0], torch.tensor(expected).float(), atol=1e-6, rtol=0)
        torch.testing.assert_close(offsets[:, 0, 1], 2 * offsets[:, 1, 0])

    def test_sound_reaches_the_end_of_the_sound_encoder(self, tiny_model, tiny_inputs):
        _, embeddings = tiny_model.avsegformer.audio_encoder(tiny_inputs["input_values"].flatten(0, 1))
        assert embeddings.std(dim=0).max() > 0.05 and embeddings.mean() < 10

    def test_missing_parts_are_initialised_when_loading(self, tiny_model, tmp_path):
        state = {name: value for name, value in tiny_model.state_dict().items() if "visual_encoder" in name}
        tiny_model.save_pretrained(tmp_path, state_dict=state)
        model = AvSegFormerForAudioVisualSegmentation.from_pretrained(tmp_path)
        deformable = model.avsegformer.encoder.layers[0].attention
        assert torch.equal(deformable.sampling_offsets.bias, initial_sampling_offsets(model.config))
        assert 0 < model.avsegformer.audio_projection.weight.abs().max() <= 12**-0.5
        for name, value in state.items():
            assert torch.equal(model.state_dict()[name], value), name

    def test_position_encoding_by_hand(self):
        # width 8, frequencies 1 and 0.01; the last place of 2 x 3 is row 2, column 3, counted from 1
        place = sine_position_encoding(8, (2, 3))[5]
        expected = [f(size * frequency) for size in (2, 3) for frequency in (1, 0.01) for f in (math.sin, math.cos)]
        assert place.tolist() == pytest.approx(expected, abs=1e-6)


class TestDeformableAttention:
    def test_samples_by_hand(self, tiny_config):
        """One head, one point, no offset but one pixel to the right on the finest map: its neighbour's value."""
        config = tiny_config(hidden_size=8, num_attention_heads=1, num_points=1, norm_groups=1)
        attention = AvSegFormerDeformableAttention(config)
        for layer in (attention.sampling_offsets, attention.attention_weights):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
        for layer in (attention.value, attention.output):
            nn.init.eye_(layer.weight), nn.init.zeros_(layer.bias)
        with torch.no_grad():
            attention.sampling_offsets.bias[0] = 1
            attention.attention_weights.bias[0] = 50  # all attention to the first map
        grids = [(4, 4), (2, 2), (1, 1)]
        tokens = torch.randn(2, 21, 8)
        places = [torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in grid)).view(-1, 2) for grid in grids]
        references = torch.cat(places).flip(1)
        output = attention(tokens, torch.zeros(21, 8), references, grids)
        torch.testing.assert_close(output[:, 5], tokens[:, 6])  # row 1, column 1 sees row 1, column 2
        torch.testing.assert_close(output[:, 7], torch.zeros(2, 8))  # the last column looks outside
        # the single place of the coarsest map is the middle: a pixel to its right lies between four places
        torch.testing.assert_close(output[:, 20], tokens[:, [6, 7, 10, 11]].mean(dim=1))


class TestForward:
    def test_outputs_and_tokens(self, tiny_model, tiny_inputs):
        output = tiny_model(**tiny_inputs, output_tokens=True)
        assert output.logits.shape == (2, 3, 64, 64)
        assert output.mask_features.shape == (2, 3, 16, 16, 16)
        for branch in ("audio", "visual", "fusion"):
            tokens = sum(math.prod(grid) for grid in tiny_model.config.branch_grids[branch])
            assert output[f"{branch}_tokens"].shape == (2, tokens, tiny_model.config.branch_widths[branch]), branch

    @pytest.mark.parametrize(
        "choice",
        [
            {"audio_token_layer": "embedding", "visual_token_stage": 3, "fusion_token_source": "queries"},
            {"audio_token_layer": "projection"},
        ],
    )
    def test_chosen_tokens_have_the_promised_shapes(self, tiny_config, tiny_inputs, choice):
        config = tiny_config(**choice)
        output = AvSegFormerForAudioVisualSegmentation(config).eval()(**tiny_inputs, output_tokens=True)
        for branch, grids in config.branch_grids.items():
            tokens = sum(math.prod(grid) for grid in grids)
            assert output[f"{branch}_tokens"].shape == (2, tokens, config.branch_widths[branch]), branch

    def test_tokens_stay_inside_unless_asked_for(self, tiny_model, tiny_inputs):
        assert set(tiny_model(**tiny_inputs)) == {"logits", "mask_features"}
        assert set(tiny_model.avsegformer(**tiny_inputs)) == {"mask_features", "query_states"}
        assert torch.equal(tiny_model(**tiny_inputs, return_dict=False)[0], tiny_model(**tiny_inputs).logits)

    def test_audio_tokens_run_through_time_first(self, tiny_model):
        """Only the examples' last sixteenth of time and lowest quarter of frequency is loud."""
        quiet = torch.zeros(1, 1, 96, 64)
        loud = quiet.clone()
        loud[:, :, 88:, :8] = 5
        encoder = tiny_model.avsegformer.audio_encoder
        for convolution in encoder.convolutions:  # positive weights pass everything on
            nn.init.constant_(convolution.weight, 0.1)
        pictures = torch.zeros(1, 1, 3, 64, 64)
        before, after = (tiny_model(x, pictures, output_tokens=True).audio_tokens[0] for x in (quiet, loud))
        changed = (after - before).sum(dim=1)
        assert changed.argmax() == 5 and (changed[18:] == 0).all()  # frequency 0 of 4, time 5 of 6

    def test_tokens_are_ordered_by_frame(self, tiny_model, tiny_inputs):
        whole = tiny_model(**tiny_inputs, output_tokens=True)
        second = tiny_model(**{name: values[:, 1:2] for name, values in tiny_inputs.items()}, output_tokens=True)
        for name in ("audio_tokens", "visual_tokens", "fusion_tokens"):
            torch.testing.assert_close(whole[name].chunk(3, dim=1)[1], second[name], msg=name)

    def test_stages_are_those_of_the_picture_encoder(self, tiny_model, tiny_inputs):
        output = tiny_model(**tiny_inputs, output_tokens=True)
        stages, before = tiny_model.avsegformer.visual_encoder.encoder.layers, tiny_inputs["pixel_values"]
        for index, (stage, width) in enumerate(zip(stages, tiny_model.config.stage_widths, strict=True)):
            shape = (2, 3, width, *tiny_model.config.stage_grid(index + 1))
            assert output.stage_embeddings[index].shape == output.stage_maps[index].shape == shape
            embeddings, *grid = stage.patch_embedding(before.flatten(0, 1))
            expected = embeddings.transpose(1, 2).reshape(6, width, *grid)
            torch.testing.assert_close(output.stage_embeddings[index].flatten(0, 1), expected)
            before = output.stage_maps[index]
        last = output.stage_maps[-1].flatten(3).transpose(2, 3).flatten(1, 2)
        torch.testing.assert_close(last, output.visual_tokens)

    def test_threads_do_not_disturb_each_other(self, tiny_model, tiny_inputs):
        clips = [{name: (index + 1) * values for name, values in tiny_inputs.items()} for index in range(8)]
        expected = [tiny_model(**clip, output_tokens=True).stage_embeddings for clip in clips]
        with ThreadPoolExecutor(4) as threads:
            made = list(threads.map(lambda clip: tiny_model(**clip, output_tokens=True).stage_embeddings, clips))
        torch.testing.assert_close(made, expected)

    def test_fusion_tokens_are_the_averaged_mask_feature(self, tiny_model, tiny_inputs):
        output = tiny_model(**tiny_inputs, output_tokens=True)
        expected = output.mask_features[1, 2, :, 4:8, 8:12].mean(dim=(1, 2))  # row 1, column 2 of the last frame
        torch.testing.assert_close(output.fusion_tokens[1, 2 * 16 + 6], expected)

    @pytest.mark.parametrize(("clips", "frames"), [(1, 1), (1, 3), (2, 2)])
    def test_frames_do_not_depend_on_the_batch(self, tiny_model, tiny_inputs, clips, frames):
        """A single frame included, over which the official code stumbles."""
        few = {name: values[:clips, :frames] for name, values in tiny_inputs.items()}
        expected = tiny_model(**tiny_inputs).logits[:clips, :frames]
        torch.testing.assert_close(tiny_model(**few).logits, expected, atol=1e-5, rtol=0)

    def test_both_inputs_matter(self, tiny_model, tiny_inputs):
        logits = tiny_model(**tiny_inputs).logits
        for name in tiny_inputs:
            changed = tiny_model(**{**tiny_inputs, name: tiny_inputs[name].flip(0)}).logits
            assert not torch.allclose(changed, logits, atol=1e-4), name

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"input_values": None}, r"got no input_values; for a clip without sound .*silence\(frames\)"),
            ({"pixel_values": None}, "got no pixel_values"),
            ({"input_values": torch.zeros(2, 3, 1, 96, 64)}, r"\(batch, frames, 96, 64\).*are \(2, 3, 1, 96, 64\)"),
            ({"input_values": torch.zeros(2, 2, 96, 64)}, r"equal batch and frames, but are \(2, 2, 96, 64\)"),
            ({"pixel_values": torch.zeros(2, 3, 3, 32, 32)}, r"3, 64, 64\).*\(2, 3, 3, 32, 32\); make them with"),
            ({"pixel_values": torch.zeros(6, 3, 64, 64)}, r"are .*\(6, 3, 64, 64\)"),
        ],
    )
    def test_wrong_inputs_are_named(self, tiny_model, tiny_inputs, change, message):
        with pytest.raises(ValueError, match=message):
            tiny_model(**{**tiny_inputs, **change})


class TestLoss:
    @pytest.mark.parametrize("kind", ["dice", "bce"])
    def test_equals_the_official_one(self, kind):
        _, pictures = formula_inputs()
        features = torch.stack([formula_tensor(f"mask_features.{index}", (16, 16, 16)) for index in range(4)])
        losses = segmentation_loss(pictures[:, :, 0], features.view(2, 2, 16, 16, 16), formula_labels(), kind)
        expected = GOLDEN["losses"][kind]
        assert losses["mask"].item() == pytest.approx(expected["iou_loss"], abs=1e-6)
        assert losses["auxiliary"].item() == pytest.approx(expected["mix_loss"], abs=1e-6)

    @pytest.mark.parametrize("loss", [dice_loss, binary_cross_entropy_loss])
    def test_only_labelled_frames_count(self, loss, tiny_labels):
        """As when only the labelled frames are given, which is what the official code picks for S4."""
        logits = torch.randn(2, 3, 64, 64, requires_grad=True)
        value = loss(logits, tiny_labels)
        torch.testing.assert_close(value, loss(logits[:1], tiny_labels[:1]))
        value.backward()
        assert not logits.grad[1].any() and logits.grad[0, 0].all()

    @pytest.mark.parametrize("loss", [dice_loss, binary_cross_entropy_loss])
    def test_ignored_pixels_do_not_count(self, loss):
        logits, labels = torch.randn(1, 1, 4, 6), torch.randint(0, 2, (1, 1, 4, 6))
        labels[..., 3:] = -100
        torch.testing.assert_close(loss(logits, labels), loss(logits[..., :3], labels[..., :3]))

    @pytest.mark.parametrize("kind", ["dice", "bce"])
    def test_without_any_label_the_loss_is_zero_with_a_gradient(self, tiny_model, tiny_inputs, kind):
        tiny_model.config.mask_loss = kind
        loss = tiny_model(**tiny_inputs, labels=torch.full((2, 3, 64, 64), -100)).loss
        loss.backward()
        assert loss == 0 and not tiny_model.mask_head.prediction.weight.grad.any()

    def test_dice_of_an_empty_mask_teaches_nothing(self):
        """A property of the official loss that one has to know before training on silence."""
        logits = torch.randn(1, 1, 4, 4, requires_grad=True)
        loss = dice_loss(logits, torch.zeros(1, 1, 4, 4, dtype=torch.long))
        loss.backward()
        assert loss == 1 and not logits.grad.any()

    def test_both_losses_teach_shapes_and_silence(self, tiny_labels):
        logits, features = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 8, 16, 16)
        one, other, both = (segmentation_loss(logits, features, tiny_labels, k) for k in ("dice", "bce", "dice_bce"))
        for part in ("mask", "auxiliary"):
            torch.testing.assert_close(both[part], one[part] + other[part])

    def test_model_sums_both_parts(self, tiny_model, tiny_inputs, tiny_labels):
        output = tiny_model(**tiny_inputs, labels=tiny_labels)
        for kind, weight in (("dice", 0.1), ("bce", 2.0)):
            tiny_model.config.mask_loss, tiny_model.config.auxiliary_weight = kind, weight
            parts = segmentation_loss(output.logits, output.mask_features, tiny_labels, kind, weight)
            loss = tiny_model(**tiny_inputs, labels=tiny_labels).loss
            torch.testing.assert_close(loss, parts["mask"] + parts["auxiliary"])

    def test_float32_even_for_half_precision(self, tiny_labels):
        logits, features = torch.randn(2, 3, 64, 64).bfloat16(), torch.randn(2, 3, 8, 16, 16).bfloat16()
        losses = segmentation_loss(logits, features, tiny_labels)
        assert {value.dtype for value in losses.values()} == {torch.float32}

    def test_labels_of_another_size_are_refused(self, tiny_model, tiny_inputs):
        with pytest.raises(ValueError, match=r"labels must be \(2, 3, 64, 64\).*are \(2, 3, 32, 32\); resize"):
            tiny_model(**tiny_inputs, labels=torch.zeros(2, 3, 32, 32, dtype=torch.long))

    def test_unknown_kind_is_refused(self):
        with pytest.raises(ValueError, match="one of 'dice', 'bce', 'dice_bce' but is 'iou'"):
            segmentation_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 1, 1), torch.zeros(1, 1, 4, 4), "iou")


class TestPrecision:
    def test_autocast_and_half_precision_weights(self, tiny_model, tiny_inputs):
        expected = tiny_model(**tiny_inputs).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = tiny_model(**tiny_inputs).logits
        torch.testing.assert_close(autocast.float(), expected, atol=0.1, rtol=0.1)
        half = tiny_model.to(torch.bfloat16)(**tiny_inputs).logits
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0.1)

    @pytest.mark.parametrize("output_tokens", [False, True])
    def test_compiles_to_one_graph(self, tiny_model, tiny_inputs, output_tokens):
        compiled = torch.compile(tiny_model, backend="eager", fullgraph=True)
        made, expected = (model(**tiny_inputs, output_tokens=output_tokens) for model in (compiled, tiny_model))
        torch.testing.assert_close(made.to_tuple(), expected.to_tuple())


class TestModulesAreCalled:
    """Adapters, offloading and quantisation change what a module's call does, not its weight."""

    def test_adapters_of_the_joint_projection_count(self, tiny_model, tiny_inputs):
        peft = pytest.importorskip("peft")
        expected = tiny_model(**tiny_inputs).logits
        torch.manual_seed(2)
        config = peft.LoraConfig(r=2, target_modules=["in_projection"], init_lora_weights=False)
        adapted = peft.get_peft_model(tiny_model, config).eval()
        logits = adapted(**tiny_inputs).logits
        adapted(**tiny_inputs).logits.square().sum().backward()
        learning = {name: each.grad for name, each in adapted.named_parameters() if each.requires_grad}
        assert not torch.allclose(logits, expected, atol=1e-3)
        assert all(grad is not None and grad.any() for name, grad in learning.items() if "cross_attention" in name)
        torch.testing.assert_close(adapted.merge_and_unload()(**tiny_inputs).logits, logits, atol=1e-4, rtol=1e-4)

    def test_runs_from_disk(self, tiny_model, tiny_inputs, tmp_path):
        pytest.importorskip("accelerate")
        tiny_model.save_pretrained(tmp_path / "model")
        fields = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offloaded"}
        loaded = AutoModel.from_pretrained(tmp_path / "model", **fields)
        with torch.no_grad():
            torch.testing.assert_close(loaded(**tiny_inputs).logits, tiny_model(**tiny_inputs).logits)

    def test_runs_with_quantised_layers(self, tiny_model, tiny_inputs):
        quantised = LiveTeacher(tiny_model, dtype=torch.qint8)
        assert not isinstance(quantised.model.avsegformer.audio_projection, nn.Linear)
        assert quantised(**tiny_inputs).logits.isfinite().all()


class TestGradients:
    def test_every_parameter_learns(self, tiny_model, tiny_inputs, tiny_labels):
        """So that distributed training never waits for a gradient."""
        tiny_model.train()(**tiny_inputs, labels=tiny_labels).loss.backward()
        assert [name for name, parameter in tiny_model.named_parameters() if parameter.grad is None] == []

    def test_parts_can_be_frozen_by_their_prefix(self, tiny_model, tiny_inputs, tiny_labels):
        for prefix in tiny_model.config.freezable_parts.values():
            frozen = [parameter for name, parameter in tiny_model.named_parameters() if name.startswith(prefix)]
            assert frozen, prefix
            for parameter in frozen:
                parameter.requires_grad_(False)
        tiny_model.train()(**tiny_inputs, labels=tiny_labels).loss.backward()
        assert tiny_model.avsegformer.audio_projection.weight.grad.any()
        encoders = (tiny_model.avsegformer.audio_encoder, tiny_model.avsegformer.visual_encoder)
        assert all(parameter.grad is None for encoder in encoders for parameter in encoder.parameters())

    def test_gradient_checkpointing_changes_nothing(self, tiny_config, tiny_inputs, tiny_labels):
        torch.manual_seed(0)
        model = AvSegFormerForAudioVisualSegmentation(tiny_config(dropout=0.0, vision_drop_path_rate=0.0)).train()
        expected = copy.deepcopy(model)
        expected(**tiny_inputs, labels=tiny_labels).loss.backward()
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
        forwards = []
        model.avsegformer.encoder.layers[0].attention.register_forward_pre_hook(lambda *_: forwards.append(1))
        model(**tiny_inputs, labels=tiny_labels).loss.backward()
        assert len(forwards) == 2  # once, and once more in the backward pass
        for (name, parameter), other in zip(model.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other.grad, msg=name)

    def test_stages_pass_gradients_on_with_gradient_checkpointing(self, tiny_config, tiny_inputs):
        torch.manual_seed(0)
        model = AvSegFormerForAudioVisualSegmentation(tiny_config(dropout=0.0, vision_drop_path_rate=0.0)).train()
        expected = copy.deepcopy(model)
        model.gradient_checkpointing_enable()
        for each in (model, expected):
            output = each(**tiny_inputs, output_tokens=True)
            stages = (*output.stage_embeddings, *output.stage_maps, output.logits)
            torch.stack([stage.square().mean() for stage in stages]).sum().backward()
        for (name, parameter), other in zip(model.named_parameters(), expected.named_parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, other[1].grad, msg=name)

    def test_adapters_learn_with_gradient_checkpointing(self, tiny_model, tiny_inputs, tiny_labels):
        peft = pytest.importorskip("peft")
        tiny_model.gradient_checkpointing_enable()
        adapted = peft.get_peft_model(tiny_model, peft.LoraConfig(r=2, target_modules=["fc1"])).train()
        adapted(**tiny_inputs, labels=tiny_labels).loss.backward()
        assert all(each.grad is not None for each in adapted.parameters() if each.requires_grad)

    def test_noise_on_the_input_embeddings(self, tiny_model, tiny_inputs, tiny_labels, tmp_path):
        clip = {name: values[0] for name, values in (tiny_inputs | {"labels": tiny_labels}).items()}
        plan = TrainingArguments(tmp_path, neftune_noise_alpha=5.0, max_steps=1, report_to=[], use_cpu=True)
        assert Trainer(tiny_model, plan, train_dataset=[clip] * 8).train().training_loss > 0

    def test_gradient_equals_finite_differences(self, tiny_config):
        torch.manual_seed(0)
        config = tiny_config(image_size=32, vision_hidden_sizes=[8, 8, 10, 8])
        model = AvSegFormerModel(config).eval().double()
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.1)  # the deformable attention starts at zero
        sound, picture = torch.randn(1, 1, 96, 64).double(), torch.randn(1, 1, 3, 32, 32).double()
        patch = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

        def features(patch: torch.Tensor) -> torch.Tensor:
            shifted = picture + nn.functional.pad(patch, (3, 27, 5, 25))
            return model(sound + patch.sum(), shifted).mask_features[..., 2:4, 1]

        assert torch.autograd.gradcheck(features, (patch,))

    def test_learns_a_mask(self, tiny_model, tiny_inputs, tiny_labels):
        optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=2e-3)
        losses = []
        for _ in range(15):
            loss = tiny_model.train()(**tiny_inputs, labels=tiny_labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.85 * losses[0]


class TestSaving:
    def test_auto_model_gives_the_whole_model_with_its_head(self, tiny_model, tiny_inputs, tmp_path):
        tiny_model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is AvSegFormerForAudioVisualSegmentation
        assert torch.equal(loaded(**tiny_inputs).logits, tiny_model(**tiny_inputs).logits)
        epsilons = [{m.eps for m in each.modules() if isinstance(m, nn.LayerNorm)} for each in (loaded, tiny_model)]
        assert epsilons == [{1e-5, 1e-6}] * 2
