"""Features of clips: content, cache, and what happens to odd files."""

import os
import wave
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_emktd.data.clip_source import ClipReport, ClipRow, ClipSource
from hf_emktd.data.feature_cache import cache_key
from hf_emktd.data.features import decode_fbank, decode_frame, extract_features, input_parameters
from hf_emktd.data.media import read_clip, write_clip
from hf_emktd.models.cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor

ODD_MEDIA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "odd_media"
MELS, SIZE = 16, 32


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def processor() -> CavMaeProcessor:
    return CavMaeProcessor(
        CavMaeFeatureExtractor(num_mel_bins=MELS, audio_length=64), CavMaeImageProcessor(image_size=SIZE)
    )


def moving_frames(count=5, seed=0) -> np.ndarray:
    """A slow random gradient, which JPEG and H.264 keep."""
    corners = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    images = [Image.fromarray(corner).resize((48, 40), Image.Resampling.BILINEAR) for corner in corners]
    return np.stack([np.asarray(image) for image in images])


def tone(seconds=0.5) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(16000 * seconds)) / 16000)).astype(np.float32)


def soundfile(path: Path, hertz: float) -> None:
    samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4000) / 16000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())


def make_source(files: dict[str, dict[str, Path | None]], split="train") -> ClipSource:
    rows = [
        ClipRow(name, split, f"class {i % 2}", {k: v and str(v) for k, v in paths.items()})
        for i, (name, paths) in enumerate(files.items())
    ]
    return ClipSource.from_rows(["class 0", "class 1"], rows, ClipReport())


def make_clips(folder: Path, count=3) -> dict[str, dict[str, Path]]:
    files = {}
    for index in range(count):
        path = folder / f"clip{index}.mp4"
        write_clip(path, moving_frames(seed=index), 10, tone())
        files[f"clip{index}"] = {"video": path}
    return files


def test_features_hold_what_the_processor_makes(tmp_path, processor):
    source = make_source(make_clips(tmp_path))
    features = extract_features(source, processor, num_frames=4)["train"]
    assert features.column_names == ["clip_id", "label", "fbank", "frames"]
    assert features["clip_id"][:] == ["clip0", "clip1", "clip2"] and features["label"][:] == [0, 1, 0]
    assert features.features["label"].names == ["class 0", "class 1"]
    clip = read_clip(tmp_path / "clip1.mp4", num_frames=4)
    fbank = decode_fbank(features[1]["fbank"], MELS)
    expected = processor.feature_extractor.extract_fbank(clip.waveform, 16000)
    assert fbank.dtype == np.float32
    # half precision keeps 11 bits
    np.testing.assert_allclose(fbank, expected, rtol=2**-11)
    assert len(features[1]["frames"]) == 4
    for stored, frame in zip(features[1]["frames"], clip.frames, strict=True):
        image = decode_frame(stored)
        assert image.mode == "RGB" and image.size == (SIZE, SIZE)
        expected_image = np.asarray(processor.image_processor.resize_and_crop(frame), np.float32)
        assert np.abs(np.asarray(image, np.float32) - expected_image).mean() < 3
    assert source.report.counts == {}


def test_other_label_names_are_another_cache(tmp_path):
    """The ids are the same: what is stored names its classes."""
    (tmp_path / "a.mp4").write_bytes(b"x")
    row = ClipRow("a", "train", "cat", {"video": str(tmp_path / "a.mp4")})
    keys = [
        cache_key(ClipSource.from_rows(names, [row], ClipReport()).splits["train"], {})
        for names in (["cat", "dog"], ["cat", "owl"], ["cat", "dog"])
    ]
    assert keys[0] == keys[2] != keys[1]


def test_image_and_audio_columns(tmp_path, processor):
    Image.fromarray(moving_frames()[0]).save(tmp_path / "picture.png")
    write_clip(tmp_path / "sound.m4a", None, 10, tone())
    source = make_source({"pair": {"image": tmp_path / "picture.png", "audio": tmp_path / "sound.m4a"}})
    (row,) = extract_features(source, processor)["train"]
    assert len(row["frames"]) == 1
    assert decode_fbank(row["fbank"], MELS).shape[0] > 40
    assert source.report.counts == {}


def test_a_source_of_one_modality_has_none_of_the_other(tmp_path, processor):
    write_clip(tmp_path / "sound.m4a", None, 10, tone())
    source = make_source({"sound": {"audio": tmp_path / "sound.m4a"}})
    (row,) = extract_features(source, processor)["train"]
    assert row["frames"] is None and row["fbank"] is not None
    assert source.report.counts == {}


def odd_clips(folder: Path) -> dict[str, dict[str, Path]]:
    files = make_clips(folder, 1)
    still = np.broadcast_to(np.linspace(0, 255, 32).astype(np.uint8)[:, None], (5, 32, 32, 3))
    write_clip(folder / "soundless.mp4", moving_frames(), 10)
    write_clip(folder / "pictureless.mp4", None, 10, tone())
    write_clip(folder / "silent.mp4", moving_frames(), 10, np.zeros(8000, np.float32))
    write_clip(folder / "still.mp4", still, 10, tone())
    write_clip(folder / "silent_still.mp4", still, 10, np.zeros(8000, np.float32))
    (folder / "corrupt.mp4").write_bytes(b"no container" * 100)
    (folder / "empty.mp4").touch()
    names = ["soundless", "pictureless", "silent", "still", "silent_still", "corrupt", "empty"]
    return files | {name: {"video": folder / f"{name}.mp4"} for name in names}


