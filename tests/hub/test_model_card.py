from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.data import write_clip
from hf_emktd.hub import DistillationSummary, EvaluationResult, ModelFacts, StudentCard, update_results, write_card


def section(card: StudentCard, title: str) -> str:
    return card.text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]


def test_metadata_is_read_back(summary, tmp_path):
    write_card(summary, tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.license, data.base_model) == ("transformers", "apache-2.0", "org/teacher")
    assert data.pipeline_tag == "video-classification"
    assert data.datasets == ["org/vggsound"]
    assert {"audio-visual", "emktd", "knowledge-distillation", "kd", "em-ktd"} <= set(data.tags)
    values = {result.metric_type: result.metric_value for result in data.eval_results}
    assert values == {"accuracy": 0.62, "mAP": 0.634, "mAUC": 0.979}
    assert {(result.dataset_type, result.dataset_split) for result in data.eval_results} == {("org/vggsound", "test")}


def test_results_and_retention(summary):
    table = rows(section(StudentCard.from_summary(summary), "Results"))
    assert table[0] == ["Split", "Given", "", "Accuracy", "mAP", "mAUC"]
    assert table[2] == ["test (15,446 clips)", "sound and picture", "this model", "62.00", "63.40", "97.90"]
    assert table[4][2:] == ["retention", "97.0 %", "97.5 %", "100.0 %"]


def test_classes_that_do_not_occur_are_counted(summary):
    summary.update_results(EvaluationResult("test", {"mAP": 0.5, "classes_without_positives": 4}))
    assert "4 do not and are left out." in section(StudentCard.from_summary(summary), "Results")


def test_size_of_both(summary):
    card = StudentCard.from_summary(summary)
    assert "with 6.5 % of its teacher's parameters" in card.text
    assert rows(card.text)[2:4] == [
        ["This model", "10.66 M", "5.27 G", "CavMaeForAudioVisualClassification"],
        ["Teacher", "164.74 M", "66.20 G", "CavMaeForAudioVisualClassification"],
    ]


def test_data_that_was_used(summary):
    data = section(StudentCard.from_summary(summary), "Data")
    assert "183,727 in train, 15,446 in test" in data
    assert "`0123abcd`" in data
    assert rows(data) == [
        ["Split", "corrupt", "missing", "silent"],
        ["---"] * 4,
        ["train", "1", "3", "0"],
        ["test", "0", "0", "2"],
    ]


def test_objectives_entropies_and_citations(summary):
    card = StudentCard.from_summary(summary)
    distillation = rows(section(card, "Distillation"))
    assert ["`kernel.gamma`", "0.5"] in distillation and ["`temperature`", "2"] in distillation
    assert rows(section(card, "Entropy of the teacher's branches"))[2] == ["audio", "0.55", "0.1, 0.25, 1.5"]
    assert "@misc{kd,\n}\n\n@misc{emktd,\n}" in section(card, "Citation")


def test_how_it_was_trained(summary):
    training = section(StudentCard.from_summary(summary), "Training")
    assert summary.command in training
    assert "Training took 6 h 45 min." in training
    assert ["`learning_rate`", "0.001"] in rows(training)
    environment = section(StudentCard.from_summary(summary), "Environment")
    assert f"torch {importlib.metadata.version('torch')}" in environment


def test_limitations_say_what_was_not_measured(summary):
    summary.update_results(EvaluationResult("test", {"accuracy": 0.5}, modality="audio"))
    limitations = section(StudentCard.from_summary(summary), "Limitations")
    assert "How well it does with picture only was not measured." in limitations
    assert "Clips come from the web." in limitations


def test_what_is_unknown_is_left_out():
    card = StudentCard.from_summary(DistillationSummary(student=ModelFacts("runs/teacher", 1_000_000)))
    titles = [line.removeprefix("## ") for line in card.text.splitlines() if line.startswith("## ")]
    assert titles == ["How to use", "Environment", "Limitations"]
    assert "without a teacher" in card.text
    assert not {"base_model", "datasets", "model-index", "metrics"} & set(card.data.to_dict())
    assert "knowledge-distillation" not in card.data.tags


