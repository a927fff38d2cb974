from types import SimpleNamespace

import pytest
import torch

from hf_emktd.distillation import BRANCHES, EntropyMonitor, EntropyMonitorConfig, LiveTeacher, check_compatible
from hf_emktd.distillation.kernels import TokenKernel
from hf_emktd.distillation.teacher import CONTRACT, fingerprint, heard_grids, heard_share
from hf_emktd.distillation.token_distillation import pool_branch, token_distillation_loss, token_grids
from tiny_segmenter import make_segmenter


def monitor_for(teacher, **overrides):
    options = {"branch_widths": teacher.config.branch_widths, "id2label": teacher.config.id2label}
    return EntropyMonitor(EntropyMonitorConfig(**(options | overrides)))


def test_signal_is_what_the_model_returns(make_model, batch):
    model = make_model()
    signal = LiveTeacher(model)(**batch)
    expected = model(batch["input_values"], batch["pixel_values"], output_tokens=True)
    assert torch.equal(signal.logits, expected.logits)
    assert torch.equal(signal.tokens["fusion"], expected.fusion_tokens)
    assert {branch: value.shape for branch, value in signal.tokens.items()} == {
        "audio": (2, 32, 16),
        "visual": (2, 16, 16),
        "fusion": (2, 48, 16),
    }
    assert signal.grids == {"audio": ((4, 8),), "visual": ((4, 4),), "fusion": ((4, 8), (4, 4))}
    assert signal.entropies == {}
    assert signal.stage_maps is None and signal.stage_embeddings is None


def test_signal_has_the_stages_of_a_picture_encoder():
    model = make_segmenter()
    inputs = {"input_values": torch.randn(1, 3, 96, 64), "pixel_values": torch.randn(1, 3, 3, 32, 32)}
    signal = LiveTeacher(model)(**inputs)
    assert [each.shape for each in signal.stage_maps] == [
        (1, 3, width, side, side) for width, side in zip(model.config.stage_widths, (8, 4, 2, 1), strict=True)
    ]
    for each, expected in zip(
        signal.stage_embeddings, model(**inputs, output_tokens=True).stage_embeddings, strict=True
    ):
        assert torch.equal(each, expected) and not each.requires_grad


def test_entropies_are_the_monitors(make_model, batch):
    model = make_model()
    monitor = monitor_for(model)
    signal = LiveTeacher(model, monitor)(**batch)
    assert list(signal.entropies) == list(BRANCHES)
    for branch, entropy in monitor(signal.tokens).entropies.items():
        assert entropy.shape == (2,)
        assert torch.equal(signal.entropies[branch], entropy)


def test_teacher_is_frozen_and_stays_in_eval_mode(make_model):
    model = make_model()
    teacher = LiveTeacher(model, monitor_for(model))
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_student_learns_from_the_signal_and_the_teacher_does_not(make_model, batch):
    teacher, student = LiveTeacher(make_model()), make_model(seed=1)
    inputs = {name: batch[name] for name in ("input_values", "pixel_values")}
    tokens = student(**inputs, output_tokens=True).audio_tokens
    signal = teacher(**(batch | {"input_values": batch["input_values"].clone().requires_grad_()}))
    assert not signal.tokens["audio"].requires_grad
    token_distillation_loss(tokens, signal.tokens["audio"], TokenKernel()).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_signal_may_be_saved_for_the_students_backward_pass(make_model, batch):
    signal = LiveTeacher(make_model())(**batch)
    student_tokens = torch.ones_like(signal.tokens["audio"], requires_grad=True)
    (student_tokens * signal.tokens["audio"]).sum().backward()
    assert torch.equal(student_tokens.grad, signal.tokens["audio"])


def test_teacher_inputs_go_before_the_students(make_model, batch):
    teacher = LiveTeacher(make_model())
    own = {"teacher_input_values": batch["input_values"], "teacher_pixel_values": batch["pixel_values"]}
    students = {"input_values": torch.zeros(2, 32, 16), "pixel_values": torch.zeros(2, 3, 16, 16)}
    assert torch.equal(teacher(**students, **own).logits, teacher(**batch).logits)


