"""What exporting saves: CAV-MAE as the EM-KTD paper's student (192 wide) in each format beside its teacher (768 wide).

    python benchmarks/export_sizes.py

Random weights: sizes, latencies and memory do not depend on what was learnt. Both targets of the int8 student are
printed: a fiftieth of the teacher's bytes, a twentieth of its latency.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import set_seed

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification, CavMaeProcessor
from hf_emktd.export import FORMATS, comparison_table, export_model, measure

FEWER_BYTES, FASTER = 50, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", nargs="+", default=["onnx", "onnx-int8", "torch-export"], choices=list(FORMATS))
    parser.add_argument("--repetitions", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = {"student": save(Path(folder, "student"), "tiny"), "teacher": save(Path(folder, "teacher"), "base")}
        student = CavMaeForAudioVisualClassification.from_pretrained(names["student"])
        rows = measure(names, export_model(student, Path(folder, "export"), args.format), args.repetitions)
    print(f"{comparison_table(rows)}\n\n{torch.get_num_threads()} threads")
    (teacher,) = (row for row in rows if row.model == "teacher")
    for row in rows:
        if row.format == "onnx-int8":
            print(
                f"int8 student: the teacher's bytes / {teacher.bytes / row.bytes:.1f} (target {FEWER_BYTES}), its "
                f"latency / {teacher.milliseconds / row.milliseconds:.1f} (target {FASTER}), its processor time / "
                f"{teacher.processor_milliseconds / row.processor_milliseconds:.1f}"
            )


def save(folder: Path, preset: str) -> str:
    """A model that was not trained, with its processor."""
    set_seed(0)
    config = CavMaeConfig.from_preset(preset)
    CavMaeForAudioVisualClassification(config).save_pretrained(folder)
    CavMaeProcessor.from_config(config).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
