from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from script_runs import SCRIPTS, TOUCHTONE

from hf_emktd.hub import DistillationSummary
from hf_emktd.hub.distillation_summary import METRICS

OTHER_CLIPS = ["--dataset", "touchtone", "--dataset_options", json.dumps(json.loads(TOUCHTONE) | {"seed": 1})]


def results_of(folder):
    """What the run that made the model measured."""
    return json.loads((folder / "results.json").read_text())


def approx(results):
    return {
        modality: pytest.approx({name: value for name, value in metrics.items() if value is not None}, rel=1e-4)
        for modality, metrics in results.items()
    }


def test_repeats_what_distillation_measured(workplace, student, teacher):
    ended = workplace.run("evaluate.py", "--model", student, "--teacher", teacher)
    report, measured = ended.results, results_of(student)
    assert ended.out == (student / "evaluation.json").read_text()
    assert report["results"] == approx(measured["results"])
    assert report["teacher_results"] == approx(measured["teacher_results"])
    assert list(report["results"]) == ["both", "audio", "visual"]
    assert report["results"]["both"]["clips"] == 20
    ratio = measured["results"]["both"]["mAP"] / measured["teacher_results"]["both"]["mAP"]
    assert report["retention"]["both"]["mAP"] == pytest.approx(ratio, rel=1e-4)
    assert (report["model"], report["teacher"]) == (str(student), str(teacher))
    assert (report["dataset"], report["split"], report["frames"]) == ("touchtone", "test", 1)


def test_two_processes_share_the_clips_and_speak_once(workplace, student):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    without_gpu = workplace.environment | {"CUDA_VISIBLE_DEVICES": ""}
    ended = workplace.run(*launch, "evaluate.py", "--model", student, "--batch_size", "7", environment=without_gpu)
    assert ended.results["results"] == approx(results_of(student)["results"])
    assert ended.out == (student / "evaluation.json").read_text()


def test_ten_frames_get_rows_of_their_own_in_the_card(workplace, student, teacher):
    before = DistillationSummary.load(student)
    report = workplace.run_here(
        "evaluate.py", "--model", student, "--teacher", teacher, "--frames", "10", "--modalities", "both"
    ).results
    after = DistillationSummary.load(student)
    assert after.results[:-1] == before.results
    added = after.results[-1]
    assert added.key == ("test", "both", 10, "softmax") and report["scores"] == {"both": "softmax"}
    assert added.metrics["mAP"] == report["results"]["both"]["mAP"]
    assert added.retention == {name: report["retention"]["both"][name] for name in added.retention}
    assert "sound and picture, 10 frames" in ModelCard.load(student / "README.md").text


def test_scores_decide_what_is_ranked(workplace, student):
    options = ["evaluate.py", "--model", student, "--no_card", "--modalities", "both", "audio"]
    logits = workplace.run_here(*options, "--scores", "logits").results["results"]
    softmax = workplace.run_here(*options, "--scores", "softmax").results["results"]
    assert {logits[m]["accuracy"] for m in logits} == {softmax[m]["accuracy"] for m in softmax}
    assert any(logits[m][name] != softmax[m][name] for m in logits for name in METRICS)


def test_without_a_teacher_the_card_keeps_the_teachers_numbers(workplace, student):
    before = DistillationSummary.load(student)
    report = workplace.run_here("evaluate.py", "--model", student).results
    assert report["teacher"] is None and "retention" not in report
    assert [result.teacher_metrics for result in DistillationSummary.load(student).results] == [
        result.teacher_metrics for result in before.results
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param(["--no_card"], None, id="unwanted"),
        pytest.param(OTHER_CLIPS, "is about other clips", id="other clips"),
    ],
)
def test_the_card_stays_as_it_is(workplace, student, caplog, options, why):
    card = (student / "README.md").read_bytes()
    assert workplace.run_here("evaluate.py", "--model", student, "--modalities", "visual", *options).status == 0
    assert (student / "README.md").read_bytes() == card
    assert (student / "evaluation.json").is_file()
    assert why is None or why in caplog.text


def test_another_teacher_does_not_enter_the_card(workplace, student, teacher_without_monitor, caplog):
    before = DistillationSummary.load(student)
    options = ["--teacher", teacher_without_monitor, "--frames", "2", "--modalities", "both"]
    report = workplace.run_here("evaluate.py", "--model", student, *options).results
    assert report["retention"]["both"]
    assert "names another teacher" in caplog.text
    added = DistillationSummary.load(student).results[len(before.results)]
    assert added.frames == 2 and added.teacher_metrics == {}


def test_a_teacher_is_evaluated_alike(workplace, teacher, tmp_path):
    model = shutil.copytree(teacher, tmp_path / "teacher")
    report = workplace.run_here("evaluate.py", "--model", model, "--output", tmp_path / "deep" / "r.json").results
    assert report["results"] == approx(results_of(teacher)["results"])
    assert json.loads((tmp_path / "deep" / "r.json").read_text()) == report
    assert not (model / "evaluation.json").exists()


def test_only_the_split_that_is_asked_for_is_decoded(workplace, student):
    """A set of its own, of which no features are stored yet."""
    options = json.dumps(json.loads(TOUCHTONE) | {"seed": 2})
    before = set(workplace.cache.glob("hf_emktd_features/*/*.arrow"))
    data = ["--dataset", "touchtone", "--dataset_options", options, "--split", "validation"]
    report = workplace.run_here("evaluate.py", "--model", student, *data, "--modalities", "both").results
    assert report["split"] == "validation" and report["results"]["both"]["clips"] == 10
    new = set(workplace.cache.glob("hf_emktd_features/*/*.arrow")) - before
    assert [path.stem for path in new] == ["validation"]


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        pytest.param([], 2, "--model is needed", id="no model"),
        pytest.param(["--model", "no/such/model"], 1, "'no/such/model' is no model", id="unknown model"),
        pytest.param(["--model", "{student}", "--teacher", "nowhere"], 1, "'nowhere' is no model", id="teacher"),
        pytest.param(["--model", "{student}", "--split", "train2"], 1, "no split 'train2'", id="split"),
        pytest.param(["--model", "m", "--scores", "ranks"], 2, "scores must be one of", id="scores"),
        pytest.param(["--model", "m", "--modalities", "smell"], 2, "modalities must be among", id="modality"),
        pytest.param(["--model", "m", "--frames", "0"], 2, "frames must be at least 1", id="frames"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(workplace, distilled, options, status, reason):
    ended = workplace.run_here("evaluate.py", *[option.format(student=distilled) for option in options])
    assert ended.status == status and ended.out == ""
    assert reason in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_no_script_imports_the_library_that_this_one_shadows(workplace):
    """With scripts/ first on the path, as in a script's process, `import evaluate` would find scripts/evaluate.py."""
    code = "import distill, predict, train_monitor, train_teacher, sys; assert 'evaluate' not in sys.modules"
    ended = workplace.run("-c", code, cwd=SCRIPTS)
    assert ended.status == 0, ended.err
