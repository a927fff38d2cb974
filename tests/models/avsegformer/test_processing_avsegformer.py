import json
from pathlib import Path

import numpy as np
import pytest
import torch
from avsegformer_formulas import formula_mask
from PIL import Image
from transformers import AutoFeatureExtractor, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from formulas import formula_picture, formula_waveform
from hf_emktd import (
    AvSegFormerConfig,
    AvSegFormerFeatureExtractor,
    AvSegFormerImageProcessor,
    AvSegFormerProcessor,
)
from hf_emktd.data.media import MediaError, write_clip

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "avsegformer.json").read_text())["preprocessed"]
REAL_CLIPS = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "avsbench" / "clips"
SECOND = 16000
SILENCE = np.float32(np.log(0.01))


@pytest.fixture
def feature_extractor() -> AvSegFormerFeatureExtractor:
    return AvSegFormerFeatureExtractor(num_frames=3)


@pytest.fixture
def image_processor() -> AvSegFormerImageProcessor:
    return AvSegFormerImageProcessor(image_size=32)


@pytest.fixture
def processor(tiny_config) -> AvSegFormerProcessor:
    return AvSegFormerProcessor.from_config(tiny_config())


class TestFeatureExtractor:
    @pytest.mark.parametrize("waveform", sorted(GOLDEN["waveforms"]))
    def test_equals_the_official_spectrogram(self, feature_extractor, waveform):
        """Exactly one example, one sample short of two, and five seconds."""
        log_mel = feature_extractor.log_mel(formula_waveform(GOLDEN["waveforms"][waveform]), SECOND)
        assert log_mel.dtype == np.float32 and log_mel.shape[1:] == (96, 64)
        expected = np.array(GOLDEN["log_mel"][waveform])
        np.testing.assert_allclose(log_mel[:, ::19, ::9], expected, atol=2e-6)

    def test_number_of_examples(self, feature_extractor):
        for samples, examples in ((1, 1), (15599, 1), (15600, 1), (30959, 1), (30960, 2), (5 * SECOND, 5)):
            assert len(feature_extractor.log_mel(formula_waveform(samples), SECOND)) == examples, samples

    def test_a_short_waveform_is_followed_by_silence(self, feature_extractor):
        log_mel = feature_extractor.log_mel(formula_waveform(4000), SECOND)
        assert (log_mel[0, 25:] == SILENCE).all() and (log_mel[0, :20] > SILENCE).any(axis=1).all()

    def test_frames_are_the_first_ones_and_the_last_repeated(self, feature_extractor):
        log_mel = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 96, 64), np.float32)
        assert feature_extractor.fit_frames(log_mel)[:, 0, 0].tolist() == [0, 1, 2]
        assert feature_extractor.fit_frames(log_mel, 6)[:, 0, 0].tolist() == [0, 1, 2, 3, 3, 3]
        with pytest.raises(ValueError, match=r"no example to repeat; pass feature_extractor.silence\(\)"):
            feature_extractor.fit_frames(log_mel[:0])

    def test_silence_is_what_zeros_give(self, feature_extractor):
        zeros = np.zeros(3 * SECOND, dtype=np.float32)
        values = feature_extractor(zeros, SECOND, return_tensors="np").input_values
        np.testing.assert_array_equal(values[0], feature_extractor.silence())
        assert feature_extractor.silence(7).shape == (7, 96, 64) and feature_extractor.silence().dtype == np.float32

    def test_batches(self, feature_extractor):
        one, other = formula_waveform(2 * SECOND), formula_waveform(4 * SECOND)
        expected = [feature_extractor(waveform, SECOND)["input_values"][0] for waveform in (one, other)]
        batch = feature_extractor([one, torch.from_numpy(other)], SECOND, return_tensors="np").input_values
        assert batch.shape == (2, 3, 96, 64) and batch.dtype == np.float32
        np.testing.assert_array_equal(batch, expected)
        assert feature_extractor(
            np.stack([one] * 2), SECOND, num_frames=2, return_tensors="pt"
        ).input_values.shape == (
            2,
            2,
            96,
            64,
        )

    @pytest.mark.parametrize(
        ("waveform", "rate", "message"),
        [
            (np.zeros(800, dtype=np.float32), None, r"sampling_rate was not given.*16000"),
            (np.zeros(800, dtype=np.float32), 44100, r"44100 Hz.*16000 Hz; pass resample=True"),
            (np.zeros(0, dtype=np.float32), 16000, r"no samples; pass feature_extractor.silence\(\)"),
            (np.zeros(800, dtype=np.int16), 16000, "floating point.*int16; divide 16-bit PCM by 32768"),
            (np.zeros((1, 2, 800), dtype=np.float32), 16000, r"mono.*is \(2, 800\); average the channels"),
        ],
    )
    def test_wrong_waveforms_are_refused(self, feature_extractor, waveform, rate, message):
        with pytest.raises(ValueError, match=message):
            feature_extractor(waveform, rate)

    def test_resampling_on_request_keeps_the_tone(self, feature_extractor):
        original, resampled = (
            feature_extractor.log_mel(
                np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32), rate, resample=True
            )
            for rate in (SECOND, 44100)
        )
        middle = slice(5, 90)
        assert (resampled[0, middle].argmax(axis=1) == original[0, middle].argmax(axis=1)).all()

    def test_a_frame_is_needed(self):
        with pytest.raises(ValueError, match="num_frames must be a whole number from 1 to 4,096 but is 0"):
            AvSegFormerFeatureExtractor(num_frames=0)


