from __future__ import annotations

import json
import math
import os
import re

import numpy as np
import pytest
from PIL import Image
from script_runs import SHARED

from hf_emktd import AvSegFormerProcessor
from hf_emktd.data import read_clip, write_clip
from hf_emktd.hub import predict_clip, segment_clip
from hf_emktd.training import load_model
from tiny_segmenter import make_segmenter

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


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """A tiny model of masks that was not trained."""
    model = make_segmenter()
    folder = tmp_path_factory.mktemp("segmenter")
    model.save_pretrained(folder)
    AvSegFormerProcessor.from_config(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds of noise with a rising tone."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (20, 40, 56, 3), dtype=np.uint8)
    write_clip(path, frames, 10, np.sin(np.arange(32000) ** 1.2 / 10).astype(np.float32) / 2)
    return path


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


def test_masks_become_a_film_and_a_strip(workplace, segmenter, film, tmp_path):
    output, answers = tmp_path / "new" / "folder", tmp_path / "answers.json"
    ended = workplace.run("predict.py", film, "--model", segmenter, "--output_dir", output, "--json", answers)
    assert ended.status == 0, ended.err
    model, processor = load_model(str(segmenter))
    expected = segment_clip(model, processor, film)
    assert ended.out == f"{expected.line()}\n" and re.search(r": \d+\.\d  \d+\.\d %\n$", ended.out)

    (answer,) = json.loads(answers.read_text())["clips"]
    assert answer["path"] == str(film) and len(answer["seconds"]) == 2
    assert [second["mask_share"] for second in answer["seconds"]] == pytest.approx(expected.shares, abs=1e-3)
    assert answer["overlay"] == str(output / "film_overlay.mp4")
    assert sorted(path.name for path in output.iterdir()) == ["film_frames.png", "film_overlay.mp4"]
    read = read_clip(output / "film_overlay.mp4")
    assert read.duration_seconds == pytest.approx(2.0, abs=0.1) and np.abs(read.waveform).max() > 0.2
    assert Image.open(answer["frames"]).size[0] > 2 * 240


def test_odd_clips_do_not_keep_the_others_from_their_masks(workplace, segmenter, odd_clips, film, tmp_path):
    names = ["broken.mp4", "absent.mp4", "soundless.mp4", "silent.mp4", "pictureless.mp4"]
    options = ["--model", segmenter, "--output_dir", tmp_path]
    ended = workplace.run_here("predict.py", *[odd_clips / name for name in names], film, *options)
    assert ended.status == 0
    broken, absent, soundless, silent, pictureless, whole = ended.out.splitlines()
    assert broken.startswith(f"{odd_clips}/broken.mp4: cannot be read")
    assert absent == f"{odd_clips}/absent.mp4: does not exist"
    assert soundless.startswith(f"{odd_clips}/soundless.mp4 (no sound: silence was given): ")
    assert silent.startswith(f"{odd_clips}/silent.mp4 (no sound, the stream is silent: silence was given): ")
    assert silent.split(": ")[-1] == soundless.split(": ")[-1]
    assert pictureless == f"{odd_clips}/pictureless.mp4: has no picture, and only pictures can be segmented"
    assert whole.startswith(f"{film}: ")
    assert len(list(tmp_path.iterdir())) == 2 * 3


def test_fails_if_no_clip_was_marked(workplace, segmenter, odd_clips, tmp_path):
    options = ["--model", segmenter, "--output_dir", tmp_path / "none", "--json", tmp_path / "answers.json"]
    assert workplace.run_here("predict.py", odd_clips / "broken.mp4", *options).status == 1
    (answer,) = json.loads((tmp_path / "answers.json").read_text())["clips"]
    assert set(answer) == {"path", "error"} and not (tmp_path / "none").exists()


def test_clips_of_one_name_keep_their_own_films(workplace, segmenter, film, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "film.mp4"
    write_clip(other, np.zeros((5, 32, 32, 3), np.uint8), 10)
    output = tmp_path / "output"
    ended = workplace.run_here("predict.py", film, other, "--model", segmenter, "--output_dir", output)
    assert ended.status == 0
    assert read_clip(output / "film_1_overlay.mp4").frames.shape[1:3] == (40, 56)
    assert read_clip(output / "film_2_overlay.mp4").frames.shape[1:3] == (32, 32)


def test_an_output_folder_that_is_a_file_is_refused(workplace, film):
    ended = workplace.run_here("predict.py", film, "--model", "m", "--output_dir", film)
    assert ended.status == 2 and "is a file; name a folder" in ended.err


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real clips")
def test_masks_of_real_clips(workplace, segmenter, tmp_path):
    clips = sorted((SHARED / "avsbench" / "clips").glob("*.mp4"))[:1]
    odd = [SHARED / "odd_media" / name for name in ("fixture.mkv", "nasa_13013.mp4", "example.mp4", "result.webm")]
    ended = workplace.run_here("predict.py", *clips, *odd, "--model", segmenter, "--output_dir", tmp_path)
    assert ended.status == 0
    seconds = [len(line.rpartition(": ")[2].split()) - 1 for line in ended.out.splitlines()[:-1]]
    assert seconds == [5, 1, 10, 2]
    assert ended.out.splitlines()[-1].endswith("result.webm: is empty (0 bytes)")
    assert len(list(tmp_path.iterdir())) == 2 * 4
