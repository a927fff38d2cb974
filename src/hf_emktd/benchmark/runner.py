"""From a data set or a teacher to all runs of the chosen rows: teacher, monitors, tuning, seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .. import models  # noqa: F401  registers the Auto classes
from ..distillation.objectives import OBJECTIVES_OF_TASK
from ..distillation.teacher import fingerprint
from ..distillation.token_codes import CODECS
from ..training.loading import MONITOR_FOLDER, find_monitor
from ..training.objectives import parse_objective_options
from ..training.tasks import TASKS
from ..training.teacher_cache import CacheManifest
from .execution import Executor
from .runs import Run, digest, digest_of_weights, joined, objective_options, slug, value_of, without
from .suites import SUITES, Row
from .tuning import FACTORS, Choice, by_option, candidates, settings, stages, with_followed

CACHE_OPTION = "--teacher_cache"
TUNING_SEED = 1000
# Of every student, before what the user and the row say: nothing is kept of a run of minutes but its end.
STUDENT_OPTIONS = (
    "--save_strategy",
    "no",
    "--eval_strategy",
    "epoch",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
)
# Of the teacher: an interrupted one goes on where it stopped.
TEACHER_OPTIONS = ("--save_strategy", "epoch", "--save_total_limit", "1", "--resume_from_checkpoint", "last")


@dataclass
class Benchmark:
    """
    The runs of one benchmark, in folders below `output_dir` whose names hold a digest of all that decides a run: the
    same call goes on where it was interrupted, and other options never mix with old results.

    Args:
        output_dir: folder of all runs.
        scripts: folder of train_teacher.py, train_monitor.py and distill.py.
        executor: runs them.
        teacher_options: of train_teacher.py; unused where `teacher` names one.
        student_options: of distill.py, for every row.
        data_options: which clips, for all three scripts; *optional* with a teacher that names its own.
        monitor_options: of train_monitor.py.
        teacher: *optional*, directory of a trained teacher.
        factors: of the grid on which weights are tuned.
    """

    output_dir: Path
    scripts: Path
    executor: Executor
    teacher_options: Sequence[str] = ()
    student_options: Sequence[str] = ()
    data_options: Sequence[str] = ()
    monitor_options: Sequence[str] = ()
    teacher: str | None = None
    factors: Sequence[float] = FACTORS
    choices: dict[str, Choice] = field(default_factory=dict)
    _fingerprints: dict[str, str | None] = field(default_factory=dict)

    def prepare_teacher(self) -> None:
        """
        Trains the teacher, unless it is there or was named.

        Raises:
            RuntimeError: if that fails.
        """
        if self.teacher is None:
            options = (*TEACHER_OPTIONS, *self.data_options, *self.teacher_options)
            folder = self.output_dir / f"teacher-{digest(options)}"
            self._run_alone(Run("teacher", self.scripts / "train_teacher.py", options, folder))
            self.teacher = str(folder)

    def prepare_monitors(self, rows: Sequence[Row]) -> None:
        """
        Trains the entropy monitors that the rows need, unless they are there.

        Raises:
            RuntimeError: if that fails.
        """
        monitored = [row for row in self._followed(rows) if self._is_monitored(row)]
        for hidden_layers in sorted({row.hidden_layers for row in monitored}):
            if not self._teacher_has_monitor(hidden_layers):
                self._run_alone(self._monitor_run(hidden_layers))

    @cached_property
    def teacher_config(self) -> PreTrainedConfig:
        """The teacher's config."""
        return AutoConfig.from_pretrained(self.teacher)

    @property
    def task(self) -> str:
        """What the models do."""
        return self.teacher_config.task

    @property
    def metrics(self) -> tuple[str, str]:
        """Names of the metric that decides, and of a second one."""
        return TASKS[self.task].deciding_metrics

    def tune(self, rows: Sequence[Row]) -> None:
        """Makes the choices for `rows`, and for those that they follow."""
        for stage in stages(self._followed(rows)):
            runs = {row.name: self._tuning_runs(row) for row in stage}
            self.executor.execute([run for by_value in runs.values() for run in by_value.values()])
            for row in stage:
                if row.tuned is not None:
                    ended = {value: run for value, run in runs[row.name].items() if run.finished}
                    self.choices[row.name] = Choice(row.tuned, {v: self._scores(row, run) for v, run in ended.items()})

    def repeat(self, rows: Sequence[Row], seeds: int, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs every row with its choice, all rows of a seed before the next; `after_each` is called between."""
        for seed in range(seeds):
            self.executor.execute([self.student_run(row, seed) for row in rows])
            after_each()

    def expect(self, rows: Sequence[Row], seeds: int, tuned: bool) -> None:
        """Counts the runs that are to come, for the estimate of the time left."""
        tuning = [run for row in self._followed(rows) for run in self._tuning_runs(row)] if tuned else []
        self.executor.expect(len(tuning) + seeds * len(rows))

    def student_run(self, row: Row, seed: int) -> Run:
        """One seed of a row, with what was chosen so far."""
        return self._student(row, settings(row, self.choices), seed, f"seed {seed}")

    def is_cached(self, row: Row, chosen: Mapping[str, str] | None = None) -> bool:
        """
        Whether the teacher cache among the options of students, if there is one, holds what the row's objectives read
        with their options and was written with its monitor. Other rows run beside the teacher itself.

        Args:
            row: of a table.
            chosen: values by option that the row runs with, by default those chosen so far.
        """
        if self._cache is None:
            return False
        serves = CODECS[self._cache.codec["name"]].serves
        if any(
            read not in serves for read in self._reads(row, settings(row, self.choices) if chosen is None else chosen)
        ):
            return False
        monitor = self._monitor_of(row)
        return monitor is None or self._fingerprint_of(monitor) == self._cache.source["monitor"]

    def _reads(self, row: Row, chosen: Mapping[str, str]) -> set[str]:
        """What the row's objectives read of the teacher, with the options that they are made with."""
        words = joined(self.student_options, row.options, as_options(chosen), objectives=row.objectives)
        options = parse_objective_options(objective_options(words), list(row.objectives))
        known = OBJECTIVES_OF_TASK[self.task]
        return {known[name].reads_with(**own) for name, own in options.items()}

    def _fingerprint_of(self, folder: str) -> str | None:
        """Of a monitor; `None` before it is trained."""
        if self._fingerprints.get(folder) is None:
            monitor = find_monitor(folder if folder == str(self.teacher) else Path(folder))
            self._fingerprints[folder] = None if monitor is None else fingerprint(monitor)
        return self._fingerprints[folder]

    @cached_property
    def _cache(self) -> CacheManifest | None:
        folder = value_of(self.student_options, CACHE_OPTION)
        return None if folder is None else CacheManifest.load(folder)

    def _scores(self, row: Row, run: Run) -> tuple[float, float]:
        first, second = (run.results["results"][row.modality][metric] for metric in self.metrics)
        return first, second

    def _followed(self, rows: Sequence[Row]) -> list[Row]:
        known = {row.name: row for suite in SUITES[self.task].values() for row in suite}
        return with_followed(rows, known)

    def _tuning_runs(self, row: Row) -> dict[str, Run]:
        others = {name: choice for name, choice in self.choices.items() if name != row.name}
        runs = {}
        for value in candidates(row, self.task, self.factors):
            chosen = settings(row, others) | by_option(row.tuned, value)
            run = self._student(row, chosen, TUNING_SEED, f"tune {value}")
            runs[value] = replace(run, options=(*run.options, "--split", "validation"))
        return runs

    def _student(self, row: Row, chosen: dict[str, str], seed: int, name: str) -> Run:
        options = joined(
            STUDENT_OPTIONS,
            self.data_options,
            self.student_options if self.is_cached(row, chosen) else without(self.student_options, CACHE_OPTION),
            row.options,
            ["--student_fields", *(text.format(**self._teacher_facts) for text in row.student_fields)],
            as_options(chosen),
            # the teacher is always measured with both
            ["--modalities", *dict.fromkeys(("both", row.modality)), "--seed", str(seed)],
            ["--objective", *(row.objectives or ("none",))],
            objectives=row.objectives,
        )
        monitor = self._monitor_of(row)
        key = digest(options, self._teacher_digest, None if monitor is None else self._monitor_digest(monitor))
        folder = self.output_dir / slug(row.name) / f"{name.replace(' ', '_')}-{key}"
        options = ("--teacher", str(self.teacher), *(() if monitor is None else ("--monitor", monitor)), *options)
        return Run(f"{row.name}, {name}", self.scripts / "distill.py", options, folder)

    @cached_property
    def _teacher_facts(self) -> dict[str, Any]:
        """What `Row.student_fields` may name: fields of the teacher's config, and half its picture's side."""
        facts = self.teacher_config.to_dict()
        return facts | {"half_image_size": facts["image_size"] // 2}

    @cached_property
    def _teacher_digest(self) -> str:
        return digest_of_weights(self.teacher)

    @cached_property
    def _own_hidden_layers(self) -> int | None:
        """Of the monitor in the teacher's folder."""
        monitor = find_monitor(self.teacher)
        return None if monitor is None else monitor.config.hidden_layers

    def _is_monitored(self, row: Row) -> bool:
        known = OBJECTIVES_OF_TASK[self.task]
        return any(known[name].requires_entropies for name in row.objectives)

    def _teacher_has_monitor(self, hidden_layers: int) -> bool:
        return not self.monitor_options and self._own_hidden_layers == hidden_layers

    def _monitor_run(self, hidden_layers: int) -> Run:
        options = ("--hidden_layers", str(hidden_layers), *self.data_options, *self.monitor_options)
        folder = self.output_dir / f"monitor_{hidden_layers}-{digest(options, self._teacher_digest)}"
        options = ("--teacher", str(self.teacher), *options)
        return Run("entropy monitor", self.scripts / "train_monitor.py", options, folder, MONITOR_FOLDER)

    def _monitor_of(self, row: Row) -> str | None:
        """Where the row's monitor lies, if it needs one."""
        if not self._is_monitored(row):
            return None
        own = self._teacher_has_monitor(row.hidden_layers)
        return str(self.teacher if own else self._monitor_run(row.hidden_layers).folder)

    def _monitor_digest(self, monitor: str) -> str:
        """Of the teacher's own monitor the weights; the folder of another says by its name how it was trained."""
        return digest_of_weights(Path(monitor, MONITOR_FOLDER)) if monitor == self.teacher else Path(monitor).name

    def _run_alone(self, run: Run) -> None:
        self.executor.execute([run], jobs=1)
        if not run.finished:
            raise RuntimeError(f"without its {run.title} the benchmark cannot go on; see {run.folder}/log.txt")


def as_options(chosen: dict[str, str]) -> list[str]:
    """Values by option, as distill.py takes them."""
    flags = [word for option, value in chosen.items() if option.startswith("--") for word in (option, value)]
    fields = [f"{option}={value}" for option, value in chosen.items() if not option.startswith("--")]
    return [*flags, "--objective_options", *fields]
