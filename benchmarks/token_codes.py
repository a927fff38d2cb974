"""What the codes of a teacher cache change of the KTD loss and of the student's gradient, on a trained teacher.

    python benchmarks/token_codes.py --teacher quickstart/teacher --student quickstart/em-ktd_kd
    python benchmarks/token_codes.py --teacher quickstart/teacher --student quickstart/em-ktd_kd --clips 64

Against the teacher's own tokens, for a batch of augmented training clips: size and rank of the codes, relative change
of the loss, and 1 minus the cosine between the gradients of all the student's weights. Prints Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from transformers import HfArgumentParser, PreTrainedModel

from hf_emktd.data import AudioVisualCollator, AugmentationArguments, SceneAugmentationArguments
from hf_emktd.distillation import KernelizedTokenDistillation, LiveTeacher, TeacherSignal
from hf_emktd.distillation.token_codes import TokenRelations
from hf_emktd.training import DataArguments, augmentation_for, load_model, open_clips
from hf_emktd.training.teacher_cache import stack_signals


@dataclass
class Options:
    teacher: str = field(metadata={"help": "Directory or Hub id of a trained teacher."})
    student: str = field(metadata={"help": "Directory or Hub id of a student of it."})
    max_errors: list[float] = field(default_factory=lambda: [0.03, 0.02, 0.01, 0.005], metadata={"help": "Bounds."})
    max_rank: int = field(default=TokenRelations.max_rank, metadata={"help": "Largest rank."})
    clips: int = field(default=16, metadata={"help": "Clips of the batch."})


def main() -> None:
    options, data_args = HfArgumentParser((Options, DataArguments)).parse_args_into_dataclasses()
    teacher, processor = load_model(options.teacher)
    student, _ = load_model(options.student)
    data_args.fill_from(teacher.config)
    data = open_clips(data_args, processor, model_config=teacher.config)
    augmentation = augmentation_for(teacher.config, [AugmentationArguments(), SceneAugmentationArguments()])
    views = data.train_views(augmentation, processor)
    batch = AudioVisualCollator()([views[clip, clip] for clip in range(options.clips)])
    signal = LiveTeacher(teacher)(**batch)
    objective = KernelizedTokenDistillation.for_models(student.config, teacher.config, scale="none")
    loss, gradient = gradient_of(objective, student, batch, signal)
    print(f"| max_error | kB a clip | rank: {', '.join(signal.tokens)} | loss | 1 - cosine of the gradient |")
    print("| ---: | ---: | --- | ---: | ---: |")
    for max_error in options.max_errors:
        codec = TokenRelations(max_error, options.max_rank)
        codes = {branch: codec.encode(tokens, signal.grids[branch]) for branch, tokens in signal.tokens.items()}
        changed = replace(signal, tokens={branch: decoded(clips) for branch, clips in codes.items()})
        other_loss, other_gradient = gradient_of(objective, student, batch, changed)
        cosine = nn.functional.cosine_similarity(gradient, other_gradient, dim=0).item()
        ranks = ", ".join(f"{mean([code['code'].shape[1] for code in clips]):.1f}" for clips in codes.values())
        print(
            f"| {max_error:g} | {size_of(codes) / options.clips / 1000:.1f} | {ranks} | "
            f"{100 * abs(other_loss / loss - 1):.2f} % | {1 - cosine:.1e} |"
        )


def gradient_of(
    objective: nn.Module, student: PreTrainedModel, batch: dict[str, Tensor], signal: TeacherSignal
) -> tuple[float, Tensor]:
    """The loss, and its gradient in all weights of the student, `(weights,)`."""
    student.zero_grad()
    inputs = {name: batch[name] for name in ("input_values", "pixel_values")}
    loss = torch.stack(list(objective(student(**inputs, output_tokens=True), signal).values())).sum()
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None]
    return loss.item(), torch.cat(gradients)


def decoded(codes: list[dict[str, Tensor]]) -> Tensor:
    return TokenRelations().decode(stack_signals(codes))


def size_of(codes: dict[str, list[dict[str, Tensor]]]) -> int:
    """Bytes before compression."""
    return sum(value.nbytes for clips in codes.values() for code in clips for value in code.values())


def mean(values: list[int]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
