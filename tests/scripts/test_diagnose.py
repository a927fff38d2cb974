from __future__ import annotations

import json

import pytest

# estimates need more clips than the other scripts
CLIPS = json.dumps({"num_train": 10, "num_validation": 10, "num_test": 100, "image_size": 32})
DATA = ["--dataset", "touchtone", "--dataset_options", CLIPS]
BRANCHES = ("audio", "visual", "fusion")


def test_end_to_end(workplace, teacher, distilled, tmp_path):
    gains = tmp_path / "gains.json"
    gains.write_text(json.dumps({"audio->visual": -0.5, "visual->audio": 0.25, "fusion->fusion": 1.5}))
    models = ["--teacher", teacher, "--student", distilled]
    ended = workplace.run_here("diagnose.py", *models, *DATA, "--gains", gains, "--output_dir", tmp_path / "out")
    assert ended.status == 0, ended.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "diagnosis.json",
        "diagnosis.md",
        "diagnosis.png",
    }
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert set(found["pairs"]) == {f"{first}->{second}" for first in BRANCHES for second in BRANCHES}
    assert (found["clips"], found["split"], found["dataset"]) == (100, "test", "touchtone")
    assert found["label_entropy"] == pytest.approx(2.302585)
    same = found["pairs"]["audio->audio"]["shared"]
    assert same["nearest neighbours"]["nats"] > 1 and same["learned bound"]["nats"] <= found["ceiling"]
    assert len(found["agreement"]["gains"]) == 3
    assert "**Measured.** Of 3 pairs" in ended.out and "contested" in ended.out


@pytest.mark.parametrize(
    "options, status, reason",
    [
        ([], 2, "--teacher and --student are needed"),
        (["--teacher", "t", "--student", "s", "--max_clips", "10"], 2, "max_clips must be at least 100"),
        (["--teacher", "no/such/model", "--student", "s"], 1, "'no/such/model' is no model"),
        (["--teacher", "{teacher}", "--student", "{teacher}"], 1, "split test has 20 clips; estimates need 100"),
        (["--teacher", "{teacher}", "--student", "s", "--gains", "{teacher}/config.json"], 1, "must hold gains"),
    ],
)
def test_refusals(workplace, teacher, options, status, reason):
    ended = workplace.run_here("diagnose.py", *[option.format(teacher=teacher) for option in options])
    assert ended.status == status and reason in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
