"""
Sound, pictures and masks into what AVSegFormer reads, and its logits into masks.

Official files: `model/vggish/vggish_input.py`, `mel_features.py`, `vggish_params.py`; `dataloader/s4_dataset.py`.
"""

import math
from collections.abc import Sequence
from functools import cache
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torchaudio
from PIL import Image
from transformers import BatchFeature, ProcessorMixin, SequenceFeatureExtractor
from transformers.image_processing_utils import BaseImageProcessor
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .configuration_avsegformer import EXAMPLE_FRAMES, MEL_BANDS

# What no clip is: a file that says so would have terabytes allocated.
MAX_SIZES = {"image_size": 2**14, "num_frames": 2**12}
# What VGGish was trained on; other values would need another VGGish.
SAMPLING_RATE = 16000
WINDOW_SAMPLES = 400
SHIFT_SAMPLES = 160
FFT_SAMPLES = 512
LOWEST_HERTZ, HIGHEST_HERTZ = 125.0, 7500.0
LOG_OFFSET = 0.01
# The official preprocessing takes 16 pictures a second and keeps the last of each second.
FRAME_WITHIN_SECOND = 15 / 16


@cache
def mel_matrix() -> np.ndarray:
    """Weights of the 257 bins of the spectrum in each of 64 HTK mel bands, float64 `(257, 64)`; none for bin 0."""

    def to_mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0)

    bins = to_mel(np.linspace(0.0, SAMPLING_RATE / 2, FFT_SAMPLES // 2 + 1))[:, None]
    edges = np.linspace(to_mel(LOWEST_HERTZ), to_mel(HIGHEST_HERTZ), MEL_BANDS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - lower) / (centre - lower), (upper - bins) / (upper - centre)))
    weights[0] = 0.0
    return weights


def _check_size(name: str, size: int) -> None:
    if not (isinstance(size, int) and 1 <= size <= MAX_SIZES[name]):
        raise ValueError(f"{name} must be a whole number from 1 to {MAX_SIZES[name]:,} but is {size!r}.")


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


class AvSegFormerFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Turns mono waveforms into VGGish examples, `input_values` of shape `(batch, num_frames, 96, 64)`.

    As the official code: magnitudes of a 512-point spectrum under a periodic Hann window of 25 ms every 10 ms, 64 mel
    bands from 125 to 7500 Hz, logarithm of the magnitude plus 0.01, cut into examples of 96 frames that do not
    overlap. Example `i` covers 0.96 s, from 0.96 i on, and goes with the picture of second `i`.

    Args:
        num_frames (`int`, *optional*, defaults to 5):
            Examples of a clip, one for each of its pictures.
    """

    model_input_names: ClassVar[list[str]] = ["input_values"]

    def __init__(self, num_frames: int = 5, **kwargs: Any):
        fixed = {"feature_size": MEL_BANDS, "sampling_rate": SAMPLING_RATE, "padding_value": 0.0}
        super().__init__(**{**kwargs, **fixed, "return_attention_mask": False})
        _check_size("num_frames", num_frames)
        self.num_frames = num_frames

    def __call__(
        self,
        raw_speech: np.ndarray | torch.Tensor | Sequence,
        sampling_rate: int | None = None,
        resample: bool = False,
        num_frames: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            raw_speech (`np.ndarray`, `torch.Tensor` or a list of them):
                One mono waveform `(samples,)`, or a batch: a list of waveforms or an array `(batch, samples)`.
                Floating point, full scale at ±1.
            sampling_rate (`int`, *optional*):
                Rate of the waveforms in hertz. Must be given, and must be 16,000 unless `resample`.
            resample (`bool`, *optional*, defaults to `False`):
                Whether to convert from `sampling_rate` (windowed sinc, torchaudio).
            num_frames (`int`, *optional*):
                Examples of a clip; by default the extractor's own number.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default a list of arrays.

        Returns:
            [`BatchFeature`] with `input_values`, float32 `(batch, num_frames, 96, 64)`.

        Raises:
            `ValueError`: if the rate is missing or differs, or a waveform is empty, not mono or not floating point.
        """
        features = [
            self.fit_frames(self.log_mel(waveform, sampling_rate, resample), num_frames)
            for waveform in self._as_batch(raw_speech)
        ]
        return BatchFeature({"input_values": features}, tensor_type=return_tensors)

    def log_mel(
        self, waveform: np.ndarray | torch.Tensor, sampling_rate: int | None, resample: bool = False
    ) -> np.ndarray:
        """
        All whole examples of a waveform, float32 `(examples, 96, 64)`.

        A waveform shorter than one example (15,600 samples) is padded with zeros to one; the official code fails
        there. An incomplete example at the end is left out.

        Args:
            waveform (`np.ndarray` or `torch.Tensor` of shape `(samples,)`):
                Floating-point samples, full scale at ±1. The official code averages the channels of a recording.
            sampling_rate (`int`):
                Rate of the waveform in hertz.
            resample (`bool`, *optional*, defaults to `False`):
                Whether to convert a differing rate.

        Raises:
            `ValueError`: if the rate is missing or differs, or the waveform is empty, not mono or not floating point.
        """
        samples = self._to_model_rate(self._check_waveform(waveform), sampling_rate, resample)
        samples = samples.numpy().astype(np.float64)
        shortest = WINDOW_SAMPLES + (EXAMPLE_FRAMES - 1) * SHIFT_SAMPLES
        samples = np.pad(samples, (0, max(0, shortest - len(samples))))
        windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::SHIFT_SAMPLES]
        examples = len(windows) // EXAMPLE_FRAMES
        hann = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW_SAMPLES * np.arange(WINDOW_SAMPLES))
        spectra = np.abs(np.fft.rfft(windows[: examples * EXAMPLE_FRAMES] * hann, FFT_SAMPLES))
        log_mel = np.log(spectra @ mel_matrix() + LOG_OFFSET).astype(np.float32)
        return log_mel.reshape(examples, EXAMPLE_FRAMES, MEL_BANDS)

    def fit_frames(self, log_mel: np.ndarray, num_frames: int | None = None) -> np.ndarray:
        """
        Examples `(n, 96, 64)` made `(num_frames, 96, 64)`: the first ones, the last repeated where there are too few.

        Raises:
            `ValueError`: if there is no example, or `num_frames` is less than 1.
        """
        count = self._count(num_frames)
        if len(log_mel) == 0:
            raise ValueError(
                "there is no example to repeat; pass feature_extractor.silence() for a clip without sound."
            )
        return log_mel[np.minimum(np.arange(count), len(log_mel) - 1)]

    def silence(self, num_frames: int | None = None) -> np.ndarray:
        """What digital silence gives, log(0.01) everywhere, float32 `(num_frames, 96, 64)`."""
        shape = (self._count(num_frames), EXAMPLE_FRAMES, MEL_BANDS)
        return np.full(shape, math.log(LOG_OFFSET), dtype=np.float32)

    def _count(self, num_frames: int | None) -> int:
        count = self.num_frames if num_frames is None else num_frames
        if count < 1:
            raise ValueError(f"num_frames must be at least 1 but is {count}.")
        return count

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
                f"a waveform must be mono, of shape (samples,), but is {tuple(samples.shape)}; average the channels, "
                "as the official code does, or pick one."
            )
        if not samples.is_floating_point():
            raise ValueError(
                f"a waveform must be floating point with full scale at ±1 but is {samples.dtype}; divide 16-bit PCM "
                "by 32768."
            )
        if len(samples) == 0:
            raise ValueError(
                "a waveform has no samples; pass feature_extractor.silence() as input_values for a clip without sound."
            )
        return samples

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
        return torchaudio.functional.resample(samples.float(), sampling_rate, self.sampling_rate)


