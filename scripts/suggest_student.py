"""Suggest students of a teacher that keep within a budget, the most promising first, without training any.

    python scripts/suggest_student.py --teacher runs/teacher --max_params 10M --max_latency_ms 20
    python scripts/suggest_student.py --teacher runs/teacher --max_macs 1.5G --max_memory_mb 200 --threads 1
    python scripts/suggest_student.py --teacher runs/avs-teacher --max_params 25M --device cuda --candidates 32

Parameters and multiply-accumulates are counted for all students of the teacher's family that are searched, latency and
peak memory measured on this machine, one clip at a time, for at most --candidates of those within the budget. They are
ranked by DisWOT's score at random weights (docs/student_choice.md: what it is worth). Prints a Markdown table and two
commands: one distils the first, one the largest of those that the score does not tell from the first. Writes both with
suggestions.json, a picture of score against latency and the config of the first (student/, which distill.py --student
takes too) into --output_dir. Measure on a machine that does nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from hf_emktd.hub.distillation_summary import write_whole
from hf_emktd.metrics import count_parameters
from hf_emktd.search import (
    Budget,
    SearchArguments,
    distill_command,
    draw,
    format_table,
    measuring_conditions,
    rivals,
    scoring_batches,
    suggest_students,
    to_dict,
)
from hf_emktd.training import DataArguments, load_model, open_clips, parse_arguments, to_json
from hf_emktd.training.clip_data import TRAIN
from hf_emktd.training.refusals import refusals_in_one_line

DATA_OPTIONS = ("dataset", "data_dir", "dataset_options")


@dataclass
class TeacherArguments:
    """
    Whose students are searched, and where the answer goes.

    Raises:
        ValueError: without a teacher.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the answer; by default runs/<teacher>-students."}
    )

    def __post_init__(self) -> None:
        if self.teacher is None:
            raise ValueError("--teacher is needed: the directory or Hub id of a trained teacher")
        self.output_dir = self.output_dir or f"runs/{Path(self.teacher).name}-students"


def main() -> None:
    models, budget, data_args, args = parse_arguments(
        (TeacherArguments, Budget, DataArguments, SearchArguments), __doc__
    )
    data_options = given_options(data_args)
    with refusals_in_one_line():
        teacher, processor = load_model(models.teacher)
        data_args.fill_from(teacher.config)
        data = open_clips(data_args, processor, model_config=teacher.config, only_split=TRAIN)
        suggestions = suggest_students(teacher, scoring_batches(data, args), budget, args)
    alike = rivals(suggestions)
    commands = {
        "highest score": distill_command(suggestions[0], models.teacher, data_options),
        f"most parameters of the {len(alike)} whose score is not clearly lower": distill_command(
            alike[0], models.teacher, data_options
        ),
    }
    answer = "\n\n".join([format_table(suggestions, count_parameters(teacher)), format_commands(commands)])
    folder = Path(models.output_dir)
    suggestions[0].student.candidate.config.save_pretrained(folder / "student")
    results = {
        "teacher": models.teacher,
        "budget": asdict(budget),
        "search": asdict(args),
        "measured_on": measuring_conditions(args.device, args.threads),
        "commands": commands,
        "suggestions": [to_dict(suggestion) for suggestion in suggestions],
    }
    write_whole(folder / "suggestions.json", to_json(results) + "\n")
    write_whole(folder / "table.md", answer + "\n")
    draw(suggestions, folder / "score_and_latency.png")
    print(answer)


def format_commands(commands: dict[str, str]) -> str:
    lines = [f"# {what}\n{command}" for what, command in commands.items()]
    return "\n".join(["```bash", *lines, "```"])


def given_options(data_args: DataArguments) -> list[str]:
    """What the user said of the data, for the command that distils on the same."""
    pairs = [(f"--{name}", getattr(data_args, name)) for name in DATA_OPTIONS]
    return [word for name, value in pairs if value is not None for word in (name, value)]


if __name__ == "__main__":
    main()
