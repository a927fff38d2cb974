import json
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from cav_mae_formulas import formula_picture, formula_waveform
from packaging.version import Version
from PIL import Image
from transformers import AutoFeatureExtractor, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils.constants import IMAGENET_DEFAULT_STD

from hf_emktd import CavMaeConfig, CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor
from hf_emktd.data.media import MediaError, write_clip

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "cav_mae.json").read_text())["preprocessed"]
CLIPS = sorted(GOLDEN["clips"])
SECOND = 16000
# before 13, Pillow rounds many pixels of a reduced picture to the next of 256 levels
LEVEL = 1 / 255 / min(IMAGENET_DEFAULT_STD)
PIXEL_TOLERANCE = 2e-6 if Version(PIL.__version__) >= Version("13") else LEVEL + 2e-6


@pytest.fixture
def feature_extractor() -> CavMaeFeatureExtractor:
    return CavMaeFeatureExtractor(audio_length=64)


@pytest.fixture
def image_processor() -> CavMaeImageProcessor:
    return CavMaeImageProcessor(image_size=32)


@pytest.fixture
def processor(tiny_config) -> CavMaeProcessor:
    return CavMaeProcessor.from_config(tiny_config())


class TestFeatureExtractor:
    @pytest.mark.parametrize("clip", CLIPS)
    def test_equals_the_official_loader(self, feature_extractor, clip):
        """Waveforms shorter and longer than the target, and one of a single frame."""
        waveform = formula_waveform(GOLDEN["clips"][clip]["samples"])
        values = feature_extractor(waveform, SECOND, return_tensors="pt").input_values
        assert values.shape == (1, 64, 128) and values.dtype == torch.float32
        expected = torch.tensor(GOLDEN["input_values"][clip])
        torch.testing.assert_close(values[0, ::5, ::9], expected, atol=1e-4, rtol=0)

    def test_number_of_frames(self, feature_extractor):
        # one frame per 10 ms shift of a 25 ms window that fits entirely
        for samples, frames in ((400, 1), (559, 1), (560, 2), (10000, 61), (16000, 64)):
            assert feature_extractor.extract_fbank(formula_waveform(samples), SECOND).shape == (frames, 128)

    def test_cutting_before_the_filter_bank_changes_nothing(self):
        """Only frames that are kept are computed, from a waveform whose mean is the whole clip's."""
        waveform = formula_waveform(3 * SECOND)
        whole = CavMaeFeatureExtractor(audio_length=1024).extract_fbank(waveform, SECOND)
        cut = CavMaeFeatureExtractor(audio_length=50).extract_fbank(waveform, SECOND)
        np.testing.assert_array_equal(cut, whole[:50])

    def test_padding_comes_before_normalising(self, feature_extractor):
        values = feature_extractor(formula_waveform(8000), SECOND, return_tensors="np").input_values[0]
        assert values[48:] == pytest.approx(5.081 / 4.4849)
        assert (values[:48] != values[48, 0]).all()

    def test_steps_make_up_the_call(self, feature_extractor):
        fbank = feature_extractor.extract_fbank(formula_waveform(8000), SECOND)
        steps = feature_extractor.normalize(feature_extractor.pad_or_cut(fbank))
        np.testing.assert_array_equal(feature_extractor(formula_waveform(8000), SECOND)["input_values"][0], steps)
        assert feature_extractor.pad_or_cut(np.ones((70, 2), dtype=np.float16)).shape == (64, 2)

    def test_shorter_than_one_window_is_padded_to_one_frame(self, feature_extractor):
        fbank = feature_extractor.extract_fbank(formula_waveform(100), SECOND)
        assert fbank.shape == (1, 128) and np.isfinite(fbank).all()

    def test_silence_is_the_logarithm_of_epsilon(self, feature_extractor):
        fbank = feature_extractor.extract_fbank(np.zeros(8000, dtype=np.float32), SECOND)
        assert fbank == pytest.approx(np.log(np.finfo(np.float32).eps))

    def test_batches(self, feature_extractor):
        one, other = formula_waveform(8000), formula_waveform(9000)
        expected = [feature_extractor(waveform, SECOND)["input_values"][0] for waveform in (one, other)]
        batch = feature_extractor([one, torch.from_numpy(other)], SECOND, return_tensors="np").input_values
        np.testing.assert_array_equal(batch, expected)
        array = feature_extractor(np.stack([one, one]), SECOND, return_tensors="np").input_values
        np.testing.assert_array_equal(array, [expected[0]] * 2)
        plain = feature_extractor(one.tolist(), SECOND, return_tensors="np").input_values
        np.testing.assert_array_equal(plain, expected[:1])

    @pytest.mark.parametrize(
        ("waveform", "rate", "message"),
        [
            (np.zeros(800, dtype=np.float32), None, r"sampling_rate was not given.*16000"),
            (np.zeros(800, dtype=np.float32), 44100, r"44100 Hz.*16000 Hz; pass resample=True"),
            (np.zeros(0, dtype=np.float32), 16000, "no samples; leave audio out"),
            (np.zeros(800, dtype=np.int16), 16000, "floating point.*int16; divide 16-bit PCM by 32768"),
            (np.zeros((1, 2, 800), dtype=np.float32), 16000, r"mono.*is \(2, 800\)"),
        ],
    )
    def test_wrong_waveforms_are_refused(self, feature_extractor, waveform, rate, message):
        with pytest.raises(ValueError, match=message):
            feature_extractor(waveform, rate)

    def test_resampling_on_request_keeps_the_tone(self, feature_extractor):
        """1000 Hz stays in the same mel bin, at the same level."""
        original, resampled = (
            feature_extractor.extract_fbank(
                np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32), rate, resample=True
            )
            for rate in (SECOND, 44100)
        )
        assert (resampled.argmax(axis=1) == original.argmax(axis=1)).all()
        assert resampled.max(axis=1) == pytest.approx(original.max(axis=1), abs=0.05)

    def test_std_must_be_positive(self):
        with pytest.raises(ValueError, match=r"std must be positive, .* but they are 0, "):
            CavMaeFeatureExtractor(std=0)


