"""Distil a small audio-visual student from a large teacher.

    accelerate launch scripts/distill.py --teacher org/av-teacher
    python scripts/distill.py --teacher runs/teacher --dataset clips.csv --output_dir runs/student
    python scripts/distill.py --teacher runs/teacher --student tiny --student_fields image_size=112 --objective ktd kd
    python scripts/distill.py --teacher runs/teacher --student_modalities audio --objective em_ktd kd fd_cmkd
    python scripts/distill.py --teacher runs/avs-teacher --student b0 --student_fields image_size=224
    python scripts/distill.py --teacher runs/adapter --student org/pre-trained --lora_rank 8
    python scripts/distill.py --config distill.yaml --resume_from_checkpoint last

With nothing but a teacher: the student is a small one of the teacher's own family (a quarter of CAV-MAE's width;
PVTv2-b0 for AVSegFormer, with the teacher's VGGish), the entropy monitor is the one in the teacher's folder or is
trained first, and the clips are those the teacher's config names, else the built-in ones. `--objective none` trains on
labels only; `--push_to_hub --hub_model_id org/name` publishes.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin, set_seed

from hf_emktd.data.augmentation import AugmentationArguments
from hf_emktd.data.scene_augmentation import SceneAugmentationArguments
from hf_emktd.distillation import EntropyMonitor, LiveTeacher
from hf_emktd.distillation.objectives import DistillationObjective
from hf_emktd.distillation.teacher_precision import TEACHER_DTYPES
from hf_emktd.hub import DistillationSummary, ModelFacts, ObjectiveFacts
from hf_emktd.training import (
    MONITOR_FOLDER,
    CachedViews,
    ClipData,
    DataArguments,
    DistillationArguments,
    EMKTDTrainer,
    EntropyMonitorArguments,
    EvaluationArguments,
    KernelTrial,
    LoraArguments,
    SignalCollator,
    TeacherCache,
    add_adapters,
    augmentation_for,
    base_name,
    build_objectives,
    build_student,
    build_student_config,
    cache_source,
    check_inheritance,
    check_kernel_trials,
    check_modalities,
    check_parts,
    choose_kernel,
    command_line,
    data_facts,
    deciding_scores,
    derive_config,
    evaluate_model,
    evaluation_results,
    find_monitor,
    has_weights,
    hyper_parameters,
    inherit,
    inherit_weights,
    is_kernel_open,
    load_model,
    load_monitor,
    merge_adapters,
    open_clips,
    parse_arguments,
    prepare_push,
    publish_run,
    save_run,
    to_json,
    train_monitor,
    without_adapters,
)
from hf_emktd.training.clip_data import VALIDATION
from hf_emktd.training.interruption import RESUME, ending_in_one_line
from hf_emktd.training.process_group import end_process_group, run_launched
from hf_emktd.training.refusals import check_output_folder, refusals_in_one_line
from hf_emktd.training.training_clock import training_seconds
from hf_emktd.training.weight_inheritance import INHERIT, SCRATCH, STUDENT_INITS


@dataclass
class ModelArguments:
    """
    Teacher, student and monitor.

    Raises:
        ValueError: without a teacher, or with something to inherit for a student that has weights.
    """

    teacher: str | None = field(default=None, metadata={"help": "Directory or Hub id of the teacher. Required."})
    student: str | None = field(
        default=None,
        metadata={
            "help": "Preset (base, small, tiny, ast-vit-tiny; b0 to b5 for masks), or directory or Hub id of a model "
            "to start from, or directory with a config.json alone. By default a small one of the teacher's family."
        },
    )
    student_fields: list[str] = field(
        default_factory=list, metadata={"help": "FIELD=VALUE pairs over the student's config: image_size=112."}
    )
    student_modalities: list[str] | None = field(
        default=None,
        metadata={
            "help": "audio or visual: a student of events that only hears or only sees. By default both, or what the "
            "teacher, or the model that --student names, takes."
        },
    )
    student_init: str = field(
        default=SCRATCH,
        metadata={
            "help": "scratch, as in the paper, or inherit: slices of the teacher's weights (TinyCLIP), of every so "
            "many layers, the first heads and the first channels."
        },
    )
    monitor: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id that holds entropy_monitor/; by default the teacher, or one is trained."
        },
    )
    teacher_dtype: str = field(
        default="auto",
        metadata={
            "help": f"What the teacher computes with: {', '.join(TEACHER_DTYPES)}. auto leaves it as it was saved; "
            "int8 quantises its linear layers, on the CPU."
        },
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that cache_teacher.py wrote: the teacher's signals are read from it and its views of the "
            "clips are trained on. Without objectives only the views are."
        },
    )
    inherit: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts that a student from scratch takes from its teacher and keeps frozen, or 'none'. By default "
            "audio_encoder where both have the same, as the paper's segmentation students do."
        },
    )

    def __post_init__(self) -> None:
        if self.inherit == ["none"]:
            self.inherit = []
        if self.student_init not in STUDENT_INITS:
            raise ValueError(f"student_init must be {' or '.join(STUDENT_INITS)}, got {self.student_init!r}")
        if (self.inherit or self.student_init == INHERIT) and has_weights(self.student):
            raise ValueError(
                f"--inherit and --student_init {INHERIT} are for students without weights; {self.student} comes with "
                "weights of its own"
            )
        if self.teacher_dtype not in TEACHER_DTYPES:
            raise ValueError(f"teacher_dtype must be one of {', '.join(TEACHER_DTYPES)}, got {self.teacher_dtype!r}")
        if self.teacher is None:
            raise ValueError("--teacher is needed: the directory or Hub id of a trained teacher")


@dataclass
class Options:
    """What was typed, by who reads it."""

    models: ModelArguments
    lora: LoraArguments
    data: DataArguments
    augmentation: AugmentationArguments
    scene_augmentation: SceneAugmentationArguments
    evaluation: EvaluationArguments
    training: DistillationArguments
    KINDS: ClassVar = (
        ModelArguments,
        LoraArguments,
        DataArguments,
        AugmentationArguments,
        SceneAugmentationArguments,
        EvaluationArguments,
        DistillationArguments,
    )

    @classmethod
    def parse(cls) -> Options:
        """The command line's, with a folder for the run."""
        options = cls(*parse_arguments(cls.KINDS, __doc__))
        args = options.training
        args.output_dir = args.output_dir or f"runs/{Path(options.models.teacher).name}-student"
        return options


