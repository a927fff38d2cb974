"""A page in the browser: drop in a video or record one, and see what a model hears and sees in it.

    python scripts/demo.py --model runs/student --teacher runs/teacher
    python scripts/demo.py --model runs/segmenter --max_file_mb 20 --max_seconds 10
    python scripts/demo.py --model org/emktd-student --host 0.0.0.0 --port 8080

Events with their scores from sound and picture, from the sound only and from the picture only, with the entropy weight
of each where the model has an entropy monitor; or the video with what sounds marked. With --teacher both answer, with
their sizes and latencies. The page listens on this machine only unless --host or --share says otherwise, asks no other
server for anything, and deletes a video once it is answered. Needs Gradio: pip install 'hf_emktd[demo]'.

The file is also the app.py of a Hugging Face Space; there DEMO_MODEL and DEMO_TEACHER name the models.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field

from accelerate import PartialState

from hf_emktd.demo import Respondent, UploadLimits, build_page, serve
from hf_emktd.training import parse_arguments
from hf_emktd.training.refusals import refusals_in_one_line


@dataclass
class DemoArguments:
    """
    Which models answer, who may ask, and what a video may be.

    Raises:
        ValueError: without a model, or for a number out of range.
    """

    model: str | None = field(
        default=os.environ.get("DEMO_MODEL"),
        metadata={"help": "Directory or Hub id of the model. Required, here or as DEMO_MODEL in the environment."},
    )
    teacher: str | None = field(
        default=os.environ.get("DEMO_TEACHER"),
        metadata={"help": "Directory or Hub id of a model that answers beside it; or DEMO_TEACHER."},
    )
    host: str = field(
        default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        metadata={"help": "Address to listen on; 0.0.0.0: everyone who can reach this machine."},
    )
    port: int | None = field(default=None, metadata={"help": "By default the first free one from 7860."})
    share: bool = field(
        default=False, metadata={"help": "Give the page a public address through Gradio's servers, for a week."}
    )
    max_file_mb: float = field(default=50.0, metadata={"help": "Megabytes that a video may have."})
    max_seconds: float = field(default=30.0, metadata={"help": "Seconds that a video may last."})
    top_k: int = field(default=5, metadata={"help": "Labels shown for each sense."})

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("--model is needed: the directory or Hub id of a trained model")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}.")
        self.limits = UploadLimits(self.max_file_mb, self.max_seconds)


def main() -> None:
    (args,) = parse_arguments((DemoArguments,), __doc__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are deleted then too
    device = PartialState().device
    with refusals_in_one_line():
        names = {"student": args.model, "teacher": args.teacher} if args.teacher else {"model": args.model}
        respondents = [Respondent(name, role, device) for role, name in names.items()]
        page = build_page(respondents, args.limits, top_k=args.top_k)
    serve(page, args.limits, host=args.host, port=args.port, share=args.share)


if __name__ == "__main__":
    main()
