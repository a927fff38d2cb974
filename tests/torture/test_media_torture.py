"""Every broken media file, and fuzzing: each gives a clip, a stated absence or MediaError, in time and in memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from broken_clips import broken_clips
from good_clips import write_all
from isolated_reading import IsolatedReader, Outcome

pytestmark = pytest.mark.torture

FUZZED = {"read_clip": 20_000, "read_bytes": 2_000, "read_windows": 3_000, "read_image": 10_000}
OPTIONS = [
    {},
    {"frame_times_seconds": [0.0, 0.3, 9.9]},
    {"sampling_rate": None, "mix_channels": True},
    {"max_seconds": 0.2, "num_frames": 3},
]


def test_broken_files(tmp_path):
    outcomes: list[tuple[str, Outcome]] = []
    with IsolatedReader(tmp_path) as reader:
        for broken in broken_clips(tmp_path):
            outcome = reader.read(broken.path, broken.call, **broken.options)
            outcomes.append((broken.fault, outcome))
            assert outcome.kind in broken.allowed and broken.said in outcome.detail, (broken, outcome)
    for (fault, kind), count in sorted(Counter((fault, outcome.kind) for fault, outcome in outcomes).items()):
        print(f"{fault}: {count} {kind}")
    report("broken files", [outcome for _, outcome in outcomes])


@pytest.mark.parametrize("call", FUZZED)
def test_fuzzed(tmp_path, call):
    """The damage to input `index` follows from `[1, index]` alone, so that a failure is repeated by it."""
    good = write_pictures(tmp_path) if call == "read_image" else write_all(tmp_path)
    outcomes, failed = [], []
    with IsolatedReader(tmp_path) as reader:
        for index in range(FUZZED[call]):
            path = good[index % len(good)]
            options = OPTIONS[index // len(good) % len(OPTIONS)] if call in ("read_clip", "read_bytes") else {}
            outcomes.append(reader.read(path, call, seed=[1, index], **options))
            if not outcomes[-1].is_allowed:
                failed.append((path.name, index, outcomes[-1]))
    report(f"fuzzed {call}", outcomes)
    assert not failed, failed


def write_pictures(folder):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.jpg", "a.tiff", "a.webp"):
        picture.save(folder / name, exif=exif)
    picture.save(folder / "progressive.jpg", progressive=True)
    picture.save(folder / "lzw.tiff", compression="tiff_lzw")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("1").save(folder / "bits.png")
    for name in ("a.gif", "a.bmp", "a.ppm"):
        picture.save(folder / name)
    return sorted(folder.iterdir())


def report(name: str, outcomes: list[Outcome]) -> None:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in Counter(o.kind for o in outcomes).most_common())
    slowest, largest = max(o.seconds for o in outcomes), max(o.megabytes for o in outcomes)
    print(f"{name}: {len(outcomes):,} inputs: {kinds}; at most {slowest:.1f} s and {largest:,} MB")
