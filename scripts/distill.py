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

import time
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin, set_seed

from hf_emktd.data.augmentation import AugmentationArguments
from hf_emktd.data.scene_augmentation import SceneAugmentationArguments
from hf_emktd.distillation import EntropyMonitor, LiveTeacher
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
    check_modalities,
    check_parts,
    command_line,
    data_facts,
    derive_config,
    evaluate_model,
    evaluation_results,
    find_monitor,
    has_weights,
    hyper_parameters,
    inherit,
    inherit_weights,
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
from hf_emktd.training.interruption import RESUME, ending_in_one_line
from hf_emktd.training.process_group import end_process_group, run_launched
from hf_emktd.training.refusals import refusals_in_one_line
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


def main() -> None:
    models, lora_args, data_args, *augmentations, evaluation_args, args = parse_arguments(
        (
            ModelArguments,
            LoraArguments,
            DataArguments,
            AugmentationArguments,
            SceneAugmentationArguments,
            EvaluationArguments,
            DistillationArguments,
        ),
        __doc__,
    )
    args.output_dir = args.output_dir or f"runs/{Path(models.teacher).name}-student"
    set_seed(args.seed)
    with refusals_in_one_line():
        lora_args.settle(args, models.student if has_weights(models.student) else None, merge=True)
        teacher, teacher_processor = load_model(models.teacher)
        data_args.fill_from(teacher.config)
        augmentation = augmentation_for(teacher.config, augmentations)
        config = build_student_config(teacher.config, models.student, models.student_fields, models.student_modalities)
        config = derive_config(config, {"training_data": data_args.to_config(published=args.push_to_hub)})
        objectives = build_objectives(args, config, teacher.config)
        check_parts(config, [*args.freeze, *(models.inherit or [])])
        check_modalities(evaluation_args, config, teacher.config)
        if models.student_init == INHERIT:
            check_inheritance(config, teacher)
        push = prepare_push(args)
        with args.main_process_first(desc="features"):
            data = open_clips(data_args, teacher_processor, model_config=teacher.config)
        with args.main_process_first(desc="teacher cache"):
            cache = open_cache(models, data_args)
    monitor = get_monitor(models, args, teacher, data) if any(o.requires_entropies for o in objectives) else None
    set_seed(args.seed)  # the same student whether or not a monitor was trained before it
    student, processor = start_student(models, args, config, teacher, teacher_processor)
    views = data.train_views(augmentation, processor, None if cache else teacher_processor)
    with refusals_in_one_line():
        if cache is None:
            signals = LiveTeacher(teacher, monitor, dtype=TEACHER_DTYPES[models.teacher_dtype])
        else:
            signals = cache.teacher(teacher.config)
            views = CachedViews(views, cache, with_signals=bool(objectives))
            cache.check_source(cache_source(teacher, monitor, teacher_processor, data, views))
        student = add_adapters(student, lora_args)
    trainer = EMKTDTrainer(
        student,
        args,
        teacher=signals,
        objectives=objectives,
        train_dataset=views,
        eval_dataset=data.validation_views(processor),
        train_labels=data.train_labels,
        data_collator=SignalCollator(),
        processing_class=processor,
    )
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    seconds = time.perf_counter() - started

    if lora_args.merge_adapter:
        trainer.model = merge_adapters(trainer.model)
    metrics = evaluate_model(trainer.model, data, evaluation_args, processor)
    teacher_metrics = evaluate_model(teacher, data, evaluation_args)
    split = data.evaluation_split(evaluation_args.split)
    summary = DistillationSummary(
        task=student.config.task,
        student=ModelFacts.from_model(without_adapters(trainer.model), args.output_dir, args.hub_model_id),
        adapter_of=base_name(trainer.model),
        teacher=ModelFacts.from_model(teacher, models.teacher),
        data=data_facts(data),
        objectives=[ObjectiveFacts.from_objective(objective) for objective in objectives],
        entropy_statistics=(monitor.config.statistics or {}).get("eval", {}) if monitor else {},
        results=evaluation_results(split, evaluation_args, metrics, teacher_metrics),
        hyper_parameters=hyper_parameters(
            args,
            student.config.task,
            task_weight=args.task_weight,
            student_init=models.student_init,
            teacher_dtype=cache.manifest.teacher_dtype if cache else models.teacher_dtype,
            **({"teacher_cache": f"{cache.num_views} views, {cache.codec.name}"} if cache else {}),
            **vars(augmentation),
            **lora_args.to_dict(),
        ),
        command=command_line(),
        training_seconds=seconds,
    )
    results = {"model": args.output_dir, "teacher": models.teacher, "seconds": seconds, "split": split}
    results |= {"results": metrics, "teacher_results": teacher_metrics, "objective": args.objective}
    results |= {"kernel_scores": trainer.kernel_scores} if trainer.kernel_scores else {}
    save_run(trainer, processor, data, summary, results)
    if trainer.is_world_process_zero():
        print(to_json(results))
        if push:
            publish_run(args)


def start_student(
    models: ModelArguments,
    args: DistillationArguments,
    config: PreTrainedConfig,
    teacher: PreTrainedModel,
    teacher_processor: ProcessorMixin,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The student before its first step and its processor; what it keeps of the teacher is added to `args.freeze`."""
    student, processor = build_student(config, teacher_processor, models.student)
    if models.student_init == INHERIT:
        inherit_weights(student, teacher)
    if not has_weights(models.student):
        args.freeze = [*args.freeze, *inherit(student, teacher, models.inherit)]
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


def get_monitor(
    models: ModelArguments, args: DistillationArguments, teacher: PreTrainedModel, data: ClipData
) -> EntropyMonitor:
    """The monitor that was named, the one at hand, or one trained now into the run's folder."""
    if models.monitor is not None:
        with refusals_in_one_line():
            return load_monitor(models.monitor)
    monitor = find_monitor(models.teacher, *map(Path, filter(None, [models.teacher_cache, args.output_dir])))
    if monitor is None:
        folder = str(Path(args.output_dir) / MONITOR_FOLDER)
        monitor = train_monitor(teacher, data, EntropyMonitorArguments.within(args, folder))
    return monitor


if __name__ == "__main__":
    with ending_in_one_line(RESUME):
        run_launched(main)
    end_process_group()
