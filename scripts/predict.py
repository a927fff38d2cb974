"""What a model hears and sees in clips: its best labels with both senses, with sound only and with picture only.

    python scripts/predict.py clips/*.mp4 --model runs/student
    python scripts/predict.py concert.webm --model org/emktd-student --frames 10 --top_k 3
    python scripts/predict.py clips/*.mp4 --model runs/student --json predictions.json

A clip without sound is answered from the picture and marked so, one without a picture from the sound; a file that
cannot be read gets one line with the reason. Ends with status 0 if at least one clip was answered, else 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from hf_emktd.data import MediaError
from hf_emktd.hub import predict_clip
from hf_emktd.hub.distillation_summary import write_whole
from hf_emktd.training import load_model, parse_arguments, to_json
from hf_emktd.training.refusals import refusals_in_one_line


@dataclass
class PredictionArguments:
    """
    Which clips, which model, and what of its answer.

    Raises:
        ValueError: without clips or model, or for a number below 1.
    """

    clips: list[str] = field(
        default_factory=list, metadata={"help": "Media files in any container; --clips may be left out."}
    )
    model: str | None = field(default=None, metadata={"help": "Directory or Hub id of the model. Required."})
    top_k: int = field(default=5, metadata={"help": "Labels shown of each clip."})
    frames: int = field(
        default=1, metadata={"help": "1: the middle frame. 10: softmax averaged over 10 frames (CAV-MAE's headline)."}
    )
    json: str | None = field(default=None, metadata={"help": "File that all answers are also written to."})

    def __post_init__(self):
        if not self.clips:
            raise ValueError("no clip is given; name at least one media file")
        if self.model is None:
            raise ValueError("--model is needed: the directory or Hub id of a trained model")
        for name in ("top_k", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def main() -> None:
    # a clip's name may begin with a dash, as ids of YouTube do; that is no option
    arguments = [f"./{name}" if name.startswith("-") and Path(name).is_file() else name for name in sys.argv[1:]]
    (args,) = parse_arguments((PredictionArguments,), __doc__, arguments, positional="clips")
    with refusals_in_one_line():
        model, processor = load_model(args.model)
    model.to(PartialState().device)
    answers = []
    for index, path in enumerate(args.clips):
        text, plain = answer(model, processor, path, args)
        print(f"\n{text}" if index else text, flush=True)
        answers.append(plain)
    if args.json is not None:
        write_whole(Path(args.json), to_json({"model": args.model, "frames": args.frames, "clips": answers}) + "\n")
    raise SystemExit(0 if any("top" in plain for plain in answers) else 1)


def answer(
    model: PreTrainedModel, processor: ProcessorMixin, path: str, args: PredictionArguments
) -> tuple[str, dict[str, Any]]:
    """The answer for one clip, or why there is none, as text and as plain values."""
    try:
        prediction = predict_clip(model, processor, path, frames=args.frames, top_k=args.top_k)
    except MediaError as error:
        return " ".join(str(error).split()), {"path": path, "error": error.reason}
    return prediction.table(), prediction.to_dict()


if __name__ == "__main__":
    main()
