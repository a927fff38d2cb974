from __future__ import annotations

import json
import math
import os
import re

import numpy as np
import pytest
from script_runs import SHARED

import hf_emktd  # noqa: F401  registers the Auto classes
from hf_emktd.data import write_clip
from hf_emktd.hub import predict_clip
from hf_emktd.training import load_model

TITLES = "  sound and picture                sound only                       picture only"
ROW = re.compile(r"  (digit \d +\d\.\d{3}   ){2}digit \d +\d\.\d{3}")


@pytest.fixture(scope="module")
def odd_clips(tmp_path_factory):
    """One clip without sound, one without picture, a broken one and one that is not there."""
    folder = tmp_path_factory.mktemp("odd")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    sound = np.sin(np.arange(8000) / 10).astype(np.float32) / 2
    write_clip(folder / "soundless.mp4", pictures, 10)
    write_clip(folder / "pictureless.mp4", None, 10, sound)
    write_clip(folder / "silent.mp4", pictures, 10, 0 * sound)
    (folder / "broken.mp4").write_bytes(b"no mp4" * 100)
    return folder


def test_prints_three_columns_a_clip(workplace, distilled, clips, tmp_path):
    ended = workplace.run("predict.py", *clips[:2], "--model", distilled, "--json", tmp_path / "answers.json")
    assert ended.status == 0, ended.err
    tables = [table.splitlines() for table in ended.out.rstrip("\n").split("\n\n")]
    assert [table[:2] for table in tables] == [[str(clip), TITLES] for clip in clips[:2]]
    assert all(len(table) == 2 + 5 and all(ROW.fullmatch(row) for row in table[2:]) for table in tables)

    answers = json.loads((tmp_path / "answers.json").read_text())
    assert (answers["model"], answers["frames"]) == (str(distilled), 1)
    assert [answer["path"] for answer in answers["clips"]] == [str(clip) for clip in clips[:2]]
    model, processor = load_model(str(distilled))
    expected = predict_clip(model, processor, clips[0]).to_dict()
    for modality, labels in answers["clips"][0]["top"].items():
        assert [entry["label"] for entry in labels] == [entry["label"] for entry in expected["top"][modality]]
        for entry, other in zip(labels, expected["top"][modality], strict=True):
            assert math.isclose(entry["probability"], other["probability"], abs_tol=1e-5)
    best = answers["clips"][0]["top"]["both"][0]
    assert tables[0][2].startswith(f"  {best['label']:24} {best['probability']:.3f}")


def test_odd_clips_do_not_keep_the_others_from_an_answer(workplace, distilled, odd_clips, clips):
    names = ["broken.mp4", "absent.mp4", "soundless.mp4", "silent.mp4", "pictureless.mp4"]
    ended = workplace.run_here(
        "predict.py", *[odd_clips / name for name in names], clips[0], "--model", distilled, "--top_k", "2"
    )
    assert ended.status == 0
    broken, absent, soundless, silent, pictureless, whole = ended.out.rstrip("\n").split("\n\n")
    assert broken.startswith(f"{odd_clips}/broken.mp4: cannot be read") and "\n" not in broken
    assert absent == f"{odd_clips}/absent.mp4: does not exist"
    assert soundless.splitlines()[:2] == [
        f"{odd_clips}/soundless.mp4 (no sound: answered from the picture)",
        "  picture only",
    ]
    assert silent.splitlines()[0].endswith("(no sound, the stream is silent: answered from the picture)")
    assert silent.splitlines()[2:] == soundless.splitlines()[2:]
    assert pictureless.splitlines()[:2] == [
        f"{odd_clips}/pictureless.mp4 (no picture: answered from the sound)",
        "  sound only",
    ]
    assert len(whole.splitlines()) == 2 + 2


def test_fails_if_no_clip_was_answered(workplace, distilled, odd_clips, tmp_path):
    ended = workplace.run_here(
        "predict.py", odd_clips / "broken.mp4", "--model", distilled, "--json", tmp_path / "answers.json"
    )
    assert ended.status == 1
    (answer,) = json.loads((tmp_path / "answers.json").read_text())["clips"]
    assert set(answer) == {"path", "error"} and answer["error"].startswith("cannot be read")


def test_frames_are_averaged_on_demand(workplace, distilled, clips, tmp_path):
    output = tmp_path / "answers.json"
    options = ["--model", distilled, "--frames", "3", "--top_k", "1", "--json", output]
    assert workplace.run_here("predict.py", clips[0], *options).status == 0
    model, processor = load_model(str(distilled))
    label, probability = predict_clip(model, processor, clips[0], frames=3).best[0]
    best = json.loads(output.read_text())["clips"][0]["top"]["both"]
    assert best == [{"label": label, "probability": pytest.approx(probability, abs=1e-5)}]


def test_a_name_may_begin_with_a_dash(workplace, distilled, clips, tmp_path, monkeypatch):
    """As every 64th id of YouTube does, and a shell's *.mp4 gives it bare."""
    os.symlink(clips[0], tmp_path / "-0pJqpNjft4_000267.mp4")
    monkeypatch.chdir(tmp_path)
    ended = workplace.run_here("predict.py", "-0pJqpNjft4_000267.mp4", "--model", distilled)
    assert ended.status == 0 and ended.out.startswith("-0pJqpNjft4_000267.mp4\n")
    ended = workplace.run_here("predict.py", "--model", distilled, "--", "-0pJqpNjft4_000267.mp4")
    assert ended.status == 0


def test_options_may_come_from_a_file(workplace, distilled, clips, tmp_path):
    (tmp_path / "predict.yaml").write_text(f"model: {distilled}\nclips: [{clips[0]}]\ntop_k: 1\n")
    ended = workplace.run_here("predict.py", "--config", tmp_path / "predict.yaml")
    assert ended.status == 0 and len(ended.out.splitlines()) == 3
    ended = workplace.run_here("predict.py", clips[1], "--config", tmp_path / "predict.yaml")
    assert ended.out.splitlines()[0] == str(clips[1])


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        pytest.param(["clip.mp4", "--model", "no/such/model"], 1, "'no/such/model' is no model", id="unknown model"),
        pytest.param(["clip.mp4"], 2, "--model is needed", id="no model"),
        pytest.param(["--model", "m"], 2, "no clip is given", id="no clip"),
        pytest.param(["clip.mp4", "--model", "m", "--top_k", "0"], 2, "top_k must be at least 1", id="top_k"),
        pytest.param(["clip.mp4", "--model", "m", "--frame", "2"], 2, "unknown options: --frame", id="typing error"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(workplace, options, status, reason):
    ended = workplace.run_here("predict.py", *options)
    assert ended.status == status and ended.out == ""
    assert reason in ended.err and len(ended.err.strip().splitlines()) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real clips")
def test_real_clips(workplace, distilled):
    clips = sorted((SHARED / "vggsound" / "clips").glob("*.mp4"))
    odd = sorted(path for path in (SHARED / "odd_media").iterdir() if path.is_file())
    ended = workplace.run_here("predict.py", *clips, *odd, "--model", distilled)
    assert ended.status == 0
    answers = {table.splitlines()[0]: table.splitlines()[1:] for table in ended.out.rstrip("\n").split("\n\n")}
    assert len(answers) == len(clips) + len(odd) == 15
    assert all(answers[str(clip)][0] == TITLES for clip in clips)
    lines = [title for title, table in answers.items() if not table]
    assert [re.search(r"[\w-]+\.\w+(?=:)", line)[0] for line in lines] == [
        "fixture-corrupt.mkv",
        "iso8859_with_image.m4a",
        "result.webm",
    ]
