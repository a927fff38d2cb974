"""Views of clips: the official recipe, replay from a seed, teacher and student on the same view."""

import pickle
from io import BytesIO

import numpy as np
import pytest
import torch
import torchaudio
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from torch.utils.data import DataLoader
from transformers import HfArgumentParser

from hf_emktd.data.augmentation import AugmentationArguments, ClipTransform, balanced_sample_weights, mix_fbanks
from hf_emktd.data.collators import AudioVisualCollator
from hf_emktd.data.features import decode_fbank
from hf_emktd.models.cav_mae import CavMaeFeatureExtractor, CavMaeImageProcessor, CavMaeProcessor

FRAMES, MELS, SIZE = 32, 16, 16
OFF = {"freq_mask_bins": 0, "time_mask_frames": 0, "noise": False, "roll": False, "mixup_probability": 0.0}


def make_processor(audio_length=FRAMES, num_mel_bins=MELS, image_size=SIZE, **audio) -> CavMaeProcessor:
    return CavMaeProcessor(
        CavMaeFeatureExtractor(num_mel_bins=num_mel_bins, audio_length=audio_length, **audio),
        CavMaeImageProcessor(image_size=image_size),
    )


def jpeg(level: int, size: int = SIZE) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (size, size), (level, level, level)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def make_row(clip_id="clip", label=0, frames=FRAMES, levels=(0, 50, 100, 150), seed=0) -> dict:
    fbank = np.random.default_rng(seed).normal(-5, 4, (frames, MELS)).astype(np.float16)
    return {"clip_id": clip_id, "label": label, "fbank": fbank.tobytes(), "frames": [jpeg(v) for v in levels]}


def make_features(count=6, num_labels=3, **row) -> Dataset:
    features = Features(
        {
            "clip_id": Value("string"),
            "label": ClassLabel(names=[f"class {k}" for k in range(num_labels)]),
            "fbank": Value("binary"),
            "frames": List(Value("binary")),
        }
    )
    rows = [make_row(f"clip{i}", i % num_labels, seed=i, **row) for i in range(count)]
    return Dataset.from_list(rows, features=features)


def grey_level(pixel_values: np.ndarray) -> float:
    """Grey level 0 to 255 of the picture's first channel."""
    return float((pixel_values[0] * 0.229 + 0.485).mean() * 255)


def test_defaults_are_the_official_recipe():
    transform = ClipTransform(
        CavMaeProcessor(CavMaeFeatureExtractor(), CavMaeImageProcessor()),
        AugmentationArguments(),
        partners=make_features(),
    )
    assert (transform.freq_mask_bins, transform.time_mask_frames) == (48, 192)
    arguments = AugmentationArguments()
    assert arguments.random_frame and arguments.noise and arguments.roll
    assert (arguments.mixup_probability, arguments.mixup_alpha) == (0.5, 10.0)


def test_masks_shrink_with_the_input():
    transform = ClipTransform(make_processor(96, 64), AugmentationArguments(mixup_probability=0.0))
    assert (transform.freq_mask_bins, transform.time_mask_frames) == (24, 18)