class TestShorterSound:
    """The student hears the first half; its teacher hears the same half, then silence."""

    @pytest.fixture
    def shorter(self, batch):
        sound = batch["input_values"].clone()
        sound[:, 32:] = 1.0
        return {"input_values": sound[:, :32], "pixel_values": batch["pixel_values"], "teacher_input_values": sound}

    def test_the_silence_is_left_out(self, make_model, shorter):
        model = make_model()
        whole = model(shorter["teacher_input_values"], shorter["pixel_values"], output_tokens=True)
        signal = LiveTeacher(model, monitor_for(model))(**shorter)
        assert signal.grids == {"audio": ((4, 4),), "visual": ((4, 4),), "fusion": ((4, 4), (4, 4))}
        heard = whole.audio_tokens.view(2, 4, 8, 16)[:, :, :4].reshape(2, 16, 16)
        assert torch.equal(signal.tokens["audio"], heard)
        assert torch.equal(signal.tokens["visual"], whole.visual_tokens)
        fused = whole.fusion_tokens[:, :32].view(2, 4, 8, 16)[:, :, :4].reshape(2, 16, 16)
        assert torch.equal(signal.tokens["fusion"], torch.cat([fused, whole.fusion_tokens[:, 32:]], dim=1))
        assert torch.equal(signal.logits, whole.logits)

    def test_entropies_are_of_what_is_heard(self, make_model, shorter):
        model = make_model()
        monitor = monitor_for(model)
        signal = LiveTeacher(model, monitor)(**shorter)
        whole = model(shorter["teacher_input_values"], shorter["pixel_values"], output_tokens=True)
        heard = monitor(signal.tokens).entropies
        everything = monitor({"audio": whole.audio_tokens, "fusion": whole.fusion_tokens}).entropies
        for branch in ("audio", "fusion"):
            assert torch.equal(signal.entropies[branch], heard[branch])
            assert not torch.isclose(signal.entropies[branch], everything[branch]).all()

    def test_a_longer_student_hears_all_of_the_teachers(self, make_model):
        assert heard_share((128, 32), (64, 32)) == 1
        assert heard_grids(make_model(audio_length=128).config, make_model().config)["audio"] == ((4, 8),)

    def test_tokens_of_the_same_stretch_are_compared(self, make_model, shorter):
        """A student with the teacher's own tokens of that stretch has nothing to learn."""
        model = make_model()
        signal = LiveTeacher(model)(**shorter)
        student_grids = {"audio": ((4, 4),)}
        pooled = pool_branch("audio", signal.tokens["audio"], signal.grids, student_grids)
        assert torch.equal(pooled, signal.tokens["audio"])

    def test_pairs_are_checked_on_what_the_student_hears(self, make_model):
        teacher = make_model().config
        check_compatible(make_model(audio_length=32).config, teacher)
        assert heard_grids(make_model(audio_length=32).config, teacher)["audio"] == ((4, 4),)
        assert heard_grids(make_model(modalities=["visual"]).config, teacher) == token_grids(teacher)
        assert heard_share((1024, 128), (1, 480000)) == heard_share((5, 96, 64), (10, 96, 64)) == 1  # no spectrograms
        with pytest.raises(ValueError, match="audio branch: the student's grid of 8 x 8 tokens is finer"):
            check_compatible(make_model(audio_length=32, patch_size=4).config, teacher)
        with pytest.raises(ValueError, match=r"3/16 of 8 columns .* is 1\.5: .*for which that number is whole"):
            check_compatible(make_model(audio_length=12, patch_size=4).config, teacher)


def test_one_input_is_enough(make_model, batch):
    signal = LiveTeacher(make_model())(input_values=batch["input_values"], pixel_values=None)
    assert list(signal.tokens) == ["audio"]
    assert signal.tokens["audio"].shape == (2, 32, 16)


@pytest.mark.parametrize(("modality", "input_name"), [("audio", "input_values"), ("visual", "pixel_values")])
def test_a_teacher_of_one_modality_takes_its_own_input_only(make_model, batch, modality, input_name):
    model = make_model(modalities=[modality])
    signal = LiveTeacher(model, monitor_for(model))(**batch)
    assert list(signal.tokens) == list(signal.entropies) == [modality, "fusion"] == list(signal.grids)
    assert torch.equal(signal.logits, model.eval()(**{input_name: batch[input_name]}).logits)


def test_batch_without_inputs_raises(make_model, batch):
    with pytest.raises(ValueError, match=r"no input_values and no pixel_values for .*; it has \['labels'\]"):
        LiveTeacher(make_model())(labels=batch["labels"])


def test_dtype_casts_weights_and_inputs_but_not_the_monitor(make_model, batch):
    model = make_model()
    teacher = LiveTeacher(model, monitor_for(model), dtype=torch.bfloat16)
    signal = teacher(**batch)
    assert signal.logits.dtype == signal.tokens["audio"].dtype == torch.bfloat16
    assert signal.entropies["audio"].dtype == teacher.monitor.dtype == torch.float32


def test_monitor_of_another_teacher_is_refused(make_model):
    teacher = make_model()
    wider = make_model(hidden_size=32)
    with pytest.raises(ValueError, match=r"monitor reads tokens of widths .*32.*the teacher returns .*16"):
        LiveTeacher(teacher, monitor_for(wider))
    with pytest.raises(ValueError, match="the monitor has 7 classes, the teacher 5"):
        LiveTeacher(teacher, monitor_for(make_model(num_labels=7)))
    other = monitor_for(teacher, teacher_name_or_path="old", teacher_fingerprint=fingerprint(make_model(seed=1)))
    with pytest.raises(ValueError, match=f"teacher 'old' with fingerprint .*{fingerprint(teacher)}"):
        LiveTeacher(teacher, other)
    LiveTeacher(teacher, monitor_for(teacher, teacher_fingerprint=fingerprint(teacher)))


