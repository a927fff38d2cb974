"""Train an audio-visual teacher on labels: from scratch, from a converted checkpoint or from another model.

    python scripts/train_teacher.py --dataset touchtone --preset tiny --output_dir runs/teacher \\
        --config_fields hidden_size=96 num_attention_heads=2 audio_length=96 image_size=48
    python scripts/train_teacher.py --init converted/cav-mae --dataset clips.csv --output_dir runs/teacher
    python scripts/train_teacher.py --init org/large --lora_rank 16 --dataset clips.csv --output_dir runs/adapter
    python scripts/train_teacher.py --dataset avsbench --data_dir AVSBench --init converted/pvt-vggish \\
        --freeze audio_encoder --freeze_epochs 5 --output_dir runs/avs-teacher
    accelerate launch scripts/train_teacher.py --config teacher.yaml --resume_from_checkpoint last
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin, set_seed

from hf_emktd.data import task_of
from hf_emktd.data.augmentation import AugmentationArguments
from hf_emktd.data.collators import AudioVisualCollator
from hf_emktd.data.scene_augmentation import SceneAugmentationArguments
from hf_emktd.hub import DistillationSummary, ModelFacts
from hf_emktd.training import (
    FAMILIES,
    AudioVisualTrainer,
    AudioVisualTrainingArguments,
    ClipData,
    DataArguments,
    EvaluationArguments,
    LoraArguments,
    add_adapters,
    augmentation_for,
    base_name,
    check_body,
    check_parts,
    command_line,
    data_facts,
    derive_config,
    evaluate_model,
    evaluation_results,
    family_of,
    hyper_parameters,
    load_config,
    load_model,
    merge_adapters,
    open_clips,
    parse_arguments,
    parse_overrides,
    prepare_push,
    publish_run,
    save_run,
    student_processor,
    to_json,
    without_adapters,
)
from hf_emktd.training.interruption import RESUME, ending_in_one_line
from hf_emktd.training.process_group import end_process_group, run_launched
from hf_emktd.training.refusals import check_output_folder, refusals_in_one_line
from hf_emktd.training.training_clock import training_seconds


@dataclass
class TeacherArguments:
    """
    What the teacher is made of.

    Raises:
        ValueError: for an unknown preset.
    """

    init: str | None = field(
        default=None,
        metadata={"help": "Directory or Hub id of a model to start from; another class list gets a new head."},
    )
    preset: str | None = field(
        default=None,
        metadata={
            "help": "Size of a teacher from scratch: base (the default), small or tiny for events (CAV-MAE), or "
            "ast-vit-base, -small or -tiny; b5 (the default) to b0 for masks (AVSegFormer with PVTv2)."
        },
    )
    config_fields: list[str] = field(
        default_factory=list, metadata={"help": "FIELD=VALUE pairs over the preset, such as hidden_size=96."}
    )

    def __post_init__(self) -> None:
        known = [name for family in FAMILIES.values() for name in family.presets]
        if self.preset is not None and self.preset not in known:
            raise ValueError(f"preset must be one of {', '.join(known)}, got {self.preset!r}.")
        if self.preset is not None and self.init is not None:
            raise ValueError(
                f"preset is a size from scratch, and init a model that has its own: got {self.preset!r} and "
                f"{self.init!r}. Leave one of them out."
            )


def main() -> None:
    teacher_args, lora_args, data_args, *augmentations, evaluation_args, args = parse_arguments(
        (
            TeacherArguments,
            LoraArguments,
            DataArguments,
            AugmentationArguments,
            SceneAugmentationArguments,
            EvaluationArguments,
            AudioVisualTrainingArguments,
        ),
        __doc__,
    )
    args.output_dir = args.output_dir or "runs/teacher"
    set_seed(args.seed)
    with refusals_in_one_line():
        check_output_folder(args.output_dir, init=teacher_args.init)
        lora_args.settle(args, teacher_args.init, merge=False)
        config = teacher_config(teacher_args, data_args)
        check_parts(config, args.freeze)
        data_args.fill_from(config)
        augmentation = augmentation_for(config, augmentations)
        processor = build_processor(teacher_args, config)
        push = prepare_push(args)
        with args.main_process_first(desc="features"):
            data = open_clips(data_args, processor)
        data.check_splits(evaluation_args.split)
    model = build_model(teacher_args, config, data)
    model.config.training_data = data_args.to_config(published=push)
    model.config.training_augmentation = vars(augmentation)
    with refusals_in_one_line():
        model = add_adapters(model, lora_args)
    trainer = AudioVisualTrainer(
        model,
        args,
        train_dataset=data.train_views(augmentation),
        eval_dataset=data.validation_views(),
        train_labels=data.train_labels,
        data_collator=AudioVisualCollator(),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    seconds = training_seconds(trainer.state)

    if lora_args.merge_adapter:
        trainer.model = merge_adapters(trainer.model)
    metrics = evaluate_model(trainer.model, data, evaluation_args)
    summary = DistillationSummary(
        task=model.config.task,
        student=ModelFacts.from_model(without_adapters(trainer.model), args.output_dir, args.hub_model_id),
        adapter_of=base_name(trainer.model),
        data=data_facts(data),
        results=evaluation_results(data.evaluation_split(evaluation_args.split), evaluation_args, metrics),
        hyper_parameters=hyper_parameters(args, model.config.task, **vars(augmentation), **lora_args.to_dict()),
        command=command_line(),
        training_seconds=seconds,
    )
    results = {"model": args.output_dir, "seconds": seconds, "results": metrics}
    save_run(trainer, processor, data, summary, results)
    if trainer.is_world_process_zero():
        print(to_json(results))
        if push:
            publish_run(args)


def teacher_config(args: TeacherArguments, data_args: DataArguments) -> PreTrainedConfig:
    """Of the model to start from, or of a preset of the family that the data set, or the preset itself, asks for."""
    if args.init is not None:
        config = load_config(args.init)
    else:
        task = task_of(data_args.dataset) if data_args.dataset else None
        families = [family for family in FAMILIES.values() if task in (None, family.config_class.task)]
        family = next((family for family in families if args.preset in (None, *family.presets)), None)
        if family is None:
            names = ", ".join(name for family in families for name in family.presets)
            raise ValueError(f"--preset {args.preset} is no size of a model for {data_args.dataset}: {names}.")
        config = family.config_class(**family.presets[args.preset or family.default_preset])
    return derive_config(config, parse_overrides(args.config_fields, config))


def build_processor(args: TeacherArguments, config: PreTrainedConfig) -> ProcessorMixin:
    """For the sizes of `config`; a model to start from, which must fit, keeps its normalisation."""
    if args.init is None:
        return family_of(config).processor_class.from_config(config)
    start, processor = load_model(args.init)
    check_body(start, config)
    return student_processor(processor, config)


def build_model(args: TeacherArguments, config: PreTrainedConfig, data: ClipData) -> PreTrainedModel:
    """The teacher with the data set's classes, in float32 whatever it starts from."""
    labels = dict(enumerate(data.label_names))
    config = derive_config(config, {"id2label": labels, "num_labels": len(labels)})
    if args.init is None:
        return family_of(config).model_class(config)
    return load_model(args.init, config=config, ignore_mismatched_sizes=True, dtype=torch.float32)[0]


if __name__ == "__main__":
    with ending_in_one_line(RESUME):
        run_launched(main)
    end_process_group()
