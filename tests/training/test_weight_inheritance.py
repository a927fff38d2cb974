"""Students that start from slices of their teacher's weights."""

from __future__ import annotations

import pytest
import tiny_runs
import tiny_scenes
import torch
from torch import nn

from hf_emktd.training import build_student_config, inherit_weights
from hf_emktd.training.weight_inheritance import check_inheritance, cut_positions, front, resample_positions

WIDE = {"hidden_size": 32, "num_attention_heads": 4, "modality_specific_depth": 4, "joint_depth": 2}


def make_teacher(**overrides):
    """Four heads of width 8, 4 + 4 + 2 layers, no weight at its initial value."""
    model = tiny_runs.make_model(seed=1, **(WIDE | overrides)).eval()
    torch.manual_seed(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def make_student(teacher, **overrides):
    sizes = {name: getattr(teacher.config, name) for name in WIDE}
    student = tiny_runs.make_model(seed=3, **(sizes | overrides)).eval()
    inherit_weights(student, teacher)
    return student


def make_inputs(model, batch=2):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(batch, *shape, generator=generator) for name, shape in model.config.input_shapes.items()}


def make_idle(layer):
    """A pre-norm layer that hands on what it gets."""
    for projection in (layer.attention.output, layer.mlp.fc2):
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)


class TestCavMae:
    def test_the_same_sizes_give_the_teacher(self):
        teacher = make_teacher()
        student, inputs = make_student(teacher), make_inputs(teacher)
        outputs, expected = (model(**inputs, output_tokens=True) for model in (student, teacher))
        assert all(torch.equal(outputs[name], expected[name]) for name in expected)
        for name, tensor in teacher.state_dict().items():
            assert torch.equal(student.state_dict()[name], tensor), name
            assert student.state_dict()[name].data_ptr() != tensor.data_ptr(), name

    def test_half_the_layers_give_the_teacher_whose_others_are_idle(self):
        teacher = make_teacher()
        for stack in (teacher.cav_mae.audio_layers, teacher.cav_mae.visual_layers, teacher.cav_mae.joint_layers):
            for layer in stack[1::2]:
                make_idle(layer)
        student, inputs = make_student(teacher, modality_specific_depth=2, joint_depth=1), make_inputs(teacher)
        assert torch.equal(student(**inputs).logits, teacher(**inputs).logits)

    def test_half_the_feed_forward_gives_the_teacher_whose_rest_is_idle(self):
        teacher = make_teacher()
        for name, parameter in teacher.named_parameters():
            if name.endswith("fc2.weight"):
                nn.init.zeros_(parameter[:, 64:])
        student, inputs = make_student(teacher, mlp_ratio=2.0), make_inputs(teacher)
        torch.testing.assert_close(student(**inputs).logits, teacher(**inputs).logits)

    def test_first_heads_and_first_channels(self):
        """One of four heads, 8 of 32 channels, layers 0 and 2 of 4."""
        teacher = make_teacher()
        student = make_student(teacher, hidden_size=8, num_attention_heads=1, modality_specific_depth=2)
        own, given = student.cav_mae.audio_layers[1], teacher.cav_mae.audio_layers[2]
        query, key, value = given.attention.qkv.weight.split(32)
        expected = torch.cat([query[:8, :8], key[:8, :8], value[:8, :8]])
        assert torch.equal(own.attention.qkv.weight, expected)
        expected = torch.cat([part[:8] for part in given.attention.qkv.bias.split(32)])
        assert torch.equal(own.attention.qkv.bias, expected)
        assert torch.equal(own.attention.output.weight, given.attention.output.weight[:8, :8])
        assert torch.equal(own.mlp.fc1.weight, given.mlp.fc1.weight[:32, :8])
        assert torch.equal(own.mlp.fc2.weight, given.mlp.fc2.weight[:8, :32])
        assert torch.equal(own.layernorm_before.weight, given.layernorm_before.weight[:8])
        own, given = student.cav_mae.visual_embeddings, teacher.cav_mae.visual_embeddings
        assert torch.equal(own.patch_embeddings.projection.weight, given.patch_embeddings.projection.weight[:8])
        assert torch.equal(own.position_embeddings, given.position_embeddings[..., :8])
        assert torch.equal(own.modality_embeddings, given.modality_embeddings[..., :8])
        assert torch.equal(student.classifier.dense.weight, teacher.classifier.dense.weight[:, :8])
        assert student(**make_inputs(student)).logits.isfinite().all()

    def test_of_wider_heads_the_first_channels_of_each(self):
        """Four heads of width 4 from four of width 8."""
        teacher = make_teacher()
        student = make_student(teacher, hidden_size=16)
        own, given = student.cav_mae.joint_layers[0].attention, teacher.cav_mae.joint_layers[0].attention
        rows = torch.tensor([32 * part + 8 * head + row for part in range(3) for head in range(4) for row in range(4)])
        assert torch.equal(own.qkv.weight, given.qkv.weight[rows][:, :16])
        columns = torch.tensor([8 * head + column for head in range(4) for column in range(4)])
        assert torch.equal(own.output.weight, given.output.weight[:16][:, columns])

    @pytest.mark.parametrize("modality", ["audio", "visual"])
    def test_one_modality_inherits_its_path_through_the_teacher(self, modality):
        teacher = make_teacher()
        student = make_student(teacher, modalities=[modality])
        inputs = make_inputs(student)
        tokens = teacher(**inputs, output_tokens=True)[f"{modality}_tokens"]
        for layer in teacher.cav_mae.joint_layers:
            tokens = layer(tokens)
        expected = teacher.cav_mae.layernorm(tokens)
        torch.testing.assert_close(student(**inputs, output_tokens=True).fusion_tokens, expected)

    def test_positions_of_sound_are_cut_and_those_of_the_picture_resampled(self):
        teacher = make_teacher(image_size=32)  # 4 x 4 tokens of sound and picture
        student = make_student(teacher, audio_length=16, image_size=16)
        own, given = student.cav_mae.audio_embeddings, teacher.cav_mae.audio_embeddings
        expected = given.position_embeddings.unflatten(1, (4, 4))[:, :, :2].flatten(1, 2)
        assert torch.equal(own.position_embeddings, expected)
        own, given = student.cav_mae.visual_embeddings, teacher.cav_mae.visual_embeddings
        expected = resample_positions(given.position_embeddings, (4, 4), (2, 2))
        assert torch.equal(own.position_embeddings, expected)
        assert student(**make_inputs(student)).logits.isfinite().all()

    def test_the_papers_student_inherits_from_its_teacher_in_any_precision(self):
        teacher = make_teacher().bfloat16()
        config = build_student_config(teacher.config)
        assert (config.hidden_size, config.num_attention_heads) == (8, 1)
        check_inheritance(config, teacher)
        student = make_student(teacher, hidden_size=8, num_attention_heads=1)
        weight = student.classifier.layernorm.weight
        assert weight.dtype == torch.float32 and torch.equal(weight, teacher.classifier.layernorm.weight[:8].float())

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"modality_specific_depth": 5}, r"audio_layers.0.* the student has 5 layers there, the teacher only 4"),
            ({"hidden_size": 40, "num_attention_heads": 5}, r"is \[\(1,\), \(16,\), \(40,\)\] in the student and "),
            ({"num_attention_heads": 8}, r"\(3, 8, 4\)\S* .* and .*\(3, 4, 8\).* with at most as many heads"),
            ({"mlp_ratio": 8.0}, r"fc1.weight is \[\(256,\), \(32,\)\] in the student and \[\(128,\), \(32,\)\]"),
            ({"patch_size": 16, "image_size": 32}, r"of the same patch_size, but has \[16\] and not \[8\]"),
            ({"id2label": {0: "bell"}}, r"of the same num_labels, but has \[1\] and not \[3\]"),
        ],
    )
    def test_what_is_no_slice_is_refused(self, sizes, message):
        teacher = make_teacher()
        student = tiny_runs.make_model(**(WIDE | sizes))
        before = tiny_runs.weights(student)
        for refused in (lambda: inherit_weights(student, teacher), lambda: check_inheritance(student.config, teacher)):
            with pytest.raises(ValueError, match=message):
                refused()
        assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())

    def test_a_modality_that_the_teacher_lacks_is_refused(self):
        teacher = make_teacher(modalities=["audio"])
        with pytest.raises(ValueError, match=r"the teacher has no cav_mae\.visual_embeddings.* modalities only"):
            make_student(teacher)
        assert make_student(teacher, modalities=["audio"])