def test_monitor_of_another_task_or_grid_is_refused(make_model):
    teacher = make_model()
    options = {"branch_widths": {"visual": 16}, "branch_grids": {"visual": ((2, 2),)}}
    masks = monitor_for(teacher, task="audio-visual-segmentation", **options)
    with pytest.raises(ValueError, match="monitor is for audio-visual-segmentation, the teacher for audio-visual-cla"):
        LiveTeacher(teacher, masks)
    contract = {name: getattr(teacher.config, name) for name in CONTRACT}
    teacher.config = SimpleNamespace(**contract | {"task": masks.config.task, "branch_widths": {"visual": 16}})
    with pytest.raises(
        ValueError, match=r"on the grids {'visual': \(2, 2\)}, the teacher returns {'visual': \(4, 4\)}"
    ):
        LiveTeacher(teacher, masks)


def test_fingerprint_follows_the_weights_and_not_their_dtype(make_model):
    model = make_model()
    before = fingerprint(model)
    assert len(before) == 16
    assert fingerprint(make_model()) == before
    assert fingerprint(make_model().to(torch.bfloat16)) == before
    with torch.no_grad():
        next(model.classifier.parameters())[0] += 1
    assert fingerprint(model) != before


def test_model_without_the_contract_is_refused(make_model):
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(task="audio-visual-classification", num_labels=5, id2label={})
    with pytest.raises(ValueError, match="teacher's SimpleNamespace has no input_shapes, branch_grids, branch_widths"):
        LiveTeacher(model)
    with pytest.raises(ValueError, match="student's SimpleNamespace has no input_shapes, branch_grids, branch_widths"):
        check_compatible(model.config, make_model().config)


def test_compatible_pair_passes(make_model):
    teacher = make_model(hidden_size=32, audio_length=128)
    check_compatible(make_model().config, teacher.config)


@pytest.mark.parametrize("teacher", [["audio", "visual"], ["audio"], ["visual"]])
def test_models_of_other_modalities_are_compatible(make_model, teacher):
    teacher_config = make_model(modalities=teacher).config
    for modality in ("audio", "visual"):
        check_compatible(make_model(modalities=[modality]).config, teacher_config)
    check_compatible(make_model().config, teacher_config)


def test_the_grid_of_the_one_shared_modality_is_checked(make_model):
    finer = make_model(modalities=["audio"], patch_size=4).config
    with pytest.raises(ValueError, match="audio branch: the student's grid of 8 x 16 tokens is finer"):
        check_compatible(finer, make_model().config)
    check_compatible(finer, make_model(modalities=["visual"]).config)


def test_labels_in_another_order_are_refused(make_model):
    teacher = make_model(id2label={0: "dog", 1: "cat", 2: "owl", 3: "cow", 4: "hen"}).config
    student = make_model(id2label={0: "cat", 1: "dog", 2: "owl", 3: "cow", 4: "hen"}).config
    with pytest.raises(ValueError, match=r"2 of 5 classes differently \(0: student 'cat', teacher 'dog'; 1: "):
        check_compatible(student, teacher)


def test_differing_numbers_of_classes_are_refused(make_model):
    with pytest.raises(ValueError, match="the student has 4 classes, the teacher 5"):
        check_compatible(make_model(num_labels=4).config, make_model().config)


def test_another_task_is_refused(make_model):
    teacher = make_model().config
    student = SimpleNamespace(**{name: getattr(teacher, name) for name in CONTRACT})
    check_compatible(student, teacher)
    student.task = "audio-visual-segmentation"
    with pytest.raises(
        ValueError, match=r"student is for audio-visual-segmentation, the teacher for audio-visual-classification\."
    ):
        check_compatible(student, teacher)


def test_another_number_of_frames_is_refused(make_model):
    teacher = make_model().config
    student = SimpleNamespace(**{name: getattr(teacher, name) for name in CONTRACT})
    student.branch_grids = teacher.branch_grids | {"visual": ((4, 4), (4, 4))}
    with pytest.raises(ValueError, match=r"visual branch: the student's tokens lie on 2 grids, the teacher's on 1;"):
        check_compatible(student, teacher)


def test_finer_student_is_refused(make_model):
    with pytest.raises(
        ValueError, match=r"visual branch: the student's grid of 8 x 8 .* finer than the teacher's 4 x 4"
    ):
        check_compatible(make_model(image_size=64).config, make_model().config)
