"""Reads media files in a small process of its own: a crash, a hang or a flood of memory is a result like others.

Run as a program it is that process: a request a line on standard input, an answer a line on standard output. It
imports the reading alone, without the package around it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

DATA = Path(__file__).resolve().parents[1] / "src" / "hf_emktd" / "data"

ALLOWED = ("clip", "absent", "MediaError")


@dataclass(frozen=True)
class Outcome:
    """
    Args:
        kind: `"clip"`; `"absent"`, a clip without sound and picture; `"MediaError"`; and what must not be:
            `"exception"`, `"wrong"` (a clip that is none), `"flood"` (of memory), `"hang"` or `"crash"`.
        detail: the message, or what was read.
        seconds: that it took.
        megabytes: the most memory that the process held meanwhile.
    """

    kind: str
    detail: str
    seconds: float
    megabytes: int = 0

    @property
    def is_allowed(self) -> bool:
        return self.kind in ALLOWED


class IsolatedReader:
    """
    Args:
        folder: for what is written on the way.
        seconds: that an input may take; then it is a hang, and its process ended.
        megabytes: that the process may hold; more is a flood.
        address_space: that the process may reserve, in megabytes, so that a flood harms nobody.
    """

    def __init__(self, folder: Path, *, seconds: float = 60, megabytes: int = 1536, address_space: int = 6144) -> None:
        self.folder, self.seconds, self.megabytes, self.address_space = folder, seconds, megabytes, address_space
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(
        self, path: Path | str, call: str = "read_clip", seed: list[int] | None = None, **options: Any
    ) -> Outcome:
        """What becomes of a file, damaged by `seed` beforehand if there is one; `call` names a function here."""
        if self.process is None:
            self._start()
        started = time.monotonic()
        request = {"path": os.fsdecode(path), "call": call, "seed": seed, "options": options}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], self.seconds)[0]:
            self._end()
            return Outcome("hang", f"longer than {self.seconds} s", self.seconds)
        answer = self.process.stdout.readline()
        seconds = time.monotonic() - started
        if not answer:
            status = self.process.wait()
            self._end()
            return Outcome("crash", f"exit status {status}", seconds)
        kind, detail, megabytes = json.loads(answer)
        if megabytes > self.megabytes:
            return Outcome("flood", f"{megabytes} MB: {detail}", seconds, megabytes)
        return Outcome(kind, detail, seconds, megabytes)

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder), str(self.address_space << 20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # what FFmpeg's and Pillow's libraries print of every damaged file
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def main() -> None:
    folder, address_space = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(address_space),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reading = _Reading(Path(folder))
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")
        kind, detail = reading.outcome(**json.loads(line))
        print(json.dumps([kind, detail, _most_megabytes()]), flush=True)


def _most_megabytes() -> int:
    """Since the peak was last set back; `ru_maxrss` never falls."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


class _Reading:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = types.ModuleType("reading")
        package.__path__ = [str(DATA)]
        sys.modules["reading"] = package
        self.media = importlib.import_module("reading.media")
        self.windows = importlib.import_module("reading.clip_windows")

    def outcome(self, path: str, call: str, seed: list[int] | None, options: dict[str, Any]) -> tuple[str, str]:
        try:
            return getattr(self, call)(path if seed is None else self._damaged(path, seed), **options)
        except self.media.MediaError as error:
            return "MediaError", str(error)[:300]
        except BaseException as error:  # whatever it is, it is the result
            return "exception", f"{type(error).__name__}: {error}"[:300]

    def _damaged(self, path: str, seed: list[int]) -> str:
        from mutations import mutate

        damaged = self.folder / f"damaged{os.getpid()}{Path(path).suffix}"
        damaged.write_bytes(mutate(Path(path).read_bytes(), tuple(seed)))
        return str(damaged)

    def read_clip(self, path: str, **options: Any) -> tuple[str, str]:
        return self._read_clip(path, options)

    def read_bytes(self, path: str, **options: Any) -> tuple[str, str]:
        return self._read_clip(self.media.EmbeddedMedia(path, Path(path).read_bytes()), options)

    def _read_clip(self, medium: Any, options: dict[str, Any]) -> tuple[str, str]:
        clip = self.media.read_clip(medium, **options)
        if problem := problem_of(clip, options):
            return "wrong", problem
        return ("absent" if clip.waveform is None and clip.frames is None else "clip"), described(clip)

    def read_image(self, path: str) -> tuple[str, str]:
        image = self.media.read_image(path)
        is_picture = image.dtype == "uint8" and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
        return ("clip" if is_picture else "wrong"), f"{image.dtype} {image.shape}"

    def read_windows(self, path: str, seconds: float = 0.2) -> tuple[str, str]:
        """As a pipeline does, but no more than 50 windows."""
        starts = self.windows.window_starts(self.windows.read_duration(path), seconds)
        for clip in self.windows.read_windows(path, starts[:50], seconds, num_frames=2):
            if problem := problem_of(clip, {"max_seconds": seconds}):
                return "wrong", problem
        return "clip", f"{len(starts)} windows"


def problem_of(clip: Any, options: dict[str, Any]) -> str | None:
    """What is not as `Clip` promises."""
    import numpy as np

    sound, frames, limit = clip.waveform, clip.frames, options.get("max_seconds", 10.0)
    if sound is not None:
        if sound.dtype != np.float32 or sound.ndim != 1 or not np.isfinite(sound).all():
            return f"sound {sound.dtype} {sound.shape}, finite: {np.isfinite(sound).all()}"
        if limit is not None and len(sound) > round(limit * clip.sampling_rate) + 1:
            return f"{len(sound)} samples, more than {limit} s of {clip.sampling_rate} Hz"
    if frames is not None and (
        frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size
    ):
        return f"frames {frames.dtype} {frames.shape}"
    duration = clip.duration_seconds
    return None if duration is None or 0 <= duration < float("inf") else f"duration {duration}"


def described(clip: Any) -> str:
    sound = "no sound" if clip.waveform is None else f"{len(clip.waveform)} samples"
    frames = "no picture" if clip.frames is None else " x ".join(map(str, clip.frames.shape[:3]))
    return f"{sound}, {frames}, {clip.decode_errors} undecodable"


if __name__ == "__main__":
    main()
