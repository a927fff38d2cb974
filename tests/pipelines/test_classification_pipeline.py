from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_media import RATE, SECONDS, pictures, tone
from transformers import AutoModel, AutoProcessor, pipeline

from hf_emktd.data import MediaError, read_clip, write_clip
from hf_emktd.data.clip_windows import read_windows, window_starts
from hf_emktd.distillation import EntropyMonitor, EntropyMonitorConfig, entropy_weights
from hf_emktd.hub import predict_clip
from hf_emktd.pipelines import AudioVisualClassificationPipeline

TASK = "audio-visual-classification"


@pytest.fixture(scope="module")
def classifier(model_dir) -> AudioVisualClassificationPipeline:
    return pipeline(TASK, model=str(model_dir), device="cpu")


@pytest.fixture(scope="module")
def loaded(model_dir) -> tuple:
    return AutoModel.from_pretrained(model_dir), AutoProcessor.from_pretrained(model_dir)


def labelled(entries: list[tuple[str, float]]) -> list[dict]:
    return [{"label": label, "score": pytest.approx(score, abs=1e-5)} for label, score in entries]


def same(answer: dict, expected: dict) -> bool:
    return [entry["label"] for entry in answer["labels"]] == [entry["label"] for entry in expected["labels"]] and (
        np.allclose([e["score"] for e in answer["labels"]], [e["score"] for e in expected["labels"]], atol=1e-5)
    )


class TestAnswers:
    def test_are_those_of_predict_clip(self, classifier, loaded, media):
        answer = classifier(media["clip"], by_modality=True)
        expected = predict_clip(*loaded, media["clip"])
        assert answer["labels"] == labelled(expected.best)
        assert answer["answered_from"] == "both" and answer["notes"] == []
        assert list(answer["modalities"]) == ["both", "audio", "visual"]
        for modality, entries in expected.top.items():
            assert answer["modalities"][modality] == {"labels": labelled(entries)}
        (window,) = answer["timeline"]
        assert (window["start"], window["answered_from"]) == (0.0, "both")
        assert window["end"] == pytest.approx(SECONDS, abs=0.1) and window["labels"] == answer["labels"]

    @pytest.mark.parametrize(
        ("name", "source", "note"),
        [
            ("soundless", "visual", "no sound: answered from the picture"),
            ("silent", "visual", "no sound, the stream is silent: answered from the picture"),
            ("pictureless", "audio", "no picture: answered from the sound"),
        ],
    )
    def test_of_a_clip_without_one_sense_come_from_the_other(self, classifier, loaded, media, name, source, note):
        answer = classifier(media[name], by_modality=True)
        assert answer["labels"] == labelled(predict_clip(*loaded, media[name]).best)
        assert (answer["answered_from"], answer["notes"]) == (source, [note])
        assert list(answer["modalities"]) == [source]

    def test_of_several_frames_average_their_softmax(self, classifier, loaded, media):
        expected = predict_clip(*loaded, media["clip"], frames=4)
        assert classifier(media["clip"], frames=4)["labels"] == labelled(expected.best)
        assert not same(classifier(media["clip"]), classifier(media["clip"], frames=4))

    def test_are_as_many_as_asked_for(self, classifier, media):
        full = classifier(media["clip"], top_k=99)["labels"]
        assert len(full) == 3 and sum(entry["score"] for entry in full) == pytest.approx(1)
        assert classifier(media["clip"], top_k=1)["labels"] == full[:1]