def test_arguments_come_from_the_command_line():
    parser = HfArgumentParser(AugmentationArguments)
    (default,) = parser.parse_args_into_dataclasses([])
    (changed,) = parser.parse_args_into_dataclasses(
        ["--freq_mask_bins", "7", "--no_noise", "--mixup_probability", "0"]
    )
    assert default == AugmentationArguments()
    assert changed == AugmentationArguments(freq_mask_bins=7, noise=False, mixup_probability=0.0)
    assert "--time_mask_frames" in parser.format_help()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_probability": 1.2}, r"\[0, 1\], got 1.2"),
        ({"mixup_alpha": 0.0}, "mixup_alpha must be positive"),
        ({"time_mask_frames": -1}, "time_mask_frames must be 0"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentationArguments(**options)


def test_balanced_sample_weights_by_hand():
    weights = balanced_sample_weights([0, 2, 2, 0, 2], num_labels=4)
    np.testing.assert_allclose(weights, [1000 / 2.01, 1000 / 3.01, 1000 / 3.01, 1000 / 2.01, 1000 / 3.01])


def test_balanced_sample_weights_refuse_unknown_labels():
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 2"):
        balanced_sample_weights([0, 2], num_labels=2)


def test_evaluation_view_is_pad_or_cut_then_normalise():
    processor = make_processor()
    row = make_row(frames=20)
    view = ClipTransform(processor).view(row, 0)
    stored = decode_fbank(row["fbank"], MELS)
    expected = np.concatenate([stored, np.zeros((FRAMES - 20, MELS))])
    np.testing.assert_allclose(view["input_values"], (expected + 5.081) / 4.4849, atol=1e-6)
    assert view["input_values"].dtype == view["pixel_values"].dtype == np.float32
    assert (view["label"], view["clip_id"]) == (0, "clip")
    assert view["pixel_values"].shape == (3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("frame_index", "levels", "expected"),
    [
        (None, (0, 50, 100, 150), 100),
        (None, (0, 50, 100), 50),
        (None, (80,), 80),
        (0, (0, 50, 100, 150), 0),
        (3, (0, 50, 100, 150), 150),
        (9, (0, 50, 100), 100),
    ],
)
def test_evaluation_frame(frame_index, levels, expected):
    view = ClipTransform(make_processor(), frame_index=frame_index).view(make_row(levels=levels), 0)
    assert grey_level(view["pixel_values"]) == pytest.approx(expected, abs=1)


def test_random_frames_reach_every_stored_frame():
    transform = ClipTransform(make_processor(), AugmentationArguments(random_frame=True, **OFF))
    row = make_row()
    levels = {round(grey_level(transform.view(row, seed)["pixel_values"]), -1) for seed in range(60)}
    assert levels == {0, 50, 100, 150}


def test_masks_are_zero_before_normalisation_and_have_torchaudios_widths():
    processor = make_processor()
    arguments = AugmentationArguments(
        random_frame=False, freq_mask_bins=6, time_mask_frames=8, noise=False, roll=False, mixup_probability=0.0
    )
    transform = ClipTransform(processor, arguments)
    row = make_row()
    padding = np.float32(5.081) / np.float32(4.4849)
    widths = []
    for seed in range(400):
        masked = transform.view(row, seed)["input_values"] == padding
        bins, frames = np.flatnonzero(masked.all(axis=0)), np.flatnonzero(masked.all(axis=1))
        for run in (bins, frames):
            assert len(run) == 0 or run[-1] - run[0] + 1 == len(run)
        widths.append((len(bins), len(frames)))
    bins, frames = np.array(widths).T
    assert set(bins) == set(range(6)) and set(frames) == set(range(8))
    torch.manual_seed(0)
    official = [
        int((torchaudio.transforms.TimeMasking(8)(torch.ones(1, MELS, FRAMES))[0, 0] == 0).sum()) for _ in range(400)
    ]
    assert frames.mean() == pytest.approx(np.mean(official), abs=0.5) == pytest.approx(3.5, abs=0.5)


def test_mask_larger_than_the_input_is_refused():
    with pytest.raises(ValueError, match="freq_mask_bins=17 is more than the input's 16"):
        ClipTransform(make_processor(), AugmentationArguments(freq_mask_bins=17, mixup_probability=0.0))


def test_noise_is_uniform_of_a_random_level_after_normalisation():
    processor = make_processor()
    transform = ClipTransform(processor, AugmentationArguments(**{**OFF, "random_frame": False, "noise": True}))
    row = make_row()
    clean = ClipTransform(processor).view(row, 0)["input_values"]
    levels = []
    for seed in range(100):
        noise = transform.view(row, seed)["input_values"] - clean
        assert noise.min() >= -1e-5 and noise.max() <= 0.1 + 1e-5
        # the mean of U[0, level) is level / 2
        levels.append(2 * noise.mean())
    assert np.mean(levels) == pytest.approx(0.05, abs=0.01)
    assert np.std(levels) == pytest.approx(0.1 / np.sqrt(12), rel=0.2)


def test_roll_is_circular_and_uniform():
    processor = make_processor()
    transform = ClipTransform(processor, AugmentationArguments(**{**OFF, "random_frame": False, "roll": True}))
    row = make_row()
    clean = ClipTransform(processor).view(row, 0)["input_values"]
    shifts = set()
    for seed in range(300):
        rolled = transform.view(row, seed)["input_values"]
        shift = int(np.flatnonzero((rolled == clean[0]).all(axis=1))[0])
        np.testing.assert_array_equal(rolled, np.roll(clean, shift, axis=0))
        shifts.add(shift)
    assert shifts == set(range(FRAMES))


def test_official_order_mask_normalise_noise_roll():
    """Replays the view's own random choices through the official chain, written out."""
    processor = make_processor()
    arguments = AugmentationArguments(random_frame=False, mixup_probability=0.0)
    row = make_row(frames=25)
    random = np.random.default_rng([0, 11])
    fbank = np.zeros((FRAMES, MELS), np.float32)
    fbank[:25] = decode_fbank(row["fbank"], MELS)
    for axis, limit in ((1, 6), (0, 6)):
        width = random.random() * limit
        start = int(random.random() * (fbank.shape[axis] - width))
        fbank[(slice(None),) * axis + (slice(start, start + int(width)),)] = 0
    fbank = (fbank + 5.081) / 4.4849
    level = random.random() / 10
    fbank = fbank + level * random.random(fbank.shape, dtype=np.float32)
    fbank = np.roll(fbank, int(random.integers(-FRAMES, FRAMES)), axis=0)
    view = ClipTransform(processor, arguments).view(row, 11)
    np.testing.assert_allclose(view["input_values"], fbank, atol=1e-5)


def test_a_view_is_replayed_from_its_seed():
    features = make_features()
    transform = ClipTransform(make_processor(), AugmentationArguments(), partners=features)
    first, again, other = (transform.view(features[0], seed) for seed in (5, 5, 6))
    for name in ("input_values", "pixel_values", "label"):
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["input_values"], other["input_values"])
    reseeded = ClipTransform(make_processor(), AugmentationArguments(), seed=1, partners=features)
    assert not np.array_equal(first["input_values"], reseeded.view(features[0], 5)["input_values"])


