from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_emktd import CavMaeProcessor
from hf_emktd.data import write_clip
from hf_emktd.hub import predict_clip

pytest.importorskip("onnxscript")  # what the processor does is written with it

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "export.py"
LABELS = ["bell", "dog", "rain"]


@pytest.fixture
def table(tmp_path) -> Path:
    """Two clips of each label."""
    random = np.random.default_rng(0)
    rows = ["split,label,video"]
    for index in range(6):
        name = f"{index}.mp4"
        frames = np.full((10, 32, 32, 3), 40 * index, np.uint8)
        write_clip(tmp_path / name, frames, 20, random.normal(0, 0.1, 8000).astype(np.float32))
        rows.append(f"test,{LABELS[index % 3]},{name}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "clips.csv"


def run(monkeypatch, *options: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_writes_checks_and_measures(model, table, tmp_path, monkeypatch, capsys):
    processor = CavMaeProcessor.from_config(model.config)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    options = ["--format", "torch-export", "--repetitions", "2", "--dataset", table]
    run(monkeypatch, "--model", tmp_path / "model", "--output_dir", tmp_path / "export", *options)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| model")]
    assert [line[1] for line in lines] == ["format", "pytorch", "torch-export"]
    rows = json.loads((tmp_path / "export" / "export.json").read_text())
    assert [row["format"] for row in rows] == ["pytorch", "torch-export"]
    weights = 4 * sum(value.numel() for value in model.state_dict().values())
    assert rows[0]["bytes"] == pytest.approx(weights, rel=0.05)
    assert rows[1]["bytes"] == (tmp_path / "export" / "model.pt2").stat().st_size
    assert all(row["milliseconds"] > 0 and row["processor_milliseconds"] > 0 for row in rows)
    assert all(row["peak_megabytes"] is None or row["peak_megabytes"] > 0 for row in rows)
    right = [predict_clip(model, processor, tmp_path / f"{i}.mp4").best[0][0] == LABELS[i % 3] for i in range(6)]
    assert rows[0]["score"] == rows[1]["score"] == pytest.approx(np.mean(right))
    assert torch.export.load(tmp_path / "export" / "model.pt2") is not None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "--model is needed"),
        (["--model", "m", "--format", "coreml"], "format must be among onnx, onnx-int8"),
        (["--model", "m", "--modalities", "smell"], "modalities must be among both, audio, visual"),
        (["--model", "m", "--repetitions", "0"], "repetitions must be at least 1"),
        (["--model", "no/such/folder"], "is no directory of a model"),
    ],
)
def test_refusals_are_one_line(monkeypatch, capsys, options, expected):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *options)
    said = capsys.readouterr().err + str(ended.value.code)
    assert expected in said and "Traceback" not in said