@dataclass
class Job:
    """What a run is made of, before its monitor and its student exist."""

    teacher: PreTrainedModel
    teacher_processor: ProcessorMixin
    student_config: PreTrainedConfig
    augmentation: AugmentationArguments | SceneAugmentationArguments
    objectives: list[DistillationObjective]
    push: bool
    data: ClipData
    cache: TeacherCache | None


def main() -> None:
    options = Options.parse()
    args = options.training
    set_seed(args.seed)
    with refusals_in_one_line():
        job = prepare(options)
    monitor = get_monitor(options.models, args, job) if any(o.requires_entropies for o in job.objectives) else None
    scores = settle_kernels(options, job, monitor) if is_kernel_open(args, job.objectives) else {}
    trainer = train_student(options, job, monitor)
    if options.lora.merge_adapter:
        trainer.model = merge_adapters(trainer.model)
    finish(options, job, monitor, trainer, scores)


def prepare(options: Options) -> Job:
    """
    Loads the teacher, opens the data and builds the objectives.

    Raises:
        ValueError: if the options do not fit one another, the teacher or the data.
    """
    models, args = options.models, options.training
    check_output_folder(args.output_dir, teacher=models.teacher, student=models.student)
    options.lora.settle(args, models.student if has_weights(models.student) else None, merge=True)
    teacher, teacher_processor = load_model(models.teacher)
    options.data.fill_from(teacher.config)
    augmentation = augmentation_for(teacher.config, [options.augmentation, options.scene_augmentation])
    config = build_student_config(teacher.config, models.student, models.student_fields, models.student_modalities)
    config = derive_config(config, {"training_data": options.data.to_config(published=args.push_to_hub)})
    from_scratch = models.student_init != INHERIT and not has_weights(models.student)
    objectives = build_objectives(args, config, teacher.config, from_scratch=from_scratch)
    check_parts(config, [*args.freeze, *(models.inherit or [])])
    check_modalities(options.evaluation, config, teacher.config)
    if models.student_init == INHERIT:
        check_inheritance(config, teacher)
    push = prepare_push(args)
    with args.main_process_first(desc="features"):
        data = open_clips(options.data, teacher_processor, model_config=teacher.config)
    data.check_splits(options.evaluation.split)
    with args.main_process_first(desc="teacher cache"):
        cache = open_cache(models, options.data)
    if is_kernel_open(args, objectives):
        check_kernel_trials(data)
    return Job(teacher, teacher_processor, config, augmentation, objectives, push, data, cache)


def settle_kernels(options: Options, job: Job, monitor: EntropyMonitor | None) -> dict[str, list[float]]:
    """Chooses the kernel that `--ktd_kernel auto` leaves open; what each trial had on validation."""

    def score(trial: KernelTrial, args: DistillationArguments) -> tuple[float, float]:
        tried = replace(job, objectives=deepcopy(job.objectives))
        trial.settle(tried.objectives)
        trainer = train_student(replace(options, training=args), tried, monitor)
        return deciding_scores(
            trainer.model, job.data, VALIDATION, trainer.processor, batch_size=options.evaluation.batch_size
        )

    best, scores = choose_kernel(options.training, score)
    best.settle(job.objectives)
    return scores


def train_student(options: Options, job: Job, monitor: EntropyMonitor | None) -> EMKTDTrainer:
    """A trainer whose student has ended its training."""
    set_seed(options.training.seed)  # the same student whatever was trained before it
    trainer = build_trainer(options, job, monitor)
    trainer.train(resume_from_checkpoint=options.training.resume_from_checkpoint)
    return trainer


