"""Stored scenes: bytes kept, sound as VGGish hears it, every kind of mask, odd files counted."""

from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from scene_files import SIDE, write_avss, write_frame, write_mask, write_ms3, write_s4, write_wav

from hf_emktd.data import AVSBench, extract_scene_features, read_clip, write_clip
from hf_emktd.data.features import decode_frame
from hf_emktd.data.scene_augmentation import SceneTransform
from hf_emktd.data.scene_features import decode_log_mel, decode_mask
from hf_emktd.models.avsegformer import AvSegFormerConfig, AvSegFormerProcessor

CLIPS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "avsbench" / "clips"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def processor() -> AvSegFormerProcessor:
    return AvSegFormerProcessor.from_config(AvSegFormerConfig(image_size=32))


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


class TestStored:
    def test_at_a_models_size_every_view_stays_the_same(self, tmp_path, processor):
        write_ms3(tmp_path, {"a": "train", "b": "train"})
        source = AVSBench(tmp_path, subset="ms3")
        native, small = (extract_scene_features(source, processor, frame_size=size)["train"] for size in (None, 32))
        assert decode_frame(native[0]["frames"][0]).size == (SIDE, SIDE)
        assert decode_frame(small[0]["frames"][0]).size == (32, 32) == decode_mask(small[0]["masks"][0]).shape
        transform = SceneTransform(processor)
        for index in range(2):
            expected, view = (transform.view(rows[index], 0) for rows in (native, small))
            for name in ("input_values", "pixel_values", "labels"):
                np.testing.assert_array_equal(view[name], expected[name])

    def test_columns(self, tmp_path, processor):
        write_s4(tmp_path, {"a": ("train", "dog"), "b": ("val", "cat")})
        source = AVSBench(tmp_path)
        features = extract_scene_features(source, processor)
        assert set(features) == {"train", "validation"} and source.report.counts == {}
        assert features["train"].column_names == ["clip_id", "label", "log_mel", "frames", "masks"]
        assert features["train"].features["label"].names == ["cat", "dog"] and features["train"]["label"][:] == [1]
        (row,), (clip,) = features["train"], source.splits["train"]
        assert row["frames"] == [Path(path).read_bytes() for path in clip["frames"]]
        assert row["masks"] == [Path(clip["masks"][0]).read_bytes(), None, None, None, None]
        assert len(features["validation"][0]["masks"]) == 5 and None not in features["validation"][0]["masks"]

    def test_sound(self, tmp_path, processor):
        folder = write_ms3(tmp_path, {"a": "train"})
        (row,) = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        waveform = read_clip(folder / "ms3_data" / "audio_wav" / "train" / "a.wav").waveform
        expected = processor.feature_extractor.log_mel(waveform, 16000)
        log_mel = decode_log_mel(row["log_mel"])
        assert log_mel.dtype == np.float32 and log_mel.shape == expected.shape == (5, 96, 64)
        # half precision keeps 11 bits
        np.testing.assert_allclose(log_mel, expected, rtol=2**-11, atol=1e-6)

    def test_sound_is_the_mean_of_the_channels(self, tmp_path, processor):
        folder = write_ms3(tmp_path, {"a": "train", "b": "train"})
        time = np.arange(80000) / 16000
        other = 0.3 * np.sin(2 * np.pi * 1500 * time)
        write_wav(folder / "ms3_data" / "audio_wav" / "train" / "b.wav", other_channel=other)
        mixed = 0.15 * np.sin(2 * np.pi * 440 * time) + other / 2
        rows = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        expected = processor.feature_extractor.log_mel(mixed, 16000)
        assert np.abs(decode_log_mel(rows[1]["log_mel"]) - expected).max() < 0.2
        assert np.abs(decode_log_mel(rows[0]["log_mel"]) - expected).max() > 1

    def test_ten_seconds(self, tmp_path, processor):
        write_avss(tmp_path, {"a": ("train", "v2"), "b": ("train", "v1m")})
        rows = {
            row["clip_id"]: row
            for row in extract_scene_features(AVSBench(tmp_path, subset="avss"), processor)["train"]
        }
        assert [len(rows[name]["frames"]) for name in "ab"] == [10, 5]
        assert [len(decode_log_mel(rows[name]["log_mel"])) for name in "ab"] == [10, 5]
        assert decode_frame(rows["a"]["frames"][3]).size == (SIDE, SIDE)
        np.testing.assert_array_equal(decode_mask(rows["a"]["masks"][9])[0], [1, 1, 0, 0, 0, 0, 0, 0])