class TestAvSegFormer:
    @pytest.fixture(scope="class")
    def teacher(self):
        sizes = {"vision_hidden_sizes": [16, 16, 32, 32], "vision_depths": [2, 1, 4, 1], "vision_mlp_ratios": [4] * 4}
        return tiny_scenes.make_model(seed=1, **sizes, encoder_layers=2, num_queries=6, mask_mlp_size=16).eval()

    def test_the_same_sizes_give_the_teacher(self, teacher):
        student = tiny_scenes.make_model(seed=2, **teacher.config.to_diff_dict()).eval()
        inherit_weights(student, teacher)
        inputs = make_inputs(teacher, batch=1)
        outputs, expected = (model(**inputs, output_tokens=True) for model in (student, teacher))
        assert torch.equal(outputs.logits, expected.logits)
        assert torch.equal(outputs.fusion_tokens, expected.fusion_tokens)

    def test_half_the_picture_encoder(self, teacher):
        """The default student: half the widths, with as many heads, and at most two layers a stage."""
        config = build_student_config(teacher.config)
        assert list(config.vision_hidden_sizes) == [8, 8, 16, 16] and list(config.vision_depths) == [2, 1, 2, 1]
        check_inheritance(config, teacher)
        student = type(teacher)(config).eval()
        inherit_weights(student, teacher)
        own, given = (
            model.avsegformer.visual_encoder.encoder.layers[2].blocks[index].attention
            for model, index in ((student, 1), (teacher, 2))
        )
        rows = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23])  # two heads of 8, not of 16
        assert torch.equal(own.key.weight, given.key.weight[rows][:, :16])
        assert torch.equal(own.value.bias, given.value.bias[rows])
        assert torch.equal(own.proj.weight, given.proj.weight[:16][:, rows])
        assert torch.equal(own.spatial_reduction.weight, given.spatial_reduction.weight[:16, :16])
        for name in ("encoder.level_embeddings", "mixer.query.weight", "audio_encoder.layers.0.weight"):
            own, given = (model.avsegformer.get_parameter(name) for model in (student, teacher))
            assert torch.equal(own, given)
        assert student(**make_inputs(student, batch=1)).logits.isfinite().all()

    def test_fewer_queries_and_layers_of_the_head(self, teacher):
        sizes = teacher.config.to_diff_dict() | {"num_queries": 4, "encoder_layers": 1, "mask_mlp_size": 8}
        student = tiny_scenes.make_model(seed=2, **sizes).eval()
        inherit_weights(student, teacher)
        assert torch.equal(student.avsegformer.queries.weight, teacher.avsegformer.queries.weight[:4])
        own, given = student.mask_head.query_mlp, teacher.mask_head.query_mlp
        assert torch.equal(own[0].weight, given[0].weight[:8, :4])
        assert torch.equal(own[2].weight, given[2].weight[:, :8])

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({"hidden_size": 8}, r"of the same hidden_size, but has \[8\] and not \[16\]"),
            ({"num_points": 1}, r"of the same num_points, but has \[1\] and not \[2\]"),
            ({"vision_depths": [2, 2, 4, 1]}, r"layers.1.blocks.0.* has 2 layers there, the teacher only 1"),
        ],
    )
    def test_what_is_no_slice_is_refused(self, teacher, sizes, message):
        config = tiny_scenes.make_config(**teacher.config.to_diff_dict() | sizes)
        with pytest.raises(ValueError, match=message):
            check_inheritance(config, teacher)


