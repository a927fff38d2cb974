"""
Sound and pictures into what CAV-MAE reads: log-mel filter banks and normalised frames.

Official file: `src/dataloader.py` (`_wav2fbank`, `get_image`).
"""

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torchaudio
from PIL import Image
from transformers import BatchFeature, ProcessorMixin, SequenceFeatureExtractor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

WINDOW_SECONDS = 0.025
SHIFT_SECONDS = 0.010
# What no clip is: a file that says so would have terabytes allocated.
MAX_SIZES = {"image_size": 2**14, "audio_length": 2**18, "num_mel_bins": 2**12, "sampling_rate": 2**20}
# Long side to short side of the pictures that are resized whole.
LONGEST_STRIP = 64
# By modality the name of the input and what the processor is given for it.
INPUTS = {"audio": ("input_values", "audio"), "visual": ("pixel_values", "images")}


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not (isinstance(size, int) and 1 <= size <= MAX_SIZES[name]):
            raise ValueError(f"{name} must be a whole number from 1 to {MAX_SIZES[name]:,} but is {size!r}.")


def _without_ends(image: Image.Image) -> Image.Image:
    """The middle of a strip: all of 1 x 20,000 pixels, resized to 224 x 4,480,000, would take gigabytes."""
    longest = LONGEST_STRIP * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = (max(0, length - longest) // 2 for length in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def _check_colours(mean: list[float], std: list[float]) -> None:
    if not (
        len(mean) == len(std) == 3 and all(map(math.isfinite, mean)) and all(0 < value < math.inf for value in std)
    ):
        raise ValueError(
            f"image_mean and image_std must be three finite numbers each, those of image_std positive, but are {mean} "
            f"and {std}."
        )


def _tensors_as_arrays(images: Any) -> Any:
    """Pictures, of which tensors, also those in lists, are made arrays with the channels last."""
    if isinstance(images, list | tuple):
        return [_tensors_as_arrays(image) for image in images]
    if not isinstance(images, torch.Tensor):
        return images
    if images.dtype != torch.uint8 or images.ndim < 3 or 3 not in (images.shape[-1], images.shape[-3]):
        raise ValueError(
            "a tensor of pictures must be uint8 and end with (3, height, width) or (height, width, 3) but is "
            f"{images.dtype} {tuple(images.shape)}; convert it, values 0 to 255, three channels also for grey."
        )
    return (images if images.shape[-1] == 3 else images.movedim(-3, -1)).cpu().numpy()


class CavMaeFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Turns mono waveforms into normalised log-mel filter banks, `input_values` of shape `(batch, audio_length,
    num_mel_bins)`.

    As the official code: the waveform's mean is removed, Kaldi filter banks are taken with a Hanning window of 25 ms
    every 10 ms, padded with zeros at the end or cut to `audio_length` frames, and only then normalised, so that
    padding becomes `-mean / std` (about 1.13).

    Args:
        num_mel_bins (`int`, *optional*, defaults to 128):
            Mel bins.
        audio_length (`int`, *optional*, defaults to 1024):
            Frames of the result; 1024 frames are 10.24 s.
        sampling_rate (`int`, *optional*, defaults to 16000):
            Rate in hertz that the waveforms must have.
        mean (`float`, *optional*, defaults to -5.081):
            Mean of the filter banks over the training data; the official value for AudioSet and VGGSound.
        std (`float`, *optional*, defaults to 4.4849):
            Their standard deviation, likewise.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of the frames appended to a short clip, before normalisation.
    """

    model_input_names: ClassVar[list[str]] = ["input_values"]

    def __init__(
        self,
        num_mel_bins: int = 128,
        audio_length: int = 1024,
        sampling_rate: int = 16000,
        mean: float = -5.081,
        std: float = 4.4849,
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        kwargs |= {"feature_size": num_mel_bins, "return_attention_mask": False}
        super().__init__(sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        _check_sizes(num_mel_bins=num_mel_bins, audio_length=audio_length, sampling_rate=sampling_rate)
        if not (0 < std < math.inf and math.isfinite(mean) and math.isfinite(padding_value)):
            raise ValueError(
                f"std must be positive, and it, mean and padding_value finite, but they are {std}, {mean} and "
                f"{padding_value}."
            )
        self.num_mel_bins = num_mel_bins
        self.audio_length = audio_length
        self.mean = mean
        self.std = std

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence,
        sampling_rate: int | None = None,
        resample: bool = False,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            raw_speech (`np.ndarray`, `torch.Tensor` or a list of them):
                One mono waveform `(samples,)`, or a batch: a list of waveforms or an array `(batch, samples)`.
                Floating point, full scale at ±1.
            sampling_rate (`int`, *optional*):
                Rate of the waveforms in hertz. Must be given, and must equal the extractor's unless `resample`.
            resample (`bool`, *optional*, defaults to `False`):
                Whether to convert from `sampling_rate` to the extractor's rate (windowed sinc, torchaudio).
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default a list of arrays.

        Returns:
            [`BatchFeature`] with `input_values`, float32 `(batch, audio_length, num_mel_bins)`.

        Raises:
            `ValueError`: if the rate is missing or differs, or a waveform is empty, not mono or not floating point.
        """
        features = [
            self.normalize(self.pad_or_cut(self.extract_fbank(waveform, sampling_rate, resample=resample)))
            for waveform in self._as_batch(raw_speech)
        ]
        return BatchFeature({"input_values": features}, tensor_type=return_tensors)

    def extract_fbank(
        self, waveform: np.ndarray | torch.Tensor, sampling_rate: int | None, resample: bool = False
    ) -> np.ndarray:
        """
        Log-mel filter banks of one clip, float32 `(frames, num_mel_bins)`, neither normalised nor padded.

        A clip longer than `audio_length` frames is cut there. One shorter than the 25 ms window is padded with zeros
        to one frame, where the official loader would fall back to a constant tensor.

        Args:
            waveform (`np.ndarray` or `torch.Tensor` of shape `(samples,)`):
                Floating-point samples, full scale at ±1.
            sampling_rate (`int`):
                Rate of the waveform in hertz.
            resample (`bool`, *optional*, defaults to `False`):
                Whether to convert a differing rate.

        Raises:
            `ValueError`: if the rate is missing or differs, or the waveform is empty, not mono or not floating point.
        """
        samples = self._to_model_rate(self._check_waveform(waveform), sampling_rate, resample)
        # The mean is the whole clip's, as in the official code; frames beyond audio_length are never computed.
        samples = samples - samples.mean()
        window, shift = (int(seconds * self.sampling_rate) for seconds in (WINDOW_SECONDS, SHIFT_SECONDS))
        samples = samples[: window + (self.audio_length - 1) * shift]
        samples = torch.nn.functional.pad(samples, (0, max(0, window - len(samples))))
        fbank = torchaudio.compliance.kaldi.fbank(
            samples.unsqueeze(0),
            htk_compat=True,
            sample_frequency=self.sampling_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self.num_mel_bins,
            dither=0.0,
            frame_length=1000 * WINDOW_SECONDS,
            frame_shift=1000 * SHIFT_SECONDS,
        )
        return fbank.numpy()

    def pad_or_cut(self, fbank: np.ndarray) -> np.ndarray:
        """Filter banks `(frames, mel)` made `(audio_length, mel)`: `padding_value` at the end, or the end cut off."""
        made = np.full((self.audio_length, fbank.shape[1]), self.padding_value, dtype=fbank.dtype)
        made[: len(fbank)] = fbank[: self.audio_length]
        return made

    def normalize(self, fbank: np.ndarray) -> np.ndarray:
        """`(fbank - mean) / std`, float32."""
        return (np.asarray(fbank, dtype=np.float32) - np.float32(self.mean)) / np.float32(self.std)

    @staticmethod
    def _as_batch(raw_speech: np.ndarray | torch.Tensor | Sequence) -> list:
        if isinstance(raw_speech, np.ndarray | torch.Tensor):
            return [raw_speech] if raw_speech.ndim == 1 else list(raw_speech)
        if len(raw_speech) and isinstance(raw_speech[0], float):
            return [np.asarray(raw_speech, dtype=np.float32)]
        return list(raw_speech)

    @staticmethod
    def _check_waveform(waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
        samples = torch.as_tensor(waveform)
        if samples.ndim != 1:
            raise ValueError(
                f"a waveform must be mono, of shape (samples,), but is {tuple(samples.shape)}; pick a channel (the "
                "official extraction keeps the first) or average them."
            )
        if not samples.is_floating_point():
            raise ValueError(
                f"a waveform must be floating point with full scale at ±1 but is {samples.dtype}; divide 16-bit PCM "
                "by 32768."
            )
        if len(samples) == 0:
            raise ValueError("a waveform has no samples; leave audio out for a clip without sound.")
        return samples.float()

    def _to_model_rate(self, samples: torch.Tensor, sampling_rate: int | None, resample: bool) -> torch.Tensor:
        if sampling_rate == self.sampling_rate:
            return samples
        if sampling_rate is None:
            raise ValueError(
                f"sampling_rate was not given; pass the waveform's rate in hertz (this model reads "
                f"{self.sampling_rate})."
            )
        if not resample:
            raise ValueError(
                f"the waveform has a sampling_rate of {sampling_rate} Hz but this model reads {self.sampling_rate} "
                "Hz; pass resample=True to convert it."
            )
        return torchaudio.functional.resample(samples, sampling_rate, self.sampling_rate)


class CavMaeImageProcessor(BaseImageProcessor):
    r"""
    Turns pictures into `pixel_values` of shape `(batch, 3, image_size, image_size)`.

    The official torchvision chain on Pillow images, number for number: short side to `image_size` with bicubic
    interpolation, centre crop, scale to [0, 1], ImageNet normalisation.

    Args:
        image_size (`int`, *optional*, defaults to 224):
            Side of the square result in pixels.
        image_mean, image_std (`list[float]`, *optional*, default to ImageNet's):
            Mean and standard deviation of each colour channel, on the scale [0, 1].
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        image_size: int = 224,
        image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        image_std: Sequence[float] = IMAGENET_DEFAULT_STD,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        _check_sizes(image_size=image_size)
        self.image_size = image_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        _check_colours(self.image_mean, self.image_std)

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:
        """
        Args:
            images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or nested lists of them):
                Pillow images or uint8 arrays `(height, width, 3)`. One picture, a batch (list or `(batch, height,
                width, 3)`), or several frames per clip (list of lists or `(batch, frames, height, width, 3)`).
                Tensors may also have the channels first, `(3, height, width)`; where both first and last could be
                the channels, the last are.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default a list of arrays.

        Returns:
            [`BatchFeature`] with `pixel_values`, float32 `(batch, 3, image_size, image_size)`, or `(batch, frames, 3,
            image_size, image_size)` for frames.

        Raises:
            `ValueError`: if something is neither a Pillow image nor a uint8 RGB array or tensor.
        """
        images = _tensors_as_arrays(images)
        single = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim <= 3)
        pixel_values = [self._preprocess_nested(image) for image in ([images] if single else images)]
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)

    def resize_and_crop(self, image: Image.Image | np.ndarray) -> Image.Image:
        """
        Centre of a picture as an RGB Pillow image of `image_size` squared.

        The short side becomes `image_size`, the long one is rounded down, and the crop offset rounded half to even, as
        torchvision does. Of a strip more than 64 times as long as wide, only the middle is resized.

        Raises:
            `ValueError`: if `image` is neither a Pillow image nor a uint8 array of shape (height, width[, 3]).
        """
        image = _without_ends(self._to_pil(image))
        size, (width, height) = self.image_size, image.size
        short = min(width, height)
        width, height = size * width // short, size * height // short
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))

    def to_pixel_values(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Normalised float32 `(3, height, width)` of a picture that already has its size."""
        pixels = np.asarray(self._to_pil(image)).astype(np.float32)
        pixels /= np.float32(255)
        pixels -= np.array(self.image_mean, dtype=np.float32)
        pixels /= np.array(self.image_std, dtype=np.float32)
        return pixels.transpose(2, 0, 1)

    def _preprocess_nested(self, image: Any) -> np.ndarray:
        if isinstance(image, list | tuple) or (isinstance(image, np.ndarray) and image.ndim == 4):
            return np.stack([self._preprocess_nested(frame) for frame in image])
        return self.to_pixel_values(self.resize_and_crop(image))

    @staticmethod
    def _to_pil(image: Image.Image | np.ndarray) -> Image.Image:
        if isinstance(image, Image.Image):
            return image if image.mode == "RGB" else image.convert("RGB")
        array = np.asarray(image)
        is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
        if array.dtype != np.uint8 or not is_picture or array.size == 0:
            raise ValueError(
                "a picture must be a Pillow image or a uint8 array of shape (height, width, 3) but is "
                f"{array.dtype} {array.shape}; convert it, channels last, values 0 to 255."
            )
        return Image.fromarray(array).convert("RGB")


class CavMaeProcessor(ProcessorMixin):
    r"""
    [`CavMaeFeatureExtractor`] and [`CavMaeImageProcessor`] in one, for arrays or straight from media files.

    Args:
        feature_extractor ([`CavMaeFeatureExtractor`]):
            For the sound.
        image_processor ([`CavMaeImageProcessor`]):
            For the picture.
        modalities (`list[str]`, *optional*, defaults to `["audio", "visual"]`):
            What the model takes; of media files nothing else is read.

    Raises:
        `ValueError`: if `modalities` names anything but audio, visual or both.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_emktd import CavMaeConfig, CavMaeProcessor

    >>> processor = CavMaeProcessor.from_config(CavMaeConfig())
    >>> sound, picture = np.zeros(160000, dtype=np.float32), np.zeros((240, 320, 3), dtype=np.uint8)
    >>> inputs = processor(audio=sound, images=picture, sampling_rate=16000, return_tensors="pt")
    >>> {name: tuple(values.shape) for name, values in inputs.items()}
    {'input_values': (1, 1024, 128), 'pixel_values': (1, 3, 224, 224)}
    ```"""

    def __init__(
        self,
        feature_extractor: CavMaeFeatureExtractor,
        image_processor: CavMaeImageProcessor,
        modalities: Sequence[str] = tuple(INPUTS),
    ):
        super().__init__(feature_extractor, image_processor)
        if not modalities or not set(modalities) <= set(INPUTS):
            raise ValueError(f"modalities must name audio, visual or both but is {list(modalities)}.")
        self.modalities = list(modalities)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Processor that makes inputs of the sizes a [`CavMaeConfig`] asks for."""
        return cls(
            CavMaeFeatureExtractor(num_mel_bins=config.num_mel_bins, audio_length=config.audio_length),
            CavMaeImageProcessor(image_size=config.image_size),
            config.modalities,
        )

    def __call__(
        self,
        *,
        audio: Any = None,
        images: Any = None,
        clips: str | PathLike | Sequence[str | PathLike] | None = None,
        sampling_rate: int | None = None,
        resample: bool = False,
        num_frames: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            audio (`np.ndarray`, `torch.Tensor` or a list of them, *optional*):
                Mono waveforms, see [`CavMaeFeatureExtractor.__call__`].
            images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or nested lists of them, *optional*):
                Pictures, see [`CavMaeImageProcessor.preprocess`].
            clips (path or list of paths, *optional*):
                Media files, instead of `audio` and `images`. Their sound is read at the rate of the feature extractor,
                whatever theirs is.
            sampling_rate (`int`, *optional*):
                Rate of `audio` in hertz; required with it.
            resample (`bool`, *optional*, defaults to `False`):
                Whether to convert `audio` of another rate.
            num_frames (`int`, *optional*):
                Evenly spaced frames of each clip: `pixel_values` become `(batch, num_frames, 3, height, width)`, to be
                run one by one. By default the middle one, index 5 of 10 as in the official evaluation, and
                `pixel_values` are `(batch, 3, height, width)`.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default lists of arrays.

        Returns:
            [`BatchFeature`] with `input_values` and `pixel_values`; the key of an absent modality is absent, as with
            clips that have no sound or no picture, or of one that the model does not take.

        Raises:
            `ValueError`: if there is nothing to process, clips with and without a modality are mixed in one batch, or
                `audio` or `images` are given for a model that does not take them.
            `MediaError`: if a clip cannot be read.
        """
        if clips is not None:
            if audio is not None or images is not None:
                raise ValueError("clips already carry sound and picture; pass either clips or audio and images.")
            audio, images = self._read_clips(clips, num_frames)
            sampling_rate = self.feature_extractor.sampling_rate
        self._check_given(audio, images)
        features = BatchFeature()
        if audio is not None:
            features.update(self.feature_extractor(audio, sampling_rate, resample, return_tensors))
        if images is not None:
            features.update(self.image_processor(images, return_tensors=return_tensors))
        return features

    @property
    def model_input_names(self) -> list[str]:
        return [name for modality, (name, _) in INPUTS.items() if modality in self.modalities]

    def _check_given(self, audio: Any, images: Any) -> None:
        given = {"audio": audio is not None, "visual": images is not None}
        wanted = ", ".join(argument for modality, (_, argument) in INPUTS.items() if modality in self.modalities)
        if not any(given.values()):
            raise ValueError(f"there is nothing to process; pass {wanted} or clips that have any.")
        unread = [INPUTS[modality][1] for modality in given if given[modality] and modality not in self.modalities]
        if unread:
            raise ValueError(f"the model of this processor takes no {unread[0]}; pass {wanted} alone.")

    def _read_clips(self, clips: Any, num_frames: int | None) -> tuple[list | None, list | None]:
        """Waveforms and frames of media files, `None` where no clip has any or the model takes none."""
        try:
            from hf_emktd.data.media import read_clip
        except ImportError as error:
            raise ImportError(
                "reading clips needs the hf_emktd package: pip install hf_emktd, or decode them yourself and pass "
                "audio, images and sampling_rate."
            ) from error
        paths = [clips] if isinstance(clips, str | PathLike) else list(clips)
        rate = self.feature_extractor.sampling_rate
        streams = {"read_audio": "audio" in self.modalities, "read_video": "visual" in self.modalities}
        count = 10 if num_frames is None else num_frames
        read = [read_clip(path, sampling_rate=rate, num_frames=count, **streams) for path in paths]
        frames = [clip.frames for clip in read]
        if num_frames is None:
            frames = [None if every is None else every[len(every) // 2] for every in frames]
        return self._all_or_none([clip.waveform for clip in read], paths, "sound"), self._all_or_none(
            frames, paths, "picture"
        )

    @staticmethod
    def _all_or_none(values: list, paths: list, kind: str) -> list | None:
        absent = [str(path) for path, value in zip(paths, values, strict=True) if value is None]
        if absent and len(absent) < len(paths):
            raise ValueError(
                f"{len(absent)} of {len(paths)} clips have no {kind} ({', '.join(absent[:3])}); process them in a "
                "call of their own, since one batch either has a modality or lacks it."
            )
        return None if absent else values


__all__ = ["CavMaeFeatureExtractor", "CavMaeImageProcessor", "CavMaeProcessor"]
