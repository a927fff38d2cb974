import json
from pathlib import Path

import pytest
import torch
from relative_formulas import FUSED_WIDTH, STAGE_SIDES, STAGE_WIDTHS, formula_stages, formula_state

from hf_emktd import AvSegFormerConfig
from hf_emktd.distillation import OBJECTIVES_OF_TASK, LiveTeacher, MultiStageFeatures, TeacherSignal
from hf_emktd.distillation.objectives.multi_stage_features import SelectiveFusion, pyramid_loss
from hf_emktd.models.avsegformer.modeling_avsegformer import AvSegFormerSegmenterOutput
from hf_emktd.models.cav_mae import CavMaeConfig
from tiny_segmenter import make_segmenter

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "relatives.json").read_text())["transkd"]


def formula_objective(dtype=torch.float32, **options):
    objective = MultiStageFeatures(*STAGE_WIDTHS.values(), fused_width=FUSED_WIDTH, **options)
    objective.load_state_dict(formula_state(objective.state_dict()))
    return objective.to(dtype)


def clip_stages(role, dtype=torch.float32, frames=3):
    """One clip whose frames are the formula's pictures."""
    kinds = ("maps", "embeddings")
    return {
        f"stage_{kind}": tuple(x.unsqueeze(0).to(dtype) for x in formula_stages(role, kind, frames)) for kind in kinds
    }


def parts_of(objective, student, teacher):
    signal = TeacherSignal(logits=torch.zeros(1, 3, 8, 8), tokens={}, grids={}, **teacher)
    parts = objective(AvSegFormerSegmenterOutput(**student), signal)
    assert list(parts) == ["transkd_features", "transkd_embeddings"]
    return parts


def test_parts_equal_the_official_ones():
    parts = parts_of(formula_objective(weight=2.0), clip_stages("student"), clip_stages("teacher"))
    assert parts["transkd_features"].item() == pytest.approx(2 * GOLDEN["features"], rel=1e-5)
    assert parts["transkd_embeddings"].item() == pytest.approx(2 * GOLDEN["embeddings"], rel=1e-5)


def test_pyramid_loss_equals_hand_value():
    """
    A difference of 1 at one of 2 x 2 places: 1/4 in full and 1/16 of the mean, which counts half; sides of 4 and 2
    are not smaller.
    """
    student = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert pyramid_loss(student, torch.zeros(1, 1, 2, 2)).item() == pytest.approx((1 / 4 + 0.5 / 16) / 1.5)
    assert pyramid_loss(student[..., :1, :1], torch.zeros(1, 1, 1, 1)).item() == 1


def test_channel_weights_choose_between_map_and_above():
    fusion = SelectiveFusion(3, 4, 5, from_above=True)
    features, above = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    for excitation, bias in zip(fusion.excitations, (-50.0, 50.0), strict=True):
        torch.nn.init.zeros_(excitation.weight)
        torch.nn.init.constant_(excitation.bias, bias)
    _, fused = fusion(features, above)
    torch.testing.assert_close(fused, above.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    torch.nn.init.constant_(fusion.excitations[0].bias, 50.0)
    torch.testing.assert_close(fusion(features, above)[1], (fusion.reduction(features) + fused) / 2)


def test_embeddings_that_a_linear_map_explains_cost_nothing():
    objective = formula_objective(torch.float64)
    student, teacher = clip_stages("student", torch.float64), clip_stages("teacher", torch.float64)
    explained = [
        linear(each.movedim(2, -1)).movedim(-1, 2)
        for linear, each in zip(objective.embedding_maps, student["stage_embeddings"], strict=True)
    ]
    parts = parts_of(objective, student, teacher | {"stage_embeddings": tuple(explained)})
    assert parts["transkd_embeddings"].item() == pytest.approx(0, abs=1e-20)


def test_embedding_weights_are_those_of_the_stages():
    student, teacher = clip_stages("student"), clip_stages("teacher")
    stages = []
    for stage in range(4):
        weights = [1e-12] * 4
        weights[stage] = 1.0
        stages.append(parts_of(formula_objective(embedding_weights=weights), student, teacher)["transkd_embeddings"])
    expected = 0.1 * stages[0] + 0.1 * stages[1] + 0.5 * stages[2] + stages[3]
    torch.testing.assert_close(parts_of(formula_objective(), student, teacher)["transkd_embeddings"], expected)


def test_order_of_frames_does_not_matter_unless_the_sides_differ():
    objective = formula_objective()
    student, teacher = clip_stages("student"), clip_stages("teacher")
    expected = parts_of(objective, student, teacher)
    flipped = [
        {name: tuple(x.flip(1) for x in stages) for name, stages in each.items()} for each in (student, teacher)
    ]
    for name, part in parts_of(objective, *flipped).items():
        torch.testing.assert_close(part, expected[name])
    for name, part in parts_of(objective, flipped[0], teacher).items():
        assert not torch.isclose(part, expected[name])


def test_larger_teacher_is_pooled():
    objective = formula_objective()
    student, teacher = clip_stages("student"), clip_stages("teacher")
    larger = {
        name: tuple(each.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4) for each in stages)
        for name, stages in teacher.items()
    }
    for name, part in parts_of(objective, student, larger).items():
        torch.testing.assert_close(part, parts_of(objective, student, teacher)[name])