class TestImageProcessor:
    @pytest.mark.parametrize("clip", CLIPS)
    def test_equals_the_official_loader(self, image_processor, clip):
        """Pictures wider and higher than a square, reduced and enlarged, with an odd number of pixels to crop."""
        values = image_processor(formula_picture(*GOLDEN["clips"][clip]["picture"]), return_tensors="pt").pixel_values
        assert values.shape == (1, 3, 32, 32) and values.dtype == torch.float32
        expected = torch.tensor(GOLDEN["pixel_values"][clip])
        torch.testing.assert_close(values[0, :, ::5, ::5], expected, atol=PIXEL_TOLERANCE, rtol=0)

    def test_steps_make_up_the_call(self, image_processor):
        picture = formula_picture(50, 40)
        cropped = image_processor.resize_and_crop(picture)
        assert cropped.mode == "RGB" and cropped.size == (32, 32)
        steps = image_processor.to_pixel_values(cropped)
        np.testing.assert_array_equal(image_processor(picture)["pixel_values"][0], steps)

    def test_normalisation_by_hand(self):
        values = CavMaeImageProcessor(image_size=1).to_pixel_values(np.array([[[255, 0, 51]]], dtype=np.uint8))
        expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
        assert values[:, 0, 0].tolist() == pytest.approx(expected, rel=1e-6)

    def test_a_picture_of_the_right_size_is_left_alone(self, image_processor):
        picture = formula_picture(32, 32)
        np.testing.assert_array_equal(image_processor.resize_and_crop(picture), picture)

    def test_of_a_strip_the_middle_is_resized(self, image_processor):
        picture = np.zeros((1, 60_000, 3), np.uint8)
        picture[:, 29_000:31_000] = 255
        for strip in (picture, picture.transpose(1, 0, 2)):
            assert np.asarray(image_processor.resize_and_crop(strip)).min() == 255

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
    def test_other_colour_modes_become_rgb(self, image_processor, mode):
        picture = Image.fromarray(formula_picture(40, 40)).convert(mode)
        expected = image_processor(picture.convert("RGB"))["pixel_values"][0]
        np.testing.assert_array_equal(image_processor(picture)["pixel_values"][0], expected)

    def test_batches_and_frames(self, image_processor):
        picture = formula_picture(40, 50)
        one = image_processor(picture)["pixel_values"][0]
        listed = image_processor([picture, Image.fromarray(picture)], return_tensors="np").pixel_values
        np.testing.assert_array_equal(listed, [one, one])
        frames = image_processor([np.stack([picture] * 4)] * 2, return_tensors="np").pixel_values
        np.testing.assert_array_equal(frames, [[one] * 4] * 2)
        assert image_processor(np.stack([picture] * 2), return_tensors="np").pixel_values.shape == (2, 3, 32, 32)

    @pytest.mark.parametrize(
        "picture",
        [
            np.zeros((8, 8, 3), dtype=np.float32),
            np.zeros((3, 8, 8), dtype=np.uint8),
            np.zeros((0, 8, 3), dtype=np.uint8),
        ],
    )
    def test_other_arrays_are_refused(self, image_processor, picture):
        with pytest.raises(ValueError, match=r"uint8 array of shape \(height, width, 3\) but is"):
            image_processor(picture)

    @pytest.mark.parametrize("channels", ["first", "last"])
    def test_tensors_are_pictures_as_arrays_are(self, image_processor, channels):
        picture = formula_picture(40, 50)
        tensor = torch.tensor(picture)
        tensor = tensor.permute(2, 0, 1) if channels == "first" else tensor
        one = image_processor(picture)["pixel_values"][0]
        made = {
            (1,): tensor,
            (2,): torch.stack([tensor] * 2),
            (3,): [tensor, picture, tensor],
            (2, 4): [torch.stack([tensor] * 4)] * 2,
            (1, 2): torch.stack([tensor] * 2)[None],
        }
        for shape, images in made.items():
            values = image_processor(images, return_tensors="np").pixel_values
            np.testing.assert_array_equal(values, np.broadcast_to(one, (*shape, *one.shape)))

    @pytest.mark.parametrize(
        "images",
        [
            torch.zeros(3, 8, 8),
            torch.zeros(8, 8, 8, dtype=torch.uint8),
            torch.zeros(1, 8, 8, dtype=torch.uint8),
            list(torch.zeros(3, 8, 8, dtype=torch.uint8)),
            [torch.zeros(3, 8, 8, dtype=torch.bfloat16)],
        ],
    )
    def test_other_tensors_are_refused(self, image_processor, images):
        with pytest.raises(ValueError, match=r"end with \(3, height, width\) or \(height, width, 3\) but is"):
            image_processor(images)