class TestCache:
    def test_serves_any_image_size_and_number_of_frames(self, tmp_path, processor):
        write_ms3(tmp_path, {"a": "train"})
        other = AvSegFormerProcessor.from_config(AvSegFormerConfig(image_size=64, num_frames=3))
        first, second = (
            extract_scene_features(AVSBench(tmp_path, subset="ms3"), each)["train"] for each in (processor, other)
        )
        assert first._fingerprint == second._fingerprint

    @pytest.mark.parametrize("part", ["frame", "mask", "sound"])
    def test_a_file_made_anew_is_read_anew(self, tmp_path, processor, part):
        folder = write_ms3(tmp_path, {"a": "train"}) / "ms3_data"
        first = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        match part:
            case "frame":
                write_frame(folder / "visual_frames/a/a.mp4_4.png", 3)
            case "mask":
                write_mask(folder / "gt_masks/train/a/a_4.png", 7)
            case _:
                write_wav(folder / "audio_wav/train/a.wav", hertz=880)
        second = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        column = {"frame": "frames", "mask": "masks", "sound": "log_mel"}[part]
        assert first[0][column] != second[0][column]

    def test_processes_make_the_same_features(self, tmp_path, processor, monkeypatch):
        write_ms3(tmp_path, dict.fromkeys("abcd", "train"))
        alone = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other")
        together = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor, num_proc=2)["train"]
        assert together[:] == alone[:]


class TestRawVideo:
    @pytest.fixture
    def video(self, tmp_path) -> Path:
        """Scene a without frames and sound; frame i of its video, ten a second, is grey of level 5 i."""
        folder = write_ms3(tmp_path, {"a": "train"}) / "ms3_data"
        for path in [*(folder / "visual_frames" / "a").iterdir(), folder / "audio_wav" / "train" / "a.wav"]:
            path.unlink()
        levels = (np.arange(50) * 5).astype(np.uint8)
        frames = np.broadcast_to(levels[:, None, None, None], (50, 32, 48, 3)).copy()
        (folder / "raw_videos").mkdir()
        tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(80000) / 16000)
        write_clip(folder / "raw_videos" / "a.mp4", frames, 10, tone.astype(np.float32))
        return folder / "raw_videos" / "a.mp4"

    def test_frames_at_the_end_of_each_second(self, tmp_path, processor, video):
        (row,) = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        images = [decode_frame(data) for data in row["frames"]]
        assert {image.size for image in images} == {(224, 224)}
        # the frame on screen at 15/16 s is the tenth
        assert [round(np.asarray(image).mean() / 5) for image in images] == [9, 19, 29, 39, 49]
        assert decode_log_mel(row["log_mel"]).shape == (5, 96, 64)

    def test_a_short_video_keeps_its_last_frame(self, tmp_path, processor, video):
        frames = np.broadcast_to((np.arange(20) * 5).astype(np.uint8)[:, None, None, None], (20, 32, 48, 3)).copy()
        write_clip(video, frames, 10, np.full(32000, 0.1, np.float32))
        (row,) = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        levels = [round(np.asarray(decode_frame(data)).mean() / 5) for data in row["frames"]]
        assert levels == [9, 19, 19, 19, 19]

    def test_without_sound(self, tmp_path, processor, video):
        write_clip(video, np.zeros((50, 32, 48, 3), np.uint8), 10)
        source = AVSBench(tmp_path, subset="ms3")
        assert len(extract_scene_features(source, processor)["train"]) == 0
        assert source.report.counts == {"train": {"soundless": 1, "still": 1}}

    def test_without_picture(self, tmp_path, processor, video):
        write_clip(video, None, 10, np.full(32000, 0.1, np.float32))
        source = AVSBench(tmp_path, subset="ms3")
        assert len(extract_scene_features(source, processor)["train"]) == 0
        assert source.report.counts == {"train": {"pictureless": 1}}

    @pytest.mark.skipif(not CLIPS.is_dir(), reason="the clips of AVSBench are not at hand")
    def test_official_clips(self, tmp_path, processor):
        clips = {path.stem: path for path in CLIPS.glob("*.mp4")}
        folder = write_ms3(tmp_path, dict.fromkeys(clips, "test")) / "ms3_data"
        (folder / "raw_videos").mkdir()
        for name, path in clips.items():
            (folder / "raw_videos" / path.name).symlink_to(path)
            for frame in (folder / "visual_frames" / name).iterdir():
                frame.unlink()
            (folder / "audio_wav" / "test" / f"{name}.wav").unlink()
        source = AVSBench(tmp_path, subset="ms3")
        rows = extract_scene_features(source, processor)["test"]
        assert len(rows) == len(clips) == 4 and source.report.counts == {}
        for row in rows:
            assert len(set(row["frames"])) == 5
            assert decode_log_mel(row["log_mel"]).shape == (5, 96, 64)