class TestImageProcessor:
    @pytest.mark.parametrize("picture", sorted(GOLDEN["pictures"]))
    def test_equals_the_official_loader(self, picture):
        """Pictures wider and higher than a square, and their masks, at the official 512."""
        processor, size = AvSegFormerImageProcessor(), GOLDEN["pictures"][picture]
        values = processor(formula_picture(*size), return_tensors="pt").pixel_values
        assert values.shape == (1, 1, 3, 512, 512) and values.dtype == torch.float32
        expected = torch.tensor(GOLDEN["pixel_values"][picture])
        torch.testing.assert_close(values[0, 0, :, ::73, ::73], expected, atol=2e-6, rtol=0)
        mask = processor.resize_mask(Image.fromarray(formula_mask(*size)))
        assert mask.shape == (512, 512) and mask.dtype == np.uint8
        assert mask[::37, ::37].tolist() == GOLDEN["masks"][picture]

    def test_steps_make_up_the_call(self, image_processor):
        picture = formula_picture(50, 40)
        resized = image_processor.resize(picture)
        assert resized.mode == "RGB" and resized.size == (32, 32)
        np.testing.assert_array_equal(
            image_processor(picture)["pixel_values"][0][0], image_processor.to_pixel_values(resized)
        )

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I"])
    def test_masks_of_any_mode(self, image_processor, mode):
        mask = formula_mask(32, 32)
        expected = (mask > 0).astype(np.uint8)
        np.testing.assert_array_equal(image_processor.resize_mask(Image.fromarray(mask).convert(mode)), expected)

    def test_masks_of_zero_and_one_and_of_palette_indices(self, image_processor):
        mask = (formula_mask(32, 32) > 0).astype(np.uint8)
        np.testing.assert_array_equal(image_processor.resize_mask(Image.fromarray(mask)), mask)
        coloured = Image.fromarray(mask)
        coloured.putpalette([0, 0, 0, 128, 0, 0])
        np.testing.assert_array_equal(image_processor.resize_mask(coloured), mask)

    def test_clips_and_batches(self, image_processor):
        picture = formula_picture(40, 50)
        one = image_processor(picture, return_tensors="np").pixel_values[0, 0]
        for clip in ([picture, Image.fromarray(picture)], np.stack([picture] * 2)):
            values = image_processor(clip, return_tensors="np").pixel_values
            np.testing.assert_array_equal(values, [[one, one]])
        for batch in ([[picture] * 2] * 3, [np.stack([picture] * 2)] * 3, np.stack([np.stack([picture] * 2)] * 3)):
            assert image_processor(batch, return_tensors="np").pixel_values.shape == (3, 2, 3, 32, 32)

    @pytest.mark.parametrize("images", [[], [[]], np.zeros((0, 8, 8, 3), np.uint8)])
    def test_a_clip_has_a_frame(self, image_processor, images):
        with pytest.raises(ValueError, match="at least one frame, but there is none"):
            image_processor(images)

    @pytest.mark.parametrize("picture", [np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8)])
    def test_other_arrays_are_refused(self, image_processor, picture):
        with pytest.raises(ValueError, match=r"uint8 array of shape \(height, width, 3\) but is"):
            image_processor(picture)

    @pytest.mark.parametrize("channels", ["first", "last"])
    def test_tensors_are_pictures_as_arrays_are(self, image_processor, channels):
        picture = formula_picture(40, 50)
        tensor = torch.tensor(picture)
        tensor = tensor.permute(2, 0, 1) if channels == "first" else tensor
        one = image_processor(picture)["pixel_values"][0][0]
        made = {
            (1, 1): tensor,
            (1, 2): torch.stack([tensor] * 2),
            (1, 3): [tensor, picture, tensor],
            (2, 4): [torch.stack([tensor] * 4)] * 2,
            (3, 2): torch.stack([torch.stack([tensor] * 2)] * 3),
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
    def test_inputs_fit_the_model(self, processor, tiny_model):
        inputs = processor(
            audio=formula_waveform(3 * SECOND),
            images=np.stack([formula_picture(20, 30)] * 3),
            sampling_rate=SECOND,
            return_tensors="pt",
        )
        assert {name: tuple(values.shape[1:]) for name, values in inputs.items()} == tiny_model.config.input_shapes
        assert tiny_model(**inputs).logits.shape == (1, 3, 64, 64)

    def test_as_many_examples_as_pictures(self, processor):
        sound, pictures = formula_waveform(6 * SECOND), np.stack([formula_picture(20, 30)] * 5)
        for num_frames, examples in ((None, 5), (2, 2)):
            inputs = processor(
                audio=sound, images=pictures, sampling_rate=SECOND, num_frames=num_frames, return_tensors="pt"
            )
            assert inputs.input_values.shape[1] == examples and inputs.pixel_values.shape[1] == 5
        assert processor(audio=sound, sampling_rate=SECOND, return_tensors="pt").input_values.shape[1] == 3

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

    def test_masks_of_the_pictures_own_sizes(self, processor):
        logits = torch.full((2, 3, 64, 64), -1.0)
        logits[0, 1, :, 32:] = 1
        first, second = processor.post_process_masks(logits, [(20, 40), (7, 9)])
        assert (first.dtype, first.shape, second.shape) == (np.dtype(bool), (3, 20, 40), (3, 7, 9))
        assert first[1, :, 20:].all() and first.sum() == 20 * 20 and not second.any()

    def test_masks_at_a_threshold(self, processor):
        logits = torch.tensor([0.2, 0.5, 0.8]).logit().view(1, 1, 1, 3)
        assert processor.post_process_masks(logits)[0].tolist() == [[[False, False, True]]]
        assert processor.post_process_masks(logits, threshold=0.1)[0].all()

    def test_target_sizes_must_be_one_a_clip(self, processor):
        with pytest.raises(ValueError, match=r"one \(height, width\) a clip, 2, got 1"):
            processor.post_process_masks(torch.zeros(2, 1, 4, 4), [(4, 4)])

    def test_saved_and_loaded_with_the_model(self, tiny_model, tmp_path):
        processor = AvSegFormerProcessor(
            AvSegFormerFeatureExtractor(num_frames=2),
            AvSegFormerImageProcessor(image_size=64, image_mean=[0.5] * 3, image_std=[0.25] * 3),
        )
        tiny_model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        loaded = AutoProcessor.from_pretrained(tmp_path)
        assert type(loaded) is AvSegFormerProcessor
        assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
        assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
        assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is AvSegFormerFeatureExtractor
        assert type(AutoImageProcessor.from_pretrained(tmp_path)) is AvSegFormerImageProcessor

    def test_sizes_follow_the_configuration(self):
        processor = AvSegFormerProcessor.from_config(AvSegFormerConfig(image_size=224, num_frames=10))
        extractor = processor.feature_extractor
        assert (extractor.num_frames, extractor.sampling_rate, extractor.feature_size) == (10, 16000, 64)
        assert processor.image_processor.image_size == 224


class TestClips:
    @pytest.fixture
    def frames(self) -> np.ndarray:
        """Three seconds of sixteen grey pictures, each a little brighter than the one before."""
        return np.repeat(np.arange(20, 212, 4, dtype=np.uint8), 32 * 48 * 3).reshape(48, 32, 48, 3)

    @pytest.fixture
    def clip(self, frames, tmp_path) -> Path:
        write_clip(tmp_path / "clip.mp4", frames, 16, formula_waveform(3 * 44100, 44100), 44100)
        return tmp_path / "clip.mp4"

    def test_the_last_of_sixteen_frames_of_each_second(self, processor, clip):
        pixel_values = processor(clips=clip, return_tensors="pt").pixel_values
        brightness = (pixel_values[0, :, 0, 8, 8] * 0.229 + 0.485) * 255
        expected = 20.0 + 4 * torch.tensor([15, 31, 47])
        torch.testing.assert_close(brightness, expected, atol=4, rtol=0)

    def test_after_the_end_the_last_frame_and_sound_are_repeated(self, processor, clip):
        inputs = processor(clips=[clip, str(clip)], num_frames=5, return_tensors="pt")
        assert inputs.pixel_values.shape == (2, 5, 3, 64, 64) and inputs.input_values.shape == (2, 5, 96, 64)
        assert torch.equal(inputs.pixel_values[:, 4], inputs.pixel_values[:, 2])
        assert torch.equal(inputs.input_values[:, 4], inputs.input_values[:, 3])

    def test_a_clip_without_sound_is_silent(self, processor, frames, tmp_path):
        write_clip(tmp_path / "soundless.mp4", frames, 16)
        values = processor(clips=tmp_path / "soundless.mp4", return_tensors="np").input_values
        np.testing.assert_array_equal(values[0], processor.feature_extractor.silence())

    def test_a_clip_without_picture_is_refused(self, processor, tmp_path):
        write_clip(tmp_path / "pictureless.mp4", None, 16, formula_waveform(16000))
        with pytest.raises(ValueError, match=r"pictureless.mp4 has no picture.*leave the clip out"):
            processor(clips=tmp_path / "pictureless.mp4")

    def test_broken_clip_is_a_media_error(self, processor, tmp_path):
        (tmp_path / "broken.mp4").write_bytes(b"no film")
        with pytest.raises(MediaError, match=r"broken.mp4"):
            processor(clips=tmp_path / "broken.mp4")

    @pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="real recordings are not at hand")
    def test_real_clips(self, processor, tiny_model):
        inputs = processor(clips=sorted(REAL_CLIPS.glob("*.mp4")), num_frames=5, return_tensors="pt")
        assert inputs.input_values.std() > 0.5 and tiny_model(**inputs).logits.isfinite().all()
