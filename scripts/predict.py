"""What a model hears and sees in clips: the event, or the pixels of what sounds.

    python scripts/predict.py clips/*.mp4 --model runs/student
    python scripts/predict.py concert.webm --model org/emktd-student --frames 10 --top_k 3
    python scripts/predict.py clips/*.mp4 --model runs/segmenter --output_dir predictions

A classifier gives its best labels with both senses, with sound only and with picture only. A clip without sound is
answered from the picture and marked so, one without a picture from the sound.

A model of masks writes NAME_overlay.mp4, the clip with what sounds marked, and NAME_frames.png, one frame of each
second, and prints the share of the picture that sounds, in %, second by second. A clip without sound is given silence
and marked so.

A file that cannot be read gets one line with the reason. Ends with status 0 if at least one clip was answered, else 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from hf_emktd.data import MediaError
from hf_emktd.hub import predict_clip, segment_clip, write_overlay, write_strip
from hf_emktd.hub.distillation_summary import SEGMENTATION, write_whole
from hf_emktd.plain_text import in_one_line
from hf_emktd.training import load_model, parse_arguments, to_json
from hf_emktd.training.refusals import refusals_in_one_line


@dataclass
class PredictionArguments:
    """
    Which clips, which model, and what of its answer.

    Raises:
        ValueError: without clips or model, for a number below 1, or where `output_dir` is a file.
    """

    clips: list[str] = field(
        default_factory=list, metadata={"help": "Media files in any container; --clips may be left out."}
    )
    model: str | None = field(default=None, metadata={"help": "Directory or Hub id of the model. Required."})
    top_k: int = field(default=5, metadata={"help": "Classification: labels shown of each clip."})
    frames: int = field(
        default=1,
        metadata={
            "help": "Classification: 1: the middle frame. 10: softmax averaged over 10 frames (CAV-MAE's headline)."
        },
    )
    output_dir: str = field(default="predictions", metadata={"help": "Segmentation: folder of films and pictures."})
    json: str | None = field(default=None, metadata={"help": "File that all answers are also written to."})

    def __post_init__(self):
        if not self.clips:
            raise ValueError("no clip is given; name at least one media file")
        if self.model is None:
            raise ValueError("--model is needed: the directory or Hub id of a trained model")
        for name in ("top_k", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if Path(self.output_dir).is_file():
            raise ValueError(f"output_dir {self.output_dir} is a file; name a folder")


def main() -> None:
    # a clip's name may begin with a dash, as ids of YouTube do; that is no option
    arguments = [f"./{name}" if name.startswith("-") and Path(name).is_file() else name for name in sys.argv[1:]]
    (args,) = parse_arguments((PredictionArguments,), __doc__, arguments, positional="clips")
    with refusals_in_one_line():
        model, processor = load_model(args.model)
    model.to(PartialState().device)
    segments = model.config.task == SEGMENTATION
    answers = []
    for index, path in enumerate(args.clips):
        text, plain = mark(model, processor, path, args) if segments else answer(model, processor, path, args)
        print(f"\n{text}" if index and not segments else text, flush=True)
        answers.append(plain)
    if args.json is not None:
        frames = {} if segments else {"frames": args.frames}
        write_whole(Path(args.json), to_json({"model": args.model, **frames, "clips": answers}) + "\n")
    raise SystemExit(0 if any("error" not in plain for plain in answers) else 1)


def answer(
    model: PreTrainedModel, processor: ProcessorMixin, path: str, args: PredictionArguments
) -> tuple[str, dict[str, Any]]:
    """The answer for one clip, or why there is none, as text and as plain values."""
    try:
        prediction = predict_clip(model, processor, path, frames=args.frames, top_k=args.top_k)
    except MediaError as error:
        return refusal(path, error)
    return prediction.table(), prediction.to_dict()


def mark(
    model: PreTrainedModel, processor: ProcessorMixin, path: str, args: PredictionArguments
) -> tuple[str, dict[str, Any]]:
    """What sounds in one clip, drawn into two files, or why there are none, as text and as plain values."""
    folder = Path(args.output_dir)
    try:
        segmentation = segment_clip(model, processor, path)
        folder.mkdir(parents=True, exist_ok=True)
        name = output_name(path, args.clips)
        overlay = write_overlay(segmentation, folder / f"{name}_overlay.mp4")
    except MediaError as error:
        return refusal(path, error)
    frames = write_strip(segmentation, folder / f"{name}_frames.png")
    return segmentation.line(), {**segmentation.to_dict(), "overlay": str(overlay), "frames": str(frames)}


def output_name(path: str, clips: list[str]) -> str:
    """A clip's name without its ending; where several clips have it, numbered as they were given."""
    same = [clip for clip in dict.fromkeys(clips) if Path(clip).stem == Path(path).stem]
    return Path(path).stem + (f"_{same.index(path) + 1}" if len(same) > 1 else "")


def refusal(path: str, error: MediaError) -> tuple[str, dict[str, Any]]:
    return in_one_line(str(error)), {"path": path, "error": error.reason}


if __name__ == "__main__":
    main()
