"""What has to be done to a clip before an exported model sees it, written beside the model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import media
from ..data.clip_source import SILENCE_PEAK
from ..hub.prediction import OFFICIAL_FRAMES
from ..hub.segmentation import FRAME_WITHIN_SECOND
from ..models.avsegformer.processing_avsegformer import LOG_OFFSET
from . import standalone
from .graphs import SEGMENTATION
from .sound_graph import sound_graph, write_sound_graph

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin

SETTINGS_FILE, SOUND_FILE = "preprocessing.json", "sound.onnx"
CLIP_SECONDS = 10.0


def write_preprocessing(config: PreTrainedConfig, processor: ProcessorMixin, folder: Path) -> list[str]:
    """
    Writes config and processor, `preprocessing.json`, `sound.onnx` and, so that they run without this package,
    `standalone.py` and the folder `media`.

    Returns:
        `list[str]`: names of the files; without those after the processor's where the sound is not made by one of this
        package's feature extractors.

    Raises:
        ExportError: onnx or onnxscript is missing.
    """
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    graph = sound_graph(processor.feature_extractor)
    if graph is None:
        return ["config.json", "processor_config.json"]
    settings = preprocessing_settings(config, processor, graph[1])
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if "sound" in settings:
        write_sound_graph(*graph, folder / SOUND_FILE)
    shutil.copy(standalone.__file__, folder)
    shutil.copytree(Path(media.__file__).parent, folder / "media", ignore=shutil.ignore_patterns("__pycache__"))
    return [path.name for path in sorted(folder.iterdir()) if not path.name.startswith("model")]


def preprocessing_settings(
    config: PreTrainedConfig, processor: ProcessorMixin, shortest_samples: int
) -> dict[str, Any]:
    """All constants between a decoded clip and the model's inputs, as plain values."""
    masks = config.task == SEGMENTATION
    seconds = config.num_frames if masks else CLIP_SECONDS
    settings: dict[str, Any] = {
        "task": config.task,
        "inputs": {name: list(shape) for name, shape in config.input_shapes.items()},
        "clip": {
            "seconds": seconds,
            "num_frames": OFFICIAL_FRAMES,
            "frame_times_seconds": [second + FRAME_WITHIN_SECOND for second in range(seconds)] if masks else None,
            "mix_channels": masks,
        },
    }
    extractor, image_processor = processor.feature_extractor, processor.image_processor
    if "input_values" in config.input_shapes:
        settings["sound"] = {
            "sampling_rate": extractor.sampling_rate,
            "shape": list(config.input_shapes["input_values"]),
            "shortest_samples": shortest_samples,
            "silence_peak": SILENCE_PEAK,
            # a model of masks is given silence, a classifier answers from the picture
            "silence": math.log(LOG_OFFSET) if masks else None,
            "repeat_last": masks,
            "feature_extractor": json.loads(extractor.to_json_string()),
        }
    if "pixel_values" in config.input_shapes:
        settings["picture"] = {
            "size": image_processor.image_size,
            "keep_aspect": not masks,
            "middle_frame": not masks,
            "mean": image_processor.image_mean,
            "std": image_processor.image_std,
        }
    return settings