class TestLongFiles:
    def test_have_a_timeline(self, classifier, loaded, media):
        answer = classifier(media["long"], window_seconds=4, stride_seconds=3)
        starts = window_starts(30, 4, 3)
        timeline = answer["timeline"]
        assert [window["start"] for window in timeline] == pytest.approx(starts, abs=0.1)
        assert timeline[-1]["end"] == pytest.approx(30, abs=0.1)
        model, processor = loaded
        scores = []
        places = [window["start"] for window in timeline]
        for window, clip in zip(timeline, read_windows(media["long"], places, 4), strict=True):
            inputs = processor(audio=clip.waveform, images=clip.frames[5], sampling_rate=RATE, return_tensors="pt")
            with torch.inference_mode():
                scores.append(model(**inputs).logits[0].softmax(-1))
            found = {entry["label"]: entry["score"] for entry in window["labels"]}
            named = dict(zip(model.config.id2label.values(), scores[-1].tolist(), strict=True))
            assert found == pytest.approx(named, abs=1e-5)
        mean = torch.stack(scores).mean(0).tolist()
        found = {entry["label"]: entry["score"] for entry in answer["labels"]}
        assert found == pytest.approx(dict(zip(model.config.id2label.values(), mean, strict=True)), abs=1e-5)

    def test_are_looked_at_in_windows_of_what_the_model_hears(self, classifier, media):
        timeline = classifier(media["long"], max_seconds=1.6)["timeline"]
        assert [window["start"] for window in timeline] == pytest.approx([0, 0.32, 0.64, 0.96, 1.28])

    def test_may_lack_a_sense_in_between(self, classifier, tmp_path):
        sound = tone(4)
        sound[2 * RATE :] = 0
        write_clip(tmp_path / "falls_silent.mp4", pictures(4), 25, sound)
        answer = classifier(tmp_path / "falls_silent.mp4", window_seconds=1, by_modality=True)
        # the codec rings on for some milliseconds
        sources = [window["answered_from"] for window in answer["timeline"]]
        assert sources[:2] == ["both", "both"] and sources[-1] == "visual"
        assert answer["answered_from"] == "mixed"
        count = sources.count("visual")
        expected = f"no sound, the stream is silent: answered from the picture, in {count} of 4 windows"
        assert answer["notes"] == [expected]

    def test_take_memory_for_a_window_only(self, classifier, media, monkeypatch):
        """Windows are made while the ones before go through the model."""
        alive, most = 0, 0
        forward = classifier.forward

        def counting(*args, **options):
            nonlocal alive
            alive -= 1
            return forward(*args, **options)

        chunks = classifier.chunks

        def counted(*args, **options):
            nonlocal alive, most
            for chunk in chunks(*args, **options):
                alive += 1
                most = max(most, alive)
                yield chunk

        monkeypatch.setattr(classifier, "forward", counting)
        monkeypatch.setattr(classifier, "chunks", counted)
        answer = classifier(media["long"], window_seconds=1)
        assert len(answer["timeline"]) == 30 and most <= 2