def test_gradient_equals_finite_differences():
    """Of the coarsest map, which every stage sees, and the finest embeddings, and of weights on the way."""
    objective = formula_objective(torch.float64)
    student, teacher = (clip_stages(role, torch.float64, frames=2) for role in ("student", "teacher"))
    coarsest, embeddings = student["stage_maps"][3], student["stage_embeddings"][3]

    def parts(x, y, _):
        given = {
            "stage_maps": (*student["stage_maps"][:3], x),
            "stage_embeddings": (*student["stage_embeddings"][:3], y),
        }
        return tuple(parts_of(objective, given, teacher).values())

    weight = objective.fusions[0].excitations[1].bias
    inputs = (coarsest.requires_grad_(), embeddings.requires_grad_(), weight)
    assert torch.autograd.gradcheck(parts, inputs, fast_mode=True)


def test_single_picture_has_no_statistics_of_channel_weights():
    student, teacher = (clip_stages(role, frames=1) for role in ("student", "teacher"))
    parts = parts_of(formula_objective(), student, teacher)
    assert all(part.isfinite() for part in parts.values())


def test_single_picture_whose_last_stage_is_one_place():
    """The coarsest map has one value per channel, of which there are no statistics."""
    objective, one = formula_objective(), {}
    for role in ("student", "teacher"):
        maps, embeddings = clip_stages(role, frames=1).values()
        one[role] = {"stage_maps": (*maps[:3], maps[3][..., :1, :1]), "stage_embeddings": embeddings}
        one[role]["stage_maps"][3].requires_grad_(role == "student")
    parts = parts_of(objective, **one)
    assert all(part.isfinite() for part in parts.values())
    parts["transkd_features"].backward()
    coarsest = one["student"]["stage_maps"][3].detach().flatten(0, 1)
    assert one["student"]["stage_maps"][3].grad.abs().max() > 0
    reduction = objective.fusions[3].reduction
    assert torch.equal(reduction(coarsest), reduction[0](coarsest))
    several = coarsest.repeat(2, 1, 1, 1) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    assert not torch.equal(reduction(several), reduction[0](several))


def test_parts_are_float32_under_autocast_and_give_the_teacher_no_gradient():
    objective, student, teacher = formula_objective(), clip_stages("student"), clip_stages("teacher")
    expected = parts_of(objective, student, teacher)
    for stages in (*student.values(), *teacher.values()):
        for each in stages:
            each.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = parts_of(objective, student, teacher)
    for name, part in parts.items():
        assert part.dtype == torch.float32 and torch.equal(part, expected[name])
    sum(parts.values()).backward()
    assert all(each.grad is not None for stages in student.values() for each in stages)
    assert all(each.grad is None for stages in teacher.values() for each in stages)
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_models_return_what_it_compares():
    student, teacher = make_segmenter(), make_segmenter()
    objective = MultiStageFeatures.for_models(student.config, teacher.config, fused_width=8)
    inputs = {"input_values": torch.randn(2, 3, 96, 64), "pixel_values": torch.randn(2, 3, 3, 32, 32)}
    parts = objective(student(**inputs, output_tokens=True), LiveTeacher(teacher)(**inputs))
    sum(parts.values()).backward()
    assert student.avsegformer.visual_encoder.encoder.layers[0].patch_embedding.proj.weight.grad.abs().max() > 0
    assert student.mask_head.prediction.weight.grad is None


def test_models_without_stages_are_refused():
    config = AvSegFormerConfig.from_preset("b0")
    with pytest.raises(ValueError, match="the teacher's CavMaeConfig has no stage_widths"):
        MultiStageFeatures.for_models(config, CavMaeConfig())


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_missing_stages_raise(role):
    given = {"student": clip_stages("student"), "teacher": clip_stages("teacher")} | {role: {}}
    with pytest.raises(ValueError, match=f"needs the stage_maps of the {role}, .* output_tokens=True"):
        parts_of(formula_objective(), **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight must be positive and finite, got 0.0"),
        ({"fused_width": 0}, "fused_width must be positive and finite, got 0"),
        ({"embedding_weights": (0.1, 0.1, 0.5, -1.0)}, "embedding_weights must be positive and finite, got -1.0"),
        ({"embedding_weights": (1.0, 1.0)}, "one number a stage, got 4, 4 and 2"),
    ],
)
def test_invalid_option_raises(options, message):
    with pytest.raises(ValueError, match=message):
        MultiStageFeatures(*STAGE_WIDTHS.values(), **options)


def test_reports_itself_and_is_for_masks():
    assert MultiStageFeatures(*STAGE_WIDTHS.values()).to_dict() == {
        "name": "transkd",
        "embedding_weights": [0.1, 0.1, 0.5, 1.0],
        "fused_width": 64,
        "weight": 1.0,
    }
    classification, segmentation = OBJECTIVES_OF_TASK.values()
    assert segmentation["transkd"] is MultiStageFeatures and "transkd" not in classification
    assert "liu2022transkd" in MultiStageFeatures.citation and len(STAGE_SIDES) == 4