class TestOddScenes:
    def test_counted_and_left_out_or_kept(self, tmp_path, processor):
        names = ["fine", "soundless", "silent", "still", "cut", "greymask", "badwav"]
        folder = write_ms3(tmp_path, dict.fromkeys(names, "train")) / "ms3_data"
        sounds, frames, masks = folder / "audio_wav" / "train", folder / "visual_frames", folder / "gt_masks" / "train"
        (sounds / "soundless.wav").unlink()
        write_wav(sounds / "silent.wav", hertz=0)
        for k in range(1, 6):
            write_frame(frames / "still" / f"still.mp4_{k}.png", 50)
        whole = (frames / "cut" / "cut.mp4_3.png").read_bytes()
        (frames / "cut" / "cut.mp4_3.png").write_bytes(whole[: len(whole) // 2])
        Image.fromarray(np.full((SIDE, SIDE), 3, np.uint8)).save(masks / "greymask" / "greymask_2.png")
        (sounds / "badwav.wav").write_bytes(b"RIFF" * 100)
        for attempt in range(2):
            source = AVSBench(tmp_path, subset="ms3")
            rows = extract_scene_features(source, processor)["train"]
            assert rows["clip_id"][:] == ["fine", "silent", "still"], attempt
            assert source.report.counts == {"train": {"corrupt": 3, "soundless": 1, "silent": 1, "still": 1}}
        reasons = {problem["clip_id"]: problem["reason"] for problem in source.report.problems}
        assert "cut.mp4_3.png: is not a readable picture" in reasons["cut"]
        assert "greymask_2.png: is a grey mask of levels up to 3" in reasons["greymask"]
        assert "no file" in reasons["soundless"]

    def test_sound_shorter_than_an_example_is_padded(self, tmp_path, processor):
        folder = write_ms3(tmp_path, {"a": "train"}) / "ms3_data"
        write_wav(folder / "audio_wav" / "train" / "a.wav", seconds=0.3)
        (row,) = extract_scene_features(AVSBench(tmp_path, subset="ms3"), processor)["train"]
        assert decode_log_mel(row["log_mel"]).shape == (1, 96, 64)


class TestMasks:
    PIXELS = np.array([[0, 1, 2], [3, 0, 0]], np.uint8)

    def test_one_bit(self):
        mask = decode_mask(encode(Image.fromarray(self.PIXELS > 0)))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, [[0, 1, 1], [1, 0, 0]])

    def test_palette(self):
        image = Image.fromarray(self.PIXELS)
        image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0, 0, 0, 255])
        assert image.mode == "P"
        np.testing.assert_array_equal(decode_mask(encode(image)), [[0, 1, 1], [1, 0, 0]])

    def test_grey(self):
        levels = np.array([[0, 127, 128], [255, 5, 0]], np.uint8)
        np.testing.assert_array_equal(decode_mask(encode(Image.fromarray(levels))), [[0, 0, 1], [1, 0, 0]])

    def test_nothing_sounds(self):
        for mode in ("1", "L", "P", "RGB"):
            np.testing.assert_array_equal(decode_mask(encode(Image.new(mode, (3, 2)))), np.zeros((2, 3)))

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_colours(self, mode):
        pixels = np.zeros((2, 3, 3), np.uint8)
        pixels[0, 1], pixels[1, 0] = (0, 128, 0), (0, 0, 64)
        mask = decode_mask(encode(Image.fromarray(pixels).convert(mode)))
        np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "is not a readable mask"),
            (b"\x89PNG no more", "is not a readable mask"),
            (encode(Image.new("L", (3, 2)), "JPEG"), "is not a readable mask"),
            (encode(Image.fromarray(PIXELS)), "grey mask of levels up to 3, expected 0 and 255"),
            (encode(Image.fromarray(PIXELS.astype(np.uint16))), "mode I;16, expected 1, P, L, RGB or RGBA"),
        ],
    )
    def test_no_mask(self, data, message):
        with pytest.raises(ValueError, match=message):
            decode_mask(data)