class TestProcessor:
    def test_both_inputs(self, processor):
        inputs = processor(
            audio=formula_waveform(8000), images=formula_picture(20, 30), sampling_rate=SECOND, return_tensors="pt"
        )
        assert {name: tuple(values.shape) for name, values in inputs.items()} == {
            "input_values": (1, 32, 16),
            "pixel_values": (1, 3, 16, 16),
        }

    def test_one_input_alone(self, processor):
        assert set(processor(images=formula_picture(20, 30))) == {"pixel_values"}
        assert set(processor(audio=formula_waveform(8000), sampling_rate=SECOND)) == {"input_values"}

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "nothing to process; pass audio, images or clips"),
            ({"clips": "a.mp4", "audio": np.zeros(9)}, "pass either clips or audio and images"),
            ({"audio": np.zeros(800)}, "sampling_rate was not given"),
            ({"audio": np.zeros(800), "sampling_rate": 8000}, "pass resample=True"),
        ],
    )
    def test_wrong_calls_are_refused(self, processor, inputs, message):
        with pytest.raises(ValueError, match=message):
            processor(**inputs)

    @pytest.mark.parametrize(
        ("modality", "taken", "refused"),
        [("audio", "audio", {"images": formula_picture(20, 30)}), ("visual", "images", {"audio": np.zeros(800)})],
    )
    def test_one_modality_takes_nothing_of_the_other(self, tiny_config, modality, taken, refused):
        processor = CavMaeProcessor.from_config(tiny_config(modalities=[modality]))
        with pytest.raises(ValueError, match=f"takes no {next(iter(refused))}; pass {taken} alone"):
            processor(**refused, sampling_rate=SECOND)
        with pytest.raises(ValueError, match=f"nothing to process; pass {taken} or clips"):
            processor()

    @pytest.mark.parametrize("modalities", [[], ["sound"]])
    def test_unknown_modalities_are_refused(self, modalities):
        with pytest.raises(ValueError, match="modalities must name audio, visual or both"):
            CavMaeProcessor(CavMaeFeatureExtractor(), CavMaeImageProcessor(), modalities)

    def test_resampling_on_request(self, processor):
        inputs = processor(audio=formula_waveform(8000), sampling_rate=8000, resample=True, return_tensors="pt")
        assert inputs.input_values.shape == (1, 32, 16)

    def test_sizes_follow_the_configuration(self):
        processor = CavMaeProcessor.from_config(CavMaeConfig(audio_length=128, num_mel_bins=64, image_size=112))
        extractor = processor.feature_extractor
        assert (extractor.audio_length, extractor.num_mel_bins, extractor.feature_size) == (128, 64, 64)
        assert processor.image_processor.image_size == 112

    def test_saved_and_loaded_with_the_model(self, tiny_model, tmp_path):
        processor = CavMaeProcessor(
            CavMaeFeatureExtractor(num_mel_bins=16, audio_length=32, sampling_rate=8000, mean=-3.0, std=2.0),
            CavMaeImageProcessor(image_size=16, image_mean=[0.5] * 3, image_std=[0.25] * 3),
        )
        tiny_model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is CavMaeProcessor
        assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
        assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
        sound, picture = formula_waveform(4000), formula_picture(20, 30)
        before, after = (each(audio=sound, images=picture, sampling_rate=8000) for each in (processor, loaded))
        np.testing.assert_array_equal(after["input_values"], before["input_values"])
        np.testing.assert_array_equal(after["pixel_values"], before["pixel_values"])
        assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is CavMaeFeatureExtractor
        assert type(AutoImageProcessor.from_pretrained(tmp_path)) is CavMaeImageProcessor


