"""
Runs an exported model where neither PyTorch nor this package is installed: numpy, Pillow, av and onnxruntime will do.

    python standalone.py clip.mp4

It lies in the folder of the export, beside `media/`, which reads the clip, `preprocessing.json`, `sound.onnx` and the
model's ONNX files, of which the int8 one is taken where there is no other.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

NAMES = {"both": ("input_values", "pixel_values"), "audio": ("input_values",), "visual": ("pixel_values",)}
MAX_FRAMES, MAX_SECONDS = 4096, 3600
FILES = {"both": "model", "audio": "model_audio", "visual": "model_visual"}


class StandaloneModel:
    """
    Args:
        folder (`str` or `Path`): What the export wrote.

    Raises:
        ValueError: its files do not fit each other.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.settings = json.loads((self.folder / "preprocessing.json").read_text(encoding="utf-8"))
        self.labels = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        self.sound = self._session("sound.onnx")
        self.models = {}
        for modality, stem in FILES.items():
            found = [name for name in (f"{stem}.onnx", f"{stem}_int8.onnx") if (self.folder / name).is_file()]
            if found:
                self.models[modality] = self._session(found[0])
        self._check()

    def _check(self) -> None:
        """An edited file ends here, not in an array of its size."""
        inputs, clip = self.settings["inputs"], self.settings["clip"]
        sound, picture = self.settings.get("sound"), self.settings.get("picture")
        fits = 0 < clip["num_frames"] <= MAX_FRAMES and 0 < clip["seconds"] <= MAX_SECONDS
        fits = fits and (sound is None or sound["shape"] == inputs["input_values"])
        fits = fits and (picture is None or picture["size"] == inputs["pixel_values"][-1])
        for session in self.models.values():
            for one in session.get_inputs():
                sizes = zip(one.shape[1:], inputs[one.name], strict=True)
                fits = fits and all(isinstance(size, str) or size == ours for size, ours in sizes)
        if not fits:
            raise ValueError(
                f"preprocessing.json in {self.folder} does not fit the ONNX files; export the model again."
            )

    def __call__(self, path: str | Path) -> dict[str, float] | np.ndarray:
        """
        Of a classifier the probability of each label, of a model of masks their probabilities
        `(frames, rows, columns)`. A clip without sound is answered from the picture, and the other way round, as far
        as the export has a file for that; a model of masks is given silence.

        Raises:
            ValueError: the clip cannot be read, or has nothing that the export answers.
        """
        inputs = self.inputs(path)
        modality = next((name for name, names in NAMES.items() if set(names) == set(inputs)), None)
        if modality not in self.models:
            raise ValueError(
                f"{path} has {' and '.join(inputs) or 'nothing'}, but the export answers {[*self.models]}."
            )
        logits = self.models[modality].run(None, inputs)[0][0].astype(np.float64)
        if self.settings["task"] == "audio-visual-segmentation":
            return 1 / (1 + np.exp(-logits))
        exponentials = np.exp(logits - logits.max())
        return dict(zip(self.labels.values(), (exponentials / exponentials.sum()).tolist(), strict=True))

    def inputs(self, path: str | Path) -> dict[str, np.ndarray]:
        """What the model is given of a clip, by name and with a batch of one."""
        from media import read_clip

        clip_settings, sound, picture = (self.settings.get(name) for name in ("clip", "sound", "picture"))
        clip = read_clip(
            path,
            sampling_rate=(sound or {}).get("sampling_rate", 16000),
            num_frames=clip_settings["num_frames"],
            frame_times_seconds=clip_settings["frame_times_seconds"],
            max_seconds=clip_settings["seconds"],
            mix_channels=clip_settings["mix_channels"],
        )
        inputs = {}
        if sound is not None and (values := self._hear(clip.waveform, sound)) is not None:
            inputs["input_values"] = values
        if picture is not None and clip.frames is not None:
            inputs["pixel_values"] = self._see(clip.frames, picture)
        return inputs

    def _hear(self, waveform: np.ndarray | None, sound: dict) -> np.ndarray | None:
        if waveform is None or not waveform.size or np.abs(waveform).max() < sound["silence_peak"]:
            silence = sound["silence"]
            return None if silence is None else np.full((1, *sound["shape"]), silence, np.float32)
        samples = np.pad(waveform, (0, max(0, sound["shortest_samples"] - len(waveform))))
        values = self.sound.run(None, {"waveform": samples[None]})[0]
        if not sound["repeat_last"]:
            return values
        count = sound["shape"][0]
        return values[:, np.minimum(np.arange(count), values.shape[1] - 1)]

    def _see(self, frames: np.ndarray, picture: dict) -> np.ndarray:
        if picture["middle_frame"]:
            return self._picture(frames[len(frames) // 2], picture)[None]
        return np.stack([self._picture(frame, picture) for frame in frames])[None]

    @staticmethod
    def _picture(frame: np.ndarray, picture: dict) -> np.ndarray:
        image, size = Image.fromarray(frame), picture["size"]
        if picture["keep_aspect"]:
            short = min(image.size)
            width, height = (side * size // short for side in image.size)
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
        else:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(picture[name], np.float32)[:, None, None] for name in ("mean", "std"))
        return (pixels - mean) / std

    def _session(self, name: str) -> onnxruntime.InferenceSession | None:
        path = self.folder / name
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) if path.is_file() else None


if __name__ == "__main__":
    answer = StandaloneModel(Path(__file__).parent)(sys.argv[1])
    if isinstance(answer, dict):
        for label, probability in sorted(answer.items(), key=lambda entry: -entry[1])[:5]:
            print(f"{probability:.3f}  {label}")
    else:
        print("  ".join(f"{100 * share:.1f} %" for share in (answer > 0.5).mean(axis=(1, 2))))