def build_trainer(options: Options, job: Job, monitor: EntropyMonitor | None) -> EMKTDTrainer:
    """The student and all that trains it."""
    student, processor = start_student(options.models, options.training, job)
    views = job.data.train_views(job.augmentation, processor, None if job.cache else job.teacher_processor)
    with refusals_in_one_line():
        if job.cache is None:
            signals = LiveTeacher(job.teacher, monitor, dtype=TEACHER_DTYPES[options.models.teacher_dtype])
        else:
            signals = job.cache.teacher(job.teacher.config)
            views = CachedViews(views, job.cache, with_signals=bool(job.objectives))
            job.cache.check_source(cache_source(job.teacher, monitor, job.teacher_processor, job.data, views))
        student = add_adapters(student, options.lora)
    return EMKTDTrainer(
        student,
        options.training,
        teacher=signals,
        objectives=job.objectives,
        train_dataset=views,
        eval_dataset=job.data.validation_views(processor),
        train_labels=job.data.train_labels,
        data_collator=SignalCollator(),
        processing_class=processor,
    )


def finish(
    options: Options,
    job: Job,
    monitor: EntropyMonitor | None,
    trainer: EMKTDTrainer,
    kernel_trials: dict[str, list[float]],
) -> None:
    """Evaluates student and teacher, saves and publishes the run, and prints its results."""
    args, evaluation, processor = options.training, options.evaluation, trainer.processor
    metrics = evaluate_model(trainer.model, job.data, evaluation, processor)
    teacher_metrics = evaluate_model(job.teacher, job.data, evaluation)
    split, seconds = job.data.evaluation_split(evaluation.split), training_seconds(trainer.state)
    summary = DistillationSummary(
        task=job.student_config.task,
        student=ModelFacts.from_model(without_adapters(trainer.model), args.output_dir, args.hub_model_id),
        adapter_of=base_name(trainer.model),
        teacher=ModelFacts.from_model(job.teacher, options.models.teacher),
        data=data_facts(job.data),
        objectives=[ObjectiveFacts.from_objective(objective) for objective in job.objectives],
        entropy_statistics=(monitor.config.statistics or {}).get("eval", {}) if monitor else {},
        results=evaluation_results(split, evaluation, metrics, teacher_metrics),
        hyper_parameters=settings_of(options, job),
        command=command_line(),
        training_seconds=seconds,
    )
    results = {"model": args.output_dir, "teacher": options.models.teacher, "seconds": seconds, "split": split}
    results |= {"results": metrics, "teacher_results": teacher_metrics, "objective": args.objective}
    results |= {"kernel_trials": kernel_trials} if kernel_trials else {}
    save_run(trainer, processor, job.data, summary, results)
    if trainer.is_world_process_zero():
        print(to_json(results))
        if job.push:
            publish_run(args)


def settings_of(options: Options, job: Job) -> dict[str, Any]:
    """Hyper-parameters as the card tells them."""
    models, cache = options.models, job.cache
    return hyper_parameters(
        options.training,
        job.student_config.task,
        task_weight=options.training.task_weight,
        student_init=models.student_init,
        teacher_dtype=cache.manifest.teacher_dtype if cache else models.teacher_dtype,
        **({"teacher_cache": f"{cache.num_views} views, {cache.codec.name}"} if cache else {}),
        **vars(job.augmentation),
        **options.lora.to_dict(),
    )


def start_student(
    models: ModelArguments, args: DistillationArguments, job: Job
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The student before its first step and its processor; what it keeps of the teacher is added to `args.freeze`."""
    student, processor = build_student(job.student_config, job.teacher_processor, models.student)
    if models.student_init == INHERIT:
        inherit_weights(student, job.teacher)
    if not has_weights(models.student):
        args.freeze = [*args.freeze, *inherit(student, job.teacher, models.inherit)]
    return student, processor


def open_cache(models: ModelArguments, data_args: DataArguments) -> TeacherCache | None:
    """
    The teacher cache that was named.

    Raises:
        ValueError: as [`TeacherCache`], or for clips that are streamed.
    """
    if models.teacher_cache is None:
        return None
    if data_args.streaming:
        raise ValueError(
            "a teacher cache is looked up clip by clip, which a stream does not allow: leave one of --teacher_cache "
            "and --streaming out."
        )
    return TeacherCache(models.teacher_cache)


def get_monitor(models: ModelArguments, args: DistillationArguments, job: Job) -> EntropyMonitor:
    """The monitor that was named, the one at hand, or one trained now into the run's folder."""
    if models.monitor is not None:
        with refusals_in_one_line():
            return load_monitor(models.monitor)
    monitor = find_monitor(models.teacher, *map(Path, filter(None, [models.teacher_cache, args.output_dir])))
    if monitor is None:
        folder = str(Path(args.output_dir) / MONITOR_FOLDER)
        monitor = train_monitor(job.teacher, job.data, EntropyMonitorArguments.within(args, folder))
    return monitor


if __name__ == "__main__":
    with ending_in_one_line(RESUME):
        run_launched(main)
    end_process_group()
