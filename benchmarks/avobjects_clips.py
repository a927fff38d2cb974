"""Write the photographs and sounds of avobjects as a table of clips that every script reads.

    python benchmarks/avobjects_clips.py ../shared/data/avobjects runs/avobjects/clean
    python scripts/train_teacher.py --dataset runs/avobjects/clean/clips.csv ...

The folders of photographs and sounds are linked, not copied: a table names files below its own folder only.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

FOLDERS = ("photos", "sounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="Folder with pairs.csv, photos/ and sounds/.")
    parser.add_argument("output_dir", type=Path, help="Folder of clips.csv and the links.")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for name in FOLDERS:
        link = args.output_dir / name
        if not link.is_symlink():
            link.symlink_to((args.source / name).resolve())
    with open(args.source / "pairs.csv", newline="", encoding="utf-8") as file:
        pairs = list(csv.DictReader(file))
    with open(args.output_dir / "clips.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["clip_id", "split", "label", "image", "audio"])
        for pair in pairs:
            table.writerow(
                [f"pair{int(pair['pair_id']):04d}", *(pair[name] for name in ("split", "label", "photo", "sound"))]
            )
    print(args.output_dir / "clips.csv")


if __name__ == "__main__":
    main()