class TestInputs:
    @pytest.fixture
    def expected(self, classifier, media) -> dict:
        return classifier(media["clip"])

    def test_bytes_and_files(self, classifier, media, expected):
        content = media["clip"].read_bytes()
        assert same(classifier(str(media["clip"])), expected)
        assert same(classifier(content), expected)
        with media["clip"].open("rb") as file:
            assert same(classifier(file), expected)

    def test_an_address(self, classifier, media, expected):
        handler = partial(SimpleHTTPRequestHandler, directory=media["clip"].parent)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            assert same(classifier(f"{address}/clip.mp4"), expected)
            with pytest.raises(MediaError, match=r"/absent\.mp4: could not be downloaded .*404"):
                classifier(f"{address}/absent.mp4")
            server.shutdown()

    def test_cells_of_datasets(self, classifier, media, expected):
        cell = {"bytes": media["clip"].read_bytes(), "path": None}
        assert same(classifier(cell), expected)
        assert same(classifier({"bytes": None, "path": str(media["clip"])}), expected)
        assert same(classifier({"video": cell, "label": 3}), expected)

    def test_a_column_of_videos(self, classifier, media):
        paths = [str(media["clip"]), str(media["soundless"])]
        rows = datasets.Dataset.from_dict({"video": paths, "label": [0, 1]})
        rows = rows.cast_column("video", datasets.Video(decode=False))
        expected = [classifier(path) for path in paths]
        for answers in (
            classifier(rows["video"]),
            list(classifier(rows)),
            list(classifier(rows.to_iterable_dataset())),
        ):
            assert [answer["answered_from"] for answer in answers] == ["both", "visual"]
            assert all(map(same, answers, expected))

    def test_a_decoder_of_datasets_is_the_file_it_decodes(self, classifier, media, expected):
        decoder = type("VideoDecoder", (), {"_hf_encoded": {"path": str(media["clip"]), "bytes": None}})()
        assert same(classifier(decoder), expected)

    def test_sound_and_picture_apart(self, classifier, loaded, media, tmp_path):
        clip = read_clip(media["clip"])
        image = Image.fromarray(clip.frames[5])
        image.save(tmp_path / "frame.png")
        write_clip(tmp_path / "sound.mp4", None, 25, tone(SECONDS))
        expected = classifier({"image": image, "audio": clip.waveform, "sampling_rate": RATE})
        assert expected["labels"] == labelled(predict_clip(*loaded, media["clip"]).best)
        array = {"array": clip.waveform, "sampling_rate": RATE}
        assert same(classifier({"image": str(tmp_path / "frame.png"), "audio": array}), expected)
        from_file = classifier({"image": np.asarray(image), "audio": tmp_path / "sound.mp4"})
        assert from_file["answered_from"] == "both"
        assert classifier({"image": image})["answered_from"] == "visual"
        assert classifier({"image": image, "audio": None})["answered_from"] == "visual"
        assert classifier({"audio": array})["answered_from"] == "audio"

    def test_a_picture_goes_with_all_of_a_long_sound(self, classifier):
        picture = np.full((32, 32, 3), 90, np.uint8)
        answer = classifier({"image": picture, "audio": tone(2), "sampling_rate": RATE}, window_seconds=1)
        assert [window["answered_from"] for window in answer["timeline"]] == ["both", "both"]
        assert answer["timeline"][0]["labels"] != answer["timeline"][1]["labels"]

    @pytest.mark.parametrize("item", [3, {"label": 1}, {}, None])
    def test_anything_else_is_refused(self, classifier, item):
        with pytest.raises(TypeError, match="give a path, an http"):
            classifier(item)

    def test_waveforms_need_a_rate_and_one_channel(self, classifier):
        with pytest.raises(ValueError, match="needs its sampling_rate"):
            classifier({"audio": tone(1)})
        with pytest.raises(ValueError, match="mono floating-point"):
            classifier({"audio": np.zeros((2, 100), np.float32), "sampling_rate": RATE})


class TestLists:
    @pytest.mark.parametrize("batch_size", [1, 3, 8])
    def test_answers_do_not_depend_on_the_batch(self, classifier, media, batch_size):
        names = ["clip", "soundless", "other", "pictureless", "silent"]
        expected = [classifier(media[name], by_modality=True) for name in names]
        answers = classifier([media[name] for name in names], batch_size=batch_size, by_modality=True)
        assert [answer["answered_from"] for answer in answers] == ["both", "visual", "both", "audio", "visual"]
        assert all(map(same, answers, expected))
        assert [answer["notes"] for answer in answers] == [answer["notes"] for answer in expected]

    def test_windows_of_a_file_are_batched(self, classifier, media, monkeypatch):
        sizes = []
        forward = type(classifier.model).forward

        def counting(model, **inputs):
            sizes.append(len(inputs["input_values"]))
            return forward(model, **inputs)

        monkeypatch.setattr(type(classifier.model), "forward", counting)
        classifier(media["long"], window_seconds=3, batch_size=4)
        assert sizes == [4, 4, 2]

    def test_an_empty_list(self, classifier):
        assert classifier([]) == []

    @pytest.mark.parametrize("name", ["corrupt", "nothing"])
    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_one_bad_file_may_be_reported(self, classifier, media, name, batch_size):
        paths = [media["clip"], media[name], media["soundless"]]
        answers = classifier(paths, on_error="report", batch_size=batch_size)
        assert answers[1]["path"] == str(media[name]) and answers[1]["error"]
        assert [answer.get("answered_from") for answer in answers] == ["both", None, "visual"]
        assert same(answers[0], classifier(media["clip"])) and same(answers[2], classifier(media["soundless"]))

    @pytest.mark.parametrize("name", ["corrupt", "nothing"])
    def test_one_bad_file_is_raised_otherwise(self, classifier, media, name):
        with pytest.raises(MediaError, match=name):
            classifier([media["clip"], media[name]])


