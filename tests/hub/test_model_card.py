from __future__ import annotations

import importlib.metadata

import pytest
import yaml
from huggingface_hub import ModelCard

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