def test_calls_follow_torchs_generator_and_evaluation_leaves_it_alone():
    features = make_features()
    augmented = ClipTransform(make_processor(), AugmentationArguments(), partners=features)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(augmented(features[:3])["input_values"])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[1], augmented(features[:3])["input_values"])
    state = torch.get_rng_state()
    ClipTransform(make_processor())(features[:3])
    assert torch.equal(state, torch.get_rng_state())


def test_mixed_power_of_two_sounds_by_hand():
    first, second = np.log(np.float32([[4.0], [4.0]])), np.log(np.float32([[8.0]]))
    mixed = mix_fbanks(first, second, 0.5)
    np.testing.assert_allclose(np.exp(mixed), [[0.25 * 4 + 0.25 * 8], [0.25 * 4]], rtol=1e-6)
    np.testing.assert_array_equal(mix_fbanks(first, second, 1.0), first)
    floor = np.full((3, 2), np.log(np.finfo(np.float32).eps), np.float32)
    np.testing.assert_allclose(mix_fbanks(floor, floor, 0.5), floor, rtol=1e-6)
    assert mixed.dtype == np.float32


def sound(random: np.random.Generator) -> np.ndarray:
    """A second of three tones in noise."""
    waveform = 0.05 * random.standard_normal(16000)
    time = np.arange(8000) / 16000
    for frequency in random.uniform(200, 3000, 3):
        waveform[4000:12000] += 0.1 * np.sin(2 * np.pi * frequency * time)
    return (waveform * random.uniform(0.1, 1)).astype(np.float32)


def test_mixing_spectrograms_is_near_mixing_waveforms():
    random = np.random.default_rng(0)
    extractor = CavMaeFeatureExtractor()
    errors, changes = [], []
    for _ in range(20):
        first, second, share = sound(random), sound(random), random.beta(10, 10)
        first, second = first - first.mean(), second - second.mean()
        true = extractor.extract_fbank(share * first + (1 - share) * second, 16000)
        alone = extractor.extract_fbank(first, 16000)
        errors.append(mix_fbanks(alone, extractor.extract_fbank(second, 16000), share) - true)
        changes.append(alone - true)
    # measured: bias 0.12, root mean square 0.59 nats, median 0.27; unmixed 1.56
    assert abs(np.mean(errors)) < 0.2
    assert np.sqrt(np.mean(np.square(errors))) < 0.7 < 1.2 < np.sqrt(np.mean(np.square(changes)))
    assert np.median(np.abs(errors)) < 0.35


def test_mixup_uses_one_share_for_sound_picture_and_label():
    features = make_features(2, num_labels=2, levels=(0,))
    bright = {**features[1], "frames": [jpeg(200)]}
    partners = Dataset.from_list([bright], features=features.features)
    arguments = AugmentationArguments(**{**OFF, "mixup_probability": 1.0})
    transform = ClipTransform(make_processor(), arguments, partners=partners)
    shares = []
    for seed in range(50):
        view = transform.view(features[0], seed)
        share = view["label"][0]
        assert view["label"].sum() == pytest.approx(1)
        assert grey_level(view["pixel_values"]) == pytest.approx(200 * (1 - share), abs=1)
        fbank = mix_fbanks(decode_fbank(features[0]["fbank"], MELS), decode_fbank(bright["fbank"], MELS), float(share))
        np.testing.assert_allclose(view["input_values"], (fbank + 5.081) / 4.4849, atol=1e-4)
        shares.append(share)
    # Beta(10, 10): mean 1/2, standard deviation 1 / sqrt(84)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.std(shares) == pytest.approx(84**-0.5, rel=0.3)