class TestEntropies:
    @pytest.fixture(scope="class")
    @classmethod
    def monitored_dir(cls, loaded, tmp_path_factory) -> Path:
        model, processor = loaded
        folder = tmp_path_factory.mktemp("models") / "monitored"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        torch.manual_seed(3)
        widths = dict(model.config.branch_widths)
        monitor = EntropyMonitor(EntropyMonitorConfig(branch_widths=widths, id2label=model.config.id2label))
        with torch.no_grad():
            for parameter in monitor.parameters():
                parameter.normal_()
        monitor.save_pretrained(folder / "entropy_monitor")
        return folder

    def check(self, answer: dict, loaded, monitored_dir, path) -> None:
        model, processor = loaded
        monitor = EntropyMonitor.from_pretrained(monitored_dir / "entropy_monitor")
        with torch.inference_mode():
            output = model(**processor(clips=path, return_tensors="pt"), output_tokens=True)
            tokens = {branch: output[f"{branch}_tokens"] for branch in ("audio", "visual", "fusion")}
            entropies = monitor(tokens).entropies
        weights = entropy_weights(entropies)
        for modality, branch in {"both": "fusion", "audio": "audio", "visual": "visual"}.items():
            found = answer["modalities"][modality]
            assert found["entropy"] == pytest.approx(entropies[branch].item(), abs=1e-5)
            assert found["entropy_weight"] == pytest.approx(weights[branch].item(), abs=1e-5)

    def test_of_a_model_with_its_own_monitor(self, loaded, monitored_dir, media):
        classifier = pipeline(TASK, model=str(monitored_dir), device="cpu")
        answers = classifier([media["clip"], media["soundless"]], by_modality=True, batch_size=2)
        self.check(answers[0], loaded, monitored_dir, media["clip"])
        assert list(answers[1]["modalities"]) == ["visual"] and "entropy" in answers[1]["modalities"]["visual"]
        assert "modalities" not in classifier(media["clip"])

    def test_of_a_student_come_from_its_teacher(self, loaded, model_dir, monitored_dir, media):
        classifier = pipeline(TASK, model=str(model_dir), teacher=str(monitored_dir), device="cpu")
        self.check(classifier(media["clip"], by_modality=True), loaded, monitored_dir, media["clip"])

    def test_a_teacher_without_a_monitor_is_refused(self, model_dir):
        with pytest.raises(ValueError, match="has no entropy_monitor/"):
            pipeline(TASK, model=str(model_dir), teacher=str(model_dir), device="cpu")


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value", "expected"),
        [
            ("top_k", 0, "at least 1"),
            ("frames", 0, "at least 1"),
            ("window_seconds", 0, "must be positive"),
            ("stride_seconds", 99, "leave parts of the file unseen"),
            ("on_error", "ignore", "one of raise, report"),
        ],
    )
    def test_out_of_range(self, classifier, media, option, value, expected):
        with pytest.raises(ValueError, match=expected):
            classifier(media["clip"], **{option: value})

    def test_may_be_set_once_for_all(self, model_dir, media):
        classifier = pipeline(TASK, model=str(model_dir), device="cpu", top_k=1, by_modality=True)
        assert len(classifier(media["clip"])["labels"]) == 1 and "modalities" in classifier(media["clip"])

    def test_another_task_is_refused(self, segmenter_dir):
        with pytest.raises(ValueError, match=r"pipeline\('audio-visual-segmentation'"):
            pipeline(TASK, model=str(segmenter_dir), device="cpu")


def test_a_saved_pipeline_is_an_ordinary_model(classifier, media, tmp_path):
    classifier.save_pretrained(tmp_path / "saved")
    again = pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")
    assert same(again(media["clip"]), classifier(media["clip"]))


def test_importing_the_package_reads_no_media():
    """Beyond what transformers imports for its own pipelines: 5.17 takes PyAV for them."""
    code = "import sys, transformers.pipelines; before = set(sys.modules); import hf_emktd; "
    code += "print({'av', 'datasets', 'matplotlib'} & (set(sys.modules) - before))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"