def test_families_do_not_mix():
    with pytest.raises(ValueError, match="a cav_mae cannot inherit the weights of a avsegformer"):
        inherit_weights(tiny_runs.make_model(), tiny_scenes.make_model())


def test_front_of_factors():
    tensor = torch.arange(24).view(12, 2)  # twelve rows: two parts of two heads of three
    assert front(tensor, [(2, 2, 3), (2,)], [(2, 1, 2), (1,)]).flatten().tolist() == [0, 2, 12, 14]


def test_resampled_positions_keep_constants_and_directions():
    columns = torch.arange(4.0).repeat(4).view(1, 16, 1)
    positions = torch.cat([torch.ones(1, 16, 1), columns], dim=2)
    constant, ramp = resample_positions(positions, (4, 4), (2, 2)).unbind(2)
    torch.testing.assert_close(constant, torch.ones(1, 4))
    assert ramp[0, 0] == pytest.approx(3 - ramp[0, 1].item(), abs=1e-5) and 0 < ramp[0, 0] < 1.5
    assert torch.equal(ramp[0, :2], ramp[0, 2:])
    assert resample_positions(positions.bfloat16(), (4, 4), (2, 2)).dtype == torch.bfloat16


def test_cut_positions():
    positions = torch.arange(8.0).view(1, 8, 1)
    assert cut_positions(positions, (2, 4), (2, 3)).flatten().tolist() == [0, 1, 2, 4, 5, 6]