def test_mixup_happens_with_its_probability_to_partners_of_the_whole_set():
    features = make_features(9, num_labels=9)
    transform = ClipTransform(
        make_processor(), AugmentationArguments(**{**OFF, "mixup_probability": 0.5}), partners=features
    )
    labels = np.stack([transform.view(features[0], seed)["label"] for seed in range(200)])
    assert labels.dtype == np.float32 and labels.shape == (200, 9)
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    unmixed = (labels == np.eye(9)[0]).all(axis=1).mean()
    # half are not mixed, and one in nine of the others meets itself
    assert unmixed == pytest.approx(0.5, abs=0.12)
    assert (labels[:, 1:].sum(axis=0) > 0).all()


def test_mixup_needs_partners():
    with pytest.raises(ValueError, match="partners="):
        ClipTransform(make_processor(), AugmentationArguments())


def test_mixup_refuses_partners_of_other_modalities():
    features = make_features(1)
    mute = Dataset.from_list([{**features[0], "clip_id": "mute", "fbank": None}], features=features.features)
    transform = ClipTransform(
        make_processor(), AugmentationArguments(**{**OFF, "mixup_probability": 1.0}), partners=mute
    )
    with pytest.raises(ValueError, match="'clip0' and 'mute' cannot be mixed: only one has fbank"):
        transform.view(features[0], 0)


def test_missing_modality_is_none():
    row = make_row()
    transform = ClipTransform(make_processor(), AugmentationArguments(mixup_probability=0.0))
    assert transform.view({**row, "fbank": None}, 0)["input_values"] is None
    assert transform.view({**row, "frames": None}, 0)["pixel_values"] is None


def test_frame_index_contradicts_random_frames():
    with pytest.raises(ValueError, match="random_frame=True"):
        ClipTransform(make_processor(), AugmentationArguments(mixup_probability=0.0), frame_index=3)
    with pytest.raises(ValueError, match="must not be negative"):
        ClipTransform(make_processor(), frame_index=-1)


def test_teacher_with_the_same_inputs_adds_nothing(tmp_path):
    processor = make_processor()
    processor.save_pretrained(tmp_path)
    transform = ClipTransform(processor, teacher_processor=CavMaeProcessor.from_pretrained(tmp_path))
    assert not any(name.startswith("teacher_") for name in transform.view(make_row(), 0))


def test_teacher_sees_the_students_view():
    student, teacher = make_processor(mean=-5.0, std=4.0), make_processor(40, image_size=24, mean=-4.0, std=2.0)
    features = make_features()
    transform = ClipTransform(student, AugmentationArguments(), teacher_processor=teacher, partners=features)
    for seed in range(10):
        view = transform.view(features[0], seed)
        heard = view["teacher_input_values"] * 2.0 - 4.0
        np.testing.assert_allclose(heard[:FRAMES], view["input_values"] * 4.0 - 5.0, atol=1e-4)
        np.testing.assert_allclose(heard[FRAMES:], 0, atol=1e-5)
        assert view["teacher_pixel_values"].shape == (3, 24, 24)
        assert grey_level(view["teacher_pixel_values"]) == pytest.approx(grey_level(view["pixel_values"]), abs=1)


def test_teacher_with_other_mel_bins_is_refused():
    with pytest.raises(ValueError, match="32 mel bins, the student 16"):
        ClipTransform(make_processor(), teacher_processor=make_processor(num_mel_bins=32))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_as_transform_of_a_dataset_in_a_data_loader(num_workers):
    features = make_features(8)
    transform = ClipTransform(
        make_processor(), AugmentationArguments(), teacher_processor=make_processor(40), partners=features
    )
    views = features.with_transform(pickle.loads(pickle.dumps(transform)))
    torch.manual_seed(0)
    batches = list(DataLoader(views, batch_size=4, collate_fn=AudioVisualCollator(), num_workers=num_workers))
    assert len(batches) == 2
    assert batches[0]["input_values"].shape == (4, FRAMES, MELS)
    assert batches[0]["teacher_input_values"].shape == (4, 40, MELS)
    assert batches[0]["pixel_values"].shape == (4, 3, SIZE, SIZE)
    assert batches[0]["labels"].shape == (4, 3) and batches[0]["labels"].dtype == torch.float32
    # workers draw different views of the same clips in the next epoch
    again = next(iter(DataLoader(views, batch_size=4, collate_fn=AudioVisualCollator(), num_workers=num_workers)))
    assert not torch.equal(batches[0]["input_values"], again["input_values"])