def test_odd_clips_are_counted_and_the_unusable_left_out(tmp_path, processor):
    files = odd_clips(tmp_path)
    for _ in ("extracted", "from the cache"):
        source = make_source(files)
        features = extract_features(source, processor)["train"]
        assert features["clip_id"][:] == ["clip0", "silent", "still", "silent_still"]
        assert source.report.counts == {
            "train": {"soundless": 1, "pictureless": 1, "silent": 2, "still": 2, "corrupt": 2}
        }
        assert source.report.clip_ids("train", "corrupt") == ["corrupt", "empty"]
        reasons = {problem["clip_id"]: problem["reason"] for problem in source.report.problems}
        assert "empty" in reasons["empty"]


def test_a_row_without_its_picture_is_pictureless(tmp_path, processor):
    Image.fromarray(moving_frames()[0]).save(tmp_path / "picture.png")
    write_clip(tmp_path / "sound.m4a", None, 10, tone())
    both = {"image": tmp_path / "picture.png", "audio": tmp_path / "sound.m4a"}
    source = make_source({"both": both, "heard": both | {"image": None}, "seen": both | {"audio": None}})
    features = extract_features(source, processor)["train"]
    assert features["clip_id"][:] == ["both"]
    assert source.report.counts == {"train": {"pictureless": 1, "soundless": 1}}


def test_each_clip_is_decoded_once(tmp_path, processor):
    files = make_clips(tmp_path)
    first = extract_features(make_source(files), processor)["train"]
    for path in tmp_path.glob("*.mp4"):
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second_source = make_source(files)
    second = extract_features(second_source, processor, num_proc=2)["train"]
    assert second["fbank"][:] == first["fbank"][:] and second._fingerprint == first._fingerprint
    assert second_source.report.counts == {}


def test_the_cache_knows_processor_options_and_clips(tmp_path, processor):
    def key(files, processor=processor, num_frames=4):
        return extract_features(make_source(files), processor, num_frames=num_frames)["train"]._fingerprint

    files = make_clips(tmp_path)
    assert key(files) == key(files)
    other = CavMaeProcessor(processor.feature_extractor, CavMaeImageProcessor(image_size=SIZE + 16))
    keys = {key(files), key(files, num_frames=5), key(files, other), key(dict(list(files.items())[:2]))}
    keys.add(key(dict(reversed(files.items()))))
    assert len(keys) == 5


def test_a_recording_made_anew_is_read_anew(tmp_path, processor):
    """Same name, same length and so, uncompressed, the same size."""
    files = {"sound": {"audio": tmp_path / "sound.wav"}}
    fbanks = []
    for hertz in (440, 880):
        soundfile(tmp_path / "sound.wav", hertz)
        fbanks.append(extract_features(make_source(files), processor)["train"][0]["fbank"])
    assert fbanks[0] != fbanks[1]


def test_other_label_ids_of_the_same_clips(tmp_path, processor):
    files = make_clips(tmp_path, 2)
    rows = [ClipRow(name, "train", f"class {i}", {"video": str(files[name]["video"])}) for i, name in enumerate(files)]
    for names, labels in ((["class 0", "class 1"], [0, 1]), (["class 1", "class 0"], [1, 0])):
        features = extract_features(ClipSource.from_rows(names, rows, ClipReport()), processor)["train"]
        assert features["label"][:] == labels and features.features["label"].names == names


def test_a_saved_processor_has_the_same_parameters(tmp_path, processor):
    processor.save_pretrained(tmp_path)
    assert input_parameters(CavMaeProcessor.from_pretrained(tmp_path)) == input_parameters(processor)


def test_processes_make_the_same_features(tmp_path, processor, monkeypatch):
    files = make_clips(tmp_path, 4)
    alone = extract_features(make_source(files), processor)["train"]
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other")
    together = extract_features(make_source(files), processor, num_proc=2)["train"]
    assert together[:] == alone[:]


def test_spectrogram_of_another_processor_is_refused():
    with pytest.raises(ValueError, match="48 values has no 10 mel bins"):
        decode_fbank(np.zeros(48, np.float16).tobytes(), 10)


@pytest.mark.skipif(not ODD_MEDIA.is_dir(), reason="the odd_media recordings are not at hand")
def test_no_odd_file_stops_the_run(processor):
    files = {path.stem: {"video": path} for path in sorted(ODD_MEDIA.iterdir()) if path.suffix != ".txt"}
    source = make_source(files, "test")
    features = extract_features(source, processor)["test"]
    assert 0 < len(features) < len(files)
    assert len(features) + sum(
        source.report.counts["test"].get(kind, 0) for kind in ("corrupt", "soundless", "pictureless")
    ) == len(files)