class AvSegFormerImageProcessor(BaseImageProcessor):
    r"""
    Turns the pictures of clips into `pixel_values` of shape `(batch, frames, 3, image_size, image_size)`.

    The official torchvision chain on Pillow images, number for number: the whole picture, its aspect not kept, to
    `image_size` squared with bilinear interpolation, scale to [0, 1], ImageNet normalisation.

    Args:
        image_size (`int`, *optional*, defaults to 512):
            Side of the square result in pixels.
        image_mean, image_std (`list[float]`, *optional*, default to ImageNet's):
            Mean and standard deviation of each colour channel, on the scale [0, 1].
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values"]

    def __init__(
        self,
        image_size: int = 512,
        image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        image_std: Sequence[float] = IMAGENET_DEFAULT_STD,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        _check_size("image_size", image_size)
        self.image_size = image_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        _check_colours(self.image_mean, self.image_std)

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:
        """
        Args:
            images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or lists of them):
                Pillow images or uint8 arrays `(height, width, 3)`: the frames of one clip (list or `(frames, height,
                width, 3)`), or of a batch of clips (list of such, or `(batch, frames, height, width, 3)`). A single
                picture is a clip of one frame. Tensors may also have the channels first, `(3, height, width)`; where
                both first and last could be the channels, the last are.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default a list of arrays.

        Returns:
            [`BatchFeature`] with `pixel_values`, float32 `(batch, frames, 3, image_size, image_size)`.

        Raises:
            `ValueError`: if something is neither a Pillow image nor a uint8 RGB array or tensor, or there is no frame.
        """
        images = _tensors_as_arrays(images)
        if self._is_picture(images):
            images = [images]
        clips = [images] if len(images) and self._is_picture(images[0]) else images
        if not len(clips) or not all(len(clip) for clip in clips):
            raise ValueError("a clip must have at least one frame, but there is none; leave images out.")
        pixel_values = [np.stack([self.to_pixel_values(self.resize(frame)) for frame in clip]) for clip in clips]
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)

    def resize(self, image: Image.Image | np.ndarray) -> Image.Image:
        """
        A picture as an RGB Pillow image of `image_size` squared, bilinear, its aspect not kept.

        Raises:
            `ValueError`: if `image` is neither a Pillow image nor a uint8 array of shape (height, width[, 3]).
        """
        return self._to_pil(image).resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)

    def resize_mask(self, mask: Image.Image) -> np.ndarray:
        """
        A mask as uint8 `(image_size, image_size)` of 0 and 1, nearest neighbour.

        Every pixel that is not black sounds: masks are stored as 0/1, as 0/255, with a palette or in colours.
        """
        sounding = Image.fromarray(np.asarray(mask.convert("RGB")).any(axis=2))
        return np.asarray(sounding.resize((self.image_size, self.image_size), Image.Resampling.NEAREST), np.uint8)

    def to_pixel_values(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """Normalised float32 `(3, height, width)` of a picture that already has its size."""
        pixels = np.asarray(self._to_pil(image), dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (self.image_mean, self.image_std))
        return (pixels - mean) / std

    @staticmethod
    def _is_picture(image: Any) -> bool:
        return isinstance(image, Image.Image) or (isinstance(image, np.ndarray) and image.ndim <= 3)

    @staticmethod
    def _to_pil(image: Image.Image | np.ndarray) -> Image.Image:
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        array = np.asarray(image)
        is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
        if array.dtype != np.uint8 or not is_picture or array.size == 0:
            raise ValueError(
                "a picture must be a Pillow image or a uint8 array of shape (height, width, 3) but is "
                f"{array.dtype} {array.shape}; convert it, channels last, values 0 to 255."
            )
        return Image.fromarray(array).convert("RGB")


class AvSegFormerProcessor(ProcessorMixin):
    r"""
    [`AvSegFormerFeatureExtractor`] and [`AvSegFormerImageProcessor`] in one, for arrays or straight from media files.

    Args:
        feature_extractor ([`AvSegFormerFeatureExtractor`]):
            For the sound.
        image_processor ([`AvSegFormerImageProcessor`]):
            For the pictures.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_emktd import AvSegFormerConfig, AvSegFormerProcessor

    >>> processor = AvSegFormerProcessor.from_config(AvSegFormerConfig(image_size=224))
    >>> sound, frames = np.zeros(80000, dtype=np.float32), np.zeros((5, 240, 320, 3), dtype=np.uint8)
    >>> inputs = processor(audio=sound, images=frames, sampling_rate=16000, return_tensors="pt")
    >>> {name: tuple(values.shape) for name, values in inputs.items()}
    {'input_values': (1, 5, 96, 64), 'pixel_values': (1, 5, 3, 224, 224)}
    ```"""

    def __init__(self, feature_extractor: AvSegFormerFeatureExtractor, image_processor: AvSegFormerImageProcessor):
        super().__init__(feature_extractor, image_processor)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Processor that makes inputs of the sizes an [`AvSegFormerConfig`] asks for."""
        return cls(
            AvSegFormerFeatureExtractor(num_frames=config.num_frames),
            AvSegFormerImageProcessor(image_size=config.image_size),
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
                Mono waveforms, see [`AvSegFormerFeatureExtractor.__call__`]. Zeros are silence.
            images (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or nested lists of them, *optional*):
                Frames, see [`AvSegFormerImageProcessor.preprocess`].
            clips (path or list of paths, *optional*):
                Media files, instead of `audio` and `images`. The frames are those of 15/16 s, 1 15/16 s and so on,
                the last in the official sampling of 16 a second; after a clip's end its last one is repeated. Of the
                sound, brought to 16 kHz whatever its rate, the mean of all channels is taken, as in the official
                code; a clip without sound is silent.
            sampling_rate (`int`, *optional*):
                Rate of `audio` in hertz; required with it.
            resample (`bool`, *optional*, defaults to `False`):
                Whether to convert `audio` of another rate.
            num_frames (`int`, *optional*):
                Seconds of `audio` or `clips` to take. By default as many as there are `images`, of which all are
                taken, or else the feature extractor's number.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default lists of arrays.

        Returns:
            [`BatchFeature`] with `input_values` and `pixel_values`; of arrays the key of an absent one is absent.

        Raises:
            `ValueError`: if there is nothing to process, or a clip has no picture.
            `MediaError`: if a clip cannot be read.
        """
        if clips is not None:
            if audio is not None or images is not None:
                raise ValueError("clips already carry sound and picture; pass either clips or audio and images.")
            return self._process_clips(clips, num_frames, return_tensors)
        if audio is None and images is None:
            raise ValueError("there is nothing to process; pass audio, images or clips.")
        pictures = {} if images is None else self.image_processor(images, return_tensors=return_tensors)
        if num_frames is None and images is not None:
            num_frames = len(pictures["pixel_values"][0])
        features = BatchFeature()
        if audio is not None:
            features.update(self.feature_extractor(audio, sampling_rate, resample, num_frames, return_tensors))
        features.update(pictures)
        return features

    def post_process_masks(
        self,
        logits: torch.Tensor,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        threshold: float = 0.5,
    ) -> list[np.ndarray]:
        """
        Masks of what sounds.

        Args:
            logits (`torch.Tensor` of shape `(batch_size, frames, image_size, image_size)`):
                Scores of the model, before the sigmoid.
            target_sizes (list of `(height, width)`, *optional*):
                By clip, the size to enlarge or reduce the probabilities to (bilinear); by default the logits' own.
            threshold (`float`, *optional*, defaults to 0.5):
                A pixel whose probability is greater sounds.

        Returns:
            `list[np.ndarray]`: by clip, bool `(frames, height, width)`.

        Raises:
            `ValueError`: if there is not one target size for each clip.
        """
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(
                f"target_sizes must be one (height, width) a clip, {len(logits)}, got {len(target_sizes)}."
            )
        probabilities = logits.detach().float().sigmoid()
        sizes = [None] * len(logits) if target_sizes is None else target_sizes
        return [
            (self._resize_maps(clip, size) > threshold).cpu().numpy()
            for clip, size in zip(probabilities, sizes, strict=True)
        ]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_values", "pixel_values"]

    @staticmethod
    def _resize_maps(maps: torch.Tensor, size: tuple[int, int] | None) -> torch.Tensor:
        if size is None:
            return maps
        return torch.nn.functional.interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]

    def _process_clips(self, clips: Any, num_frames: int | None, return_tensors: str | None) -> BatchFeature:
        """Examples and frames of media files, silence where one has no sound."""
        try:
            from hf_emktd.data.media import read_clip
        except ImportError as error:
            raise ImportError(
                "reading clips needs the hf_emktd package: pip install hf_emktd, or decode them yourself and pass "
                "audio, images and sampling_rate."
            ) from error
        extractor, count = self.feature_extractor, self.feature_extractor.num_frames
        count = count if num_frames is None else num_frames
        times = [second + FRAME_WITHIN_SECOND for second in range(count)]
        sounds, pictures = [], []
        for path in [clips] if isinstance(clips, str | PathLike) else clips:
            clip = read_clip(
                path,
                sampling_rate=extractor.sampling_rate,
                frame_times_seconds=times,
                max_seconds=float(count),
                mix_channels=True,
            )
            if clip.frames is None:
                raise ValueError(f"{path} has no picture, and AVSegFormer segments pictures; leave the clip out.")
            pictures.append(clip.frames)
            silent = clip.waveform is None or len(clip.waveform) == 0
            examples = None if silent else extractor.log_mel(clip.waveform, clip.sampling_rate)
            sounds.append(extractor.silence(count) if silent else extractor.fit_frames(examples, count))
        features = BatchFeature({"input_values": sounds}, tensor_type=return_tensors)
        features.update(self.image_processor(pictures, return_tensors=return_tensors))
        return features


__all__ = ["AvSegFormerFeatureExtractor", "AvSegFormerImageProcessor", "AvSegFormerProcessor"]