@pytest.mark.parametrize("filled", [True, False])
def test_no_placeholders(summary, filled):
    card = StudentCard.from_summary(summary if filled else DistillationSummary(student=ModelFacts("runs/teacher", 1)))
    assert not [word for word in ("None", "nan", "More information", "{{", "{%", "\n\n\n") if word in str(card)]


def test_the_code_in_the_card_runs(summary, model, processor, tmp_path, monkeypatch, capsys):
    """Both Python blocks, on the saved model, but for reading a clip: the inputs are made from arrays."""
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = [part.split("```")[0] for part in StudentCard.from_summary(summary).text.split("```python\n")[1:]]
    arrays = "audio=numpy.ones(1600, 'f4'), sampling_rate=16000, images=numpy.zeros((40, 40, 3), 'u1')"
    code = "import numpy\n" + "\n".join(blocks).replace('clips="clip.mp4"', arrays)
    assert arrays in code
    scope = {}
    exec(code, scope)
    assert capsys.readouterr().out.strip() in model.config.id2label.values()
    assert scope["sound_only"].shape == scope["picture_only"].shape == (1, 3)


@pytest.mark.parametrize(
    ("modality", "taken", "not_taken", "pipeline"),
    [("audio", "sound", "picture", "audio-classification"), ("visual", "picture", "sound", "image-classification")],
)
def test_a_model_of_one_modality_says_what_it_takes(
    summary, model, tmp_path, monkeypatch, capsys, modality, taken, not_taken, pipeline
):
    config = CavMaeConfig(**model.config.to_dict() | {"modalities": [modality]})
    one = CavMaeForAudioVisualClassification(config)
    summary.student = ModelFacts.from_model(one, str(tmp_path))
    summary.results = [EvaluationResult("test", {"accuracy": 0.5}, modality=modality)]
    write_card(summary, tmp_path)
    for part in (one, CavMaeProcessor.from_config(config)):
        part.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == pipeline and "audio-visual" not in card.data.tags
    assert f"A classifier of events by their {taken}" in card.text and f"It takes a clip's {taken} (" in card.text
    assert not_taken not in card.text.split("## Data")[0].lower()
    assert "was not measured" not in card.text
    monkeypatch.chdir(tmp_path)
    write_clip("clip.mp4", np.zeros((10, 32, 48, 3), dtype=np.uint8), 10, np.ones(8000, dtype=np.float32))
    exec(card.text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.strip() in config.id2label.values()


def test_update_results_rewrites_card_and_summary(summary, tmp_path):
    write_card(summary, tmp_path)
    update_results(tmp_path, EvaluationResult("test", {"accuracy": 0.615}))
    assert "61.50" in (tmp_path / "README.md").read_text()
    assert DistillationSummary.load(tmp_path).results[0].metrics == {"accuracy": 0.615}


def test_leaderboard_entries_need_a_benchmark(summary, tmp_path):
    write_card(summary, tmp_path)
    assert not (tmp_path / ".eval_results").exists()
    summary.data.benchmark_task = "events"
    write_card(summary, tmp_path)
    entries = yaml.safe_load((tmp_path / ".eval_results" / "events.yaml").read_text())
    assert entries == [
        {"dataset": {"id": "org/vggsound", "task_id": "events"}, "value": 0.62, "notes": "test, sound and picture"}
    ]


def test_a_student_trained_on_labels_is_compared_but_not_called_distilled(summary):
    summary.objectives, summary.entropy_statistics = [], {}
    card = StudentCard.from_summary(summary)
    assert "trained on labels alone with hf_emktd, for comparison" in card.text
    assert "of whose parameters it has 6.5 %" in card.text
    assert card.data.base_model is None and "knowledge-distillation" not in card.data.tags
    assert "inherits its teacher's errors" not in card.text
    assert rows(section(card, "Results"))[4][2:] == ["retention", "97.0 %", "97.5 %", "100.0 %"]


def test_metadata_of_a_model_of_masks(mask_summary, tmp_path):
    write_card(mask_summary, tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.pipeline_tag == "image-segmentation" and data.to_dict()["metrics"] == ["mean_iou"]
    assert {"audio-visual", "audio-visual-segmentation"} <= set(data.tags)
    assert "audio-classification" not in data.tags
    # the control is no result
    assert {result.metric_type: result.metric_value for result in data.eval_results} == {"MJ": 0.7981, "MF": 0.8786}


def test_results_of_a_model_of_masks(mask_summary):
    results = section(StudentCard.from_summary(mask_summary), "Results")
    assert rows(results) == [
        ["Split", "Given", "", "MJ", "MF", "Marked", "Peak"],
        ["---"] * 7,
        ["test (740 clips)", "sound and picture", "this model", "79.81", "87.86", "12.00", "98.00"],
        ["test (740 clips)", "sound and picture", "teacher", "83.15", "90.40", "", ""],
        ["test (740 clips)", "sound and picture", "retention", "96.0 %", "97.2 %", "", ""],
        ["test (740 clips)", "picture and silence", "this model", "50.00", "", "3.00", ""],
        ["test (740 clips)", "picture and silence", "teacher", "60.00", "", "", ""],
    ]
    assert "chosen for each clip where nothing else is said. Marked is the share" in results


def test_without_a_control_no_one_asks_how_much_is_marked(mask_summary):
    del mask_summary.results[1]
    results = section(StudentCard.from_summary(mask_summary), "Results")
    assert rows(results)[0] == ["Split", "Given", "", "MJ", "MF"] and "Marked" not in results


def test_the_protocol_of_mf_is_named(mask_summary):
    mask_summary.results[0].scores = "dataset"
    given = rows(section(StudentCard.from_summary(mask_summary), "Results"))[2][1]
    assert given == "sound and picture, one threshold for all clips"


def test_a_model_of_masks_says_what_it_does(mask_summary):
    card = StudentCard.from_summary(mask_summary)
    assert "A model for sound-guided segmentation with 17.2 % of its teacher's parameters" in card.text
    assert "event" not in card.text
    assert rows(card.text)[2][:3] == ["This model", "32.00 M", "3.41 M"]
    limitations = section(card, "Limitations")
    assert "trained on, those of AVSBench S4, and no other" in limitations
    assert "How well it does with picture and the sound of another clip was not measured." in limitations


@pytest.mark.parametrize("filled", [True, False])
def test_no_placeholders_for_a_model_of_masks(mask_summary, filled):
    bare = DistillationSummary(student=ModelFacts("runs/teacher", 1), task="audio-visual-segmentation")
    card = str(StudentCard.from_summary(mask_summary if filled else bare))
    assert not [word for word in ("None", "nan", "More information", "{{", "{%", "{data}", "\n\n\n") if word in card]


def test_the_code_in_the_card_of_a_model_of_masks_runs(
    mask_summary, segmenter, segmentation_processor, tmp_path, monkeypatch, capsys
):
    segmenter.save_pretrained(tmp_path)
    segmentation_processor.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    pictures = np.zeros((15, 32, 48, 3), np.uint8)
    write_clip("clip.mp4", pictures, 5, np.ones(48000, np.float32) / 2)
    blocks = [part.split("```")[0] for part in StudentCard.from_summary(mask_summary).text.split("```python\n")[1:]]
    scope = {"waveform": np.ones(48000, np.float32), "pictures": pictures[:3]}
    exec("\n".join(blocks), scope)
    assert capsys.readouterr().out.strip() == str(scope["segmentation"].shares)
    assert (tmp_path / "overlay.mp4").is_file()
    assert scope["masks"][0].shape == (3, 32, 32)