class TestClips:
    @pytest.fixture
    def frames(self) -> np.ndarray:
        """Twenty grey pictures, each a little brighter."""
        return np.repeat(np.arange(20, 220, 10, dtype=np.uint8), 32 * 48 * 3).reshape(20, 32, 48, 3)

    @pytest.fixture
    def clip(self, frames, tmp_path) -> Path:
        return self.write(tmp_path / "clip.mp4", frames, formula_waveform(2 * 44100, 44100))

    def write(self, path: Path, frames: np.ndarray | None, waveform: np.ndarray | None) -> Path:
        write_clip(path, frames, 10, waveform, 44100)
        return path

    def brightness(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return (pixel_values[..., 0, 8, 8] * 0.229 + 0.485) * 255

    def test_middle_frame_and_sound_at_the_models_rate(self, processor, clip):
        inputs = processor(clips=clip, return_tensors="pt")
        assert inputs.input_values.shape == (1, 32, 16) and inputs.pixel_values.shape == (1, 3, 16, 16)
        # frames 0, 2, ... 18 are taken, and of these the sixth: 20 + 10 * 10
        assert self.brightness(inputs.pixel_values).item() == pytest.approx(120, abs=4)

    def test_several_frames(self, processor, clip):
        pixel_values = processor(clips=[str(clip), clip], num_frames=10, return_tensors="pt").pixel_values
        assert pixel_values.shape == (2, 10, 3, 16, 16)
        expected = torch.arange(20.0, 220, 20).repeat(2, 1)
        torch.testing.assert_close(self.brightness(pixel_values), expected, atol=4, rtol=0)

    def test_no_frames_are_refused(self, processor, clip):
        with pytest.raises(ValueError, match="num_frames"):
            processor(clips=clip, num_frames=0)

    def test_model_runs_on_a_clip(self, processor, clip, tiny_model):
        assert tiny_model(**processor(clips=clip, return_tensors="pt")).logits.shape == (1, 5)

    def test_absent_modality_is_an_absent_key(self, processor, frames, tmp_path):
        soundless = self.write(tmp_path / "soundless.mp4", frames, None)
        pictureless = self.write(tmp_path / "pictureless.mp4", None, formula_waveform(44100, 44100))
        assert set(processor(clips=soundless)) == {"pixel_values"}
        assert set(processor(clips=pictureless)) == {"input_values"}

    @pytest.mark.parametrize(("modality", "name"), [("audio", "input_values"), ("visual", "pixel_values")])
    def test_one_modality_reads_its_own_stream(self, clip, tiny_config, frames, tmp_path, modality, name):
        config = tiny_config(modalities=[modality])
        CavMaeProcessor.from_config(config).save_pretrained(tmp_path)
        processor = CavMaeProcessor.from_pretrained(tmp_path)
        assert set(processor(clips=clip)) == {name} == set(processor.model_input_names)
        both = CavMaeProcessor.from_config(tiny_config())(clips=clip)
        np.testing.assert_array_equal(processor(clips=clip)[name], both[name])
        sound = None if modality == "audio" else formula_waveform(44100, 44100)
        lacking = self.write(tmp_path / "lacking.mp4", frames if modality == "audio" else None, sound)
        with pytest.raises(ValueError, match="nothing to process"):
            processor(clips=lacking)

    def test_one_batch_cannot_mix(self, processor, frames, clip, tmp_path):
        soundless = self.write(tmp_path / "soundless.mp4", frames, None)
        with pytest.raises(
            ValueError, match=r"1 of 2 clips have no sound \(.*soundless.mp4\); process them in a call"
        ):
            processor(clips=[clip, soundless])

    def test_broken_clip_is_a_media_error(self, processor, tmp_path):
        (tmp_path / "broken.mp4").write_bytes(b"no film")
        with pytest.raises(MediaError, match=r"broken.mp4"):
            processor(clips=tmp_path / "broken.mp4")
