"""Time and peak memory of the token distillation loss, forward and backward, beside other ways to write it.

    python benchmarks/token_distillation_loss.py
    python benchmarks/token_distillation_loss.py --tokens 16 48 64 --batch 64 --teacher_width 64 --student_width 16
    python benchmarks/token_distillation_loss.py --tokens 20000 --batch 1 --forms fused --repeats 1

With `pip install --no-deps torchdistill` its nearest losses are measured as well: CCKDLoss (a Taylor series of the RBF
kernel between unit vectors) and SPKDLoss (the linear kernel), both made for the vectors of a batch and given here the
tokens of one clip after the other. Prints Markdown; benchmarks/README.md says how to read it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import HfArgumentParser

from hf_emktd.distillation import TokenKernel, token_distillation_loss
from hf_emktd.search.measurement import peak_growth

KERNEL = TokenKernel("rbf", gamma=0.5)
WARM_UP = 1


@dataclass
class Options:
    tokens: list[int] = field(default_factory=lambda: [708, 1416, 2832], metadata={"help": "Tokens of a clip."})
    batch: int = field(default=4, metadata={"help": "Clips."})
    teacher_width: int = field(default=768, metadata={"help": "Channels of a teacher's token."})
    student_width: int = field(default=192, metadata={"help": "Channels of a student's token."})
    repeats: int = field(default=9, metadata={"help": "Timed calls of each form, in turn; the median is printed."})
    threads: int = field(default=2, metadata={"help": "Of torch."})
    forms: list[str] = field(default_factory=list, metadata={"help": "Some of the forms; by default all."})


def fused(student: Tensor, teacher: Tensor) -> Tensor:
    return token_distillation_loss(student, teacher, KERNEL).mean()


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """Whole Gram matrices; the RBF kernel as an exponential of cosines."""
    return F.huber_loss(KERNEL.gram(student), KERNEL.gram(teacher))


def textbook(student: Tensor, teacher: Tensor) -> Tensor:
    """The formula as it is printed: squared distances of unit tokens, exponential, Huber."""
    student, teacher = (F.normalize(tokens, dim=-1) for tokens in (student, teacher))
    grams = [torch.exp(-KERNEL.gamma * torch.cdist(tokens, tokens) ** 2) for tokens in (student, teacher)]
    return F.huber_loss(*grams)


def torchdistill_cckd(student: Tensor, teacher: Tensor) -> Tensor:
    from torchdistill.losses.mid_level import CCKDLoss

    kernel = {"type": "gaussian", "gamma": KERNEL.gamma, "max_p": 2}
    student, teacher = (F.normalize(tokens, dim=-1) for tokens in (student, teacher))
    return _clip_by_clip(CCKDLoss("tokens", "tokens", kernel, "batchmean"), student, teacher)


def torchdistill_spkd(student: Tensor, teacher: Tensor) -> Tensor:
    from torchdistill.losses.mid_level import SPKDLoss

    return _clip_by_clip(SPKDLoss("tokens", "tokens", "batchmean"), student, teacher)


def _clip_by_clip(loss: torch.nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(student, teacher, strict=True)
    return torch.stack([loss(*({"tokens": {"output": tokens}} for tokens in pair)) for pair in pairs]).mean()


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fused": fused,
    "plain": plain,
    "textbook": textbook,
    "torchdistill CCKDLoss": torchdistill_cckd,
    "torchdistill SPKDLoss": torchdistill_spkd,
}


def main() -> None:
    (options,) = HfArgumentParser(Options).parse_args_into_dataclasses()
    torch.set_num_threads(options.threads)
    forms = options.forms or [
        name for name in FORMS if "torchdistill" not in name or importlib.util.find_spec("torchdistill")
    ]
    print(
        f"Batch {options.batch}, widths {options.teacher_width} and {options.student_width}, {KERNEL.to_dict()}, "
        f"{options.threads} threads, torch {torch.__version__}, medians of {options.repeats}, in brackets in units of "
        f"{forms[0]}.\n"
    )
    print("| tokens | form | ms | processor ms | peak MB |\n| ---: | --- | ---: | ---: | ---: |")
    for count in options.tokens:
        wall, processor = interleaved_times(forms, count, options)
        peaks = [[peak_in_a_new_process(name, count, options)] for name in forms]
        for index, name in enumerate(forms):
            cells = [measured_and_ratio(kind[index], kind[0]) for kind in (wall, processor, peaks)]
            print(f"| {count} | {name} | {' | '.join(cells)} |", flush=True)


def measured_and_ratio(own: list[float], first: list[float]) -> str:
    ratio = median(value / other for value, other in zip(own, first, strict=True))
    return f"{median(own):,.1f} ({ratio:.2f})"


def interleaved_times(forms: list[str], count: int, options: Options) -> tuple[list[list[float]], list[list[float]]]:
    """By form the milliseconds of its calls and those that processors spent on them, all threads summed up."""
    student, teacher = random_tokens(count, options)
    wall: list[list[float]] = [[] for _ in forms]
    processor: list[list[float]] = [[] for _ in forms]
    for repetition in range(WARM_UP + options.repeats):
        for index, name in enumerate(forms):
            starts = time.perf_counter(), time.process_time()
            step(name, student, teacher)
            ends = time.perf_counter(), time.process_time()
            if repetition >= WARM_UP:
                wall[index].append(1000 * (ends[0] - starts[0]))
                processor[index].append(1000 * (ends[1] - starts[1]))
    return wall, processor


def peak_in_a_new_process(name: str, count: int, options: Options) -> float:
    # forks of a server that has imported this file and done nothing else
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(peak_of, name, count, options).result()


def peak_of(name: str, count: int, options: Options) -> float:
    """Megabytes of one step beside the tokens themselves."""
    torch.set_num_threads(options.threads)
    student, teacher = random_tokens(count, options)
    return peak_growth(lambda: step(name, student, teacher))


def step(name: str, student: Tensor, teacher: Tensor) -> None:
    student.grad = None
    FORMS[name](student, teacher).backward()


def random_tokens(count: int, options: Options) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, count)
    student = torch.randn(*shape, options.student_width, generator=generator).requires_grad_()
    return student, torch.randn(*shape, options.teacher_width, generator=generator)


if __name__ == "__main__":
    main()
