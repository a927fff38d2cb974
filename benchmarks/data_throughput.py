"""How fast clips are read, next to bare decoding of the same files, which is the limit; and how fast from stored
features.

    OMP_NUM_THREADS=1 python benchmarks/data_throughput.py

Makes eight clips of 10 s (640 x 360 at 25 frames a second, H.264 with B-frames, AAC in stereo) unless `--clips` names
a folder of media files. Every repetition takes all ways in turn over all clips on one process. Times are those that
its processor spent, which other load on the machine changes little; a ratio is the median of those of the repetitions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import av
import numpy as np

from hf_emktd import CavMaeConfig, CavMaeProcessor
from hf_emktd.data import AugmentationArguments, ClipTable, ClipTransform, read_clip, write_shards
from hf_emktd.data.clip_stream import ClipStream, Neighbours
from hf_emktd.data.features import extract_clip

SECONDS, WIDTH, HEIGHT, FRAMES_PER_SECOND, SAMPLING_RATE = 10, 640, 360, 25, 44100
PRESETS = ("base", "tiny")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of media files, instead of eight made ones")
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(path for path in args.clips.iterdir() if path.is_file()) if args.clips else make_clips(folder)
        seconds = measure(paths, ways(paths, Path(folder)), args.repetitions)
    print(table(len(paths), seconds))


def make_clips(folder: str, count: int = 8) -> list[Path]:
    paths = [Path(folder) / f"clip{number}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        write_web_clip(path, np.random.default_rng(number))
    return paths


def write_web_clip(path: Path, random: np.random.Generator) -> None:
    """Moving texture with grain, coded as clips of the web are: B-frames, medium preset, stereo."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "23"})
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLING_RATE, layout="stereo")
        coarse = random.integers(0, 256, (HEIGHT // 8, WIDTH // 4, 3), dtype=np.uint8)
        texture = np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8)).astype(np.int16)
        for number in range(SECONDS * FRAMES_PER_SECOND):
            shown = texture[:, 2 * number : 2 * number + WIDTH] + random.integers(-8, 9, (HEIGHT, WIDTH, 1))
            frame = av.VideoFrame.from_ndarray(shown.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        waveform = 0.2 * random.standard_normal((2, SECONDS * SAMPLING_RATE)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(waveform, format="fltp", layout="stereo")
        frame.sample_rate = SAMPLING_RATE
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def decode_bare(path: Path) -> None:
    """What PyAV needs for both streams, with nothing kept."""
    with av.open(str(path)) as container:
        for _ in container.decode(video=0, audio=0):
            pass


def ways(paths: list[Path], folder: Path) -> dict[str, Callable[[int], object]]:
    """By name, what is done with the clip of a number."""
    calls: dict[str, Callable[[int], object]] = {
        "bare PyAV decoding": lambda number: decode_bare(paths[number]),
        "`read_clip`: sound at 16 kHz, 10 frames": lambda number: read_clip(paths[number]),
    }
    for preset in PRESETS:
        config = CavMaeConfig.from_preset(preset)
        processor = CavMaeProcessor.from_config(config)
        rows = [extract_clip({"video": path}, processor) | {"clip_id": path.stem, "label": 0} for path in paths]
        transform = transform_for(processor)
        transform.partners.rows = rows
        calls[f"features for `{preset}`"] = lambda number, p=processor: extract_clip({"video": paths[number]}, p)
        calls[f"augmented view for `{preset}` of stored features"] = lambda number, t=transform, r=rows: t.view(
            r[number], number
        )
    calls["augmented view for `base`, streamed from shards"] = streamed(paths, folder)
    return calls


def transform_for(processor: CavMaeProcessor) -> ClipTransform:
    return ClipTransform(processor, AugmentationArguments(), partners=Neighbours(num_classes=2))


def streamed(paths: list[Path], folder: Path) -> Callable[[int], object]:
    """Views from a stream of shards that never ends; each call takes the next one."""
    lines = [f"train,{label},{path.resolve()}" for label, path in zip("ab" * len(paths), paths, strict=False)]
    (folder / "clips.csv").write_text("\n".join(["split,label,video", *lines]) + "\n")
    processor = CavMaeProcessor.from_config(CavMaeConfig.from_preset("base"))
    source = ClipTable(folder / "clips.csv", allow_outside_root=True)
    stream = ClipStream(write_shards(source, folder / "shards", processor), "train")
    transform = transform_for(processor)

    def views():
        for epoch in range(10**6):
            for row in transform.partners.pass_through(stream.rows([0, epoch], buffer_size=256)):
                yield transform.view(row, epoch)

    drawn = views()
    return lambda number: next(drawn)


def measure(paths: list[Path], calls: dict[str, Callable[[int], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds a clip of each way, by repetition, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + repetitions):
        for name, call in calls.items():
            started = time.process_time()
            for number in range(len(paths)):
                call(number)
            seconds[name].append((time.process_time() - started) / len(paths))
    return {name: values[1:] for name, values in seconds.items()}


def table(num_clips: int, seconds: dict[str, list[float]]) -> str:
    limit = next(iter(seconds.values()))
    lines = [f"{num_clips} clips", "", "| | ms a clip | clips a second | speed of bare decoding |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, values in seconds.items():
        ratio = median(bare / value for bare, value in zip(limit, values, strict=True))
        lines.append(f"| {name} | {1000 * median(values):.1f} | {1 / median(values):,.1f} | {ratio:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
