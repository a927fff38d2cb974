"""Adapters: what they train, what is saved of them, and what they are merged into."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_scenes
import torch
from peft import PeftModel, get_peft_model_state_dict
from tiny_runs import LABELS, OFF, make_arguments, make_features, make_model, make_monitor, make_views
from transformers import AutoConfig, AutoModel, pipeline

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_emktd import AudioVisualEncoderForAudioVisualClassification, CavMaeProcessor
from hf_emktd.data import AudioVisualCollator
from hf_emktd.distillation import LiveTeacher
from hf_emktd.distillation.teacher import fingerprint
from hf_emktd.hub import DistillationSummary, ModelFacts, StudentCard, save_for_hub
from hf_emktd.metrics import count_macs, count_parameters
from hf_emktd.training import (
    AudioVisualTrainer,
    AudioVisualTrainingArguments,
    LoraArguments,
    add_adapters,
    base_name,
    derive_config,
    load_model,
    merge_adapters,
    without_adapters,
)
from tiny_encoders import make_config

INPUTS = {"input_values": torch.linspace(-2, 2, 2048).view(2, 32, 32), "pixel_values": torch.ones(2, 3, 16, 16)}


@pytest.fixture
def base(tmp_path) -> Path:
    """A model of five unnamed classes on disk."""
    model = make_model(seed=3, id2label={index: f"LABEL_{index}" for index in range(5)})
    model.save_pretrained(tmp_path / "base")
    CavMaeProcessor.from_config(model.config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapted(base: Path, **options) -> PeftModel:
    """Adapters for three classes whose weights are no longer 0."""
    config = derive_config(AutoConfig.from_pretrained(base), {"id2label": dict(enumerate(LABELS))})
    model, _ = load_model(str(base), config=config, ignore_mismatched_sizes=True)
    model = add_adapters(model, LoraArguments(lora_rank=2, **options))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2, generator=generator)
    return model.eval()


def saved(model: PeftModel, base: Path, folder: Path) -> Path:
    summary = DistillationSummary(
        student=ModelFacts.from_model(without_adapters(model), str(folder)), adapter_of=base_name(model)
    )
    return save_for_hub(model, load_model(str(base))[1], folder, summary)


def test_only_adapters_and_the_head_are_trained(base):
    trained = {name for name, parameter in adapted(base).named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        "base_model.model.classifier.modules_to_save.default.layernorm.weight",
        "base_model.model.classifier.modules_to_save.default.layernorm.bias",
        "base_model.model.classifier.modules_to_save.default.dense.weight",
        "base_model.model.classifier.modules_to_save.default.dense.bias",
    }
    assert not any("classifier" in name for name in trained if "lora_" in name)


def test_the_fusion_of_two_encoders_is_trained_whole():
    model = add_adapters(AudioVisualEncoderForAudioVisualClassification(make_config()), LoraArguments(lora_rank=2))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = {name for name in trained if "lora_" not in name}
    assert all(".fusion." in name or ".classifier." in name for name in whole)
    assert any("visual_projection.modality_embeddings" in name for name in whole)
    assert any(".audio_encoder.layers.1.mlp.fc2.lora_B" in name for name in trained)


def test_alpha_and_targets(base):
    config = adapted(base).active_peft_config
    assert (config.r, config.lora_alpha) == (2, 4)
    model = adapted(base, lora_alpha=3, lora_target_modules=["qkv"])
    assert model.active_peft_config.lora_alpha == 3
    assert {name.split(".lora_")[0].split(".")[-1] for name in model.state_dict() if "lora_" in name} == {"qkv"}
    with pytest.raises(ValueError, match="No modules were targeted"):
        adapted(base, lora_target_modules=["query"])


def test_merged_it_answers_as_before_and_is_the_class_it_was(base):
    model = adapted(base)
    expected, below = model(**INPUTS).logits, fingerprint(load_model(str(base))[0])
    merged = merge_adapters(model)
    assert type(merged) is type(make_model()) and not any("lora" in name for name in merged.state_dict())
    torch.testing.assert_close(merged.eval()(**INPUTS).logits, expected)
    assert fingerprint(merged) != below and merge_adapters(merged) is merged


def test_saved_as_an_adapter_and_loaded_as_a_whole(base, tmp_path):
    model = adapted(base)
    folder = saved(model, base, tmp_path / "adapter")
    files = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "config.json", "processor_config.json"} <= files
    assert "model.safetensors" not in files
    loaded, processor = load_model(str(folder))
    assert loaded.config.id2label == dict(enumerate(LABELS)) and loaded.config._name_or_path == str(folder)
    assert isinstance(processor, CavMaeProcessor)
    torch.testing.assert_close(loaded.eval()(**INPUTS).logits, model(**INPUTS).logits)
    # a monitor knows its teacher, however it came to be
    assert fingerprint(loaded) == fingerprint(load_model(str(folder))[0]) == fingerprint(merge_adapters(model))
    # and it can be trained on
    below, _ = load_model(str(base))
    trained, expected = ([value.requires_grad for value in one.parameters()] for one in (loaded, below))
    assert trained == expected and any(trained)


class TestFromPretrained:
    """Of transformers, on the folder itself."""

    @pytest.fixture
    def folder(self, base, tmp_path) -> Path:
        return saved(adapted(base), base, tmp_path / "adapter")

    def test_gives_what_load_model_gives(self, folder):
        expected, _ = load_model(str(folder))
        for model in (AutoModel.from_pretrained(folder), type(expected).from_pretrained(str(folder))):
            assert fingerprint(model) == fingerprint(expected) and not model.training
            assert model.config.id2label == dict(enumerate(LABELS)) and model.name_or_path == str(folder)

    def test_takes_options_of_the_model(self, folder):
        model = AutoModel.from_pretrained(folder, dtype="bfloat16", attn_implementation="eager")
        assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
        with pytest.raises(ValueError, match="merged into its base; leave output_loading_info out"):
            AutoModel.from_pretrained(folder, output_loading_info=True)

    def test_torch_dtype_is_the_older_name_of_dtype(self, folder):
        assert AutoModel.from_pretrained(folder).dtype == torch.float32
        assert AutoModel.from_pretrained(folder, torch_dtype=torch.bfloat16).dtype == torch.bfloat16
        assert type(make_model()).from_pretrained(folder, torch_dtype="bfloat16").dtype == torch.bfloat16
        assert load_model(str(folder), torch_dtype=torch.bfloat16)[0].dtype == torch.bfloat16

    def test_options_of_load_model_reach_the_base(self, folder):
        for config in ({}, {"config": AutoConfig.from_pretrained(folder)}):
            model, _ = load_model(str(folder), attn_implementation="eager", **config)
            assert model.config._attn_implementation == "eager"
        assert load_model(str(folder))[0].config._attn_implementation != "eager"

    def test_from_a_subfolder(self, folder):
        model, _ = load_model(str(folder.parent), subfolder=folder.name)
        assert fingerprint(model) == fingerprint(load_model(str(folder))[0])

    def test_makes_a_pipeline(self, folder):
        answers = pipeline("audio-visual-classification", model=str(folder))
        assert fingerprint(answers.model) == fingerprint(load_model(str(folder))[0])
        assert isinstance(answers.processor, CavMaeProcessor)

    def test_a_whole_model_saved_from_it_is_no_adapter(self, folder, tmp_path):
        AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "whole")
        whole = AutoModel.from_pretrained(tmp_path / "whole")
        assert fingerprint(whole) == fingerprint(AutoModel.from_pretrained(folder))

    def test_without_its_base(self, folder, base):
        base.rename(base.with_name("elsewhere"))
        with pytest.raises(OSError, match="base"):
            AutoModel.from_pretrained(folder)


def test_peft_does_not_warn_of_what_nobody_can_mend(base, recwarn):
    adapted(base)
    assert not [warning for warning in recwarn if "is_gradient_checkpointing" in str(warning.message)]


def test_peft_alone_loads_it(base, tmp_path):
    model = adapted(base)
    folder = saved(model, base, tmp_path / "adapter")
    config = AutoConfig.from_pretrained(folder)
    below = AutoModel.from_pretrained(base, config=config, ignore_mismatched_sizes=True)
    loaded = PeftModel.from_pretrained(below, folder).eval()
    torch.testing.assert_close(loaded(**INPUTS).logits, model(**INPUTS).logits)


def test_an_adapted_model_in_other_precision_and_for_other_classes(base, tmp_path):
    folder = saved(adapted(base), base, tmp_path / "adapter")
    assert load_model(str(folder), dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    config = derive_config(AutoConfig.from_pretrained(folder), {"id2label": {0: "a", 1: "b"}})
    other, _ = load_model(str(folder), config=config, ignore_mismatched_sizes=True)
    assert other.classifier.dense.out_features == 2 and other.name_or_path == str(folder)
    whole = load_model(str(folder))[0]
    assert torch.equal(other.cav_mae.layernorm.weight, whole.cav_mae.layernorm.weight)
    # which may be adapted once more
    again = add_adapters(other, LoraArguments(lora_rank=1))
    assert base_name(again) == str(folder)
    torch.testing.assert_close(
        load_model(str(saved(again, base, tmp_path / "again")))[0].eval()(**INPUTS).logits,
        again.eval()(**INPUTS).logits,
    )


def test_an_adapter_that_lost_its_base_says_so(base, tmp_path):
    folder = saved(adapted(base), base, tmp_path / "adapter")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"it is an adapter of '.*base', which cannot be loaded"):
        load_model(str(folder))


def test_saving_whole_removes_an_older_adapter(base, tmp_path):
    folder = saved(adapted(base), base, tmp_path / "run")
    saved(merge_adapters(adapted(base)), base, folder)
    files = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in files and not [name for name in files if name.startswith("adapter")]
    assert AutoModel.from_pretrained(folder).config.num_labels == 3
    saved(adapted(base), base, folder)
    assert not (folder / "model.safetensors").exists()


def test_the_card_names_the_base_and_how_to_load_it(base, tmp_path):
    folder = saved(adapted(base), base, tmp_path / "adapter")
    card = (folder / "README.md").read_text()
    assert (
        "library_name: peft" in card
        and "load_model(model_id)  # the adapter and the model it belongs to, base" in card
    )
    assert str(tmp_path) not in card and "AutoModel" not in card
    summary = DistillationSummary.load(folder)
    summary.adapter_of = "org/base"
    assert StudentCard.from_summary(summary).data.base_model == "org/base"


def test_sizes_are_those_of_the_model_without_adapters(base):
    model = adapted(base)
    plain = make_model(id2label=dict(enumerate(LABELS)))
    facts = ModelFacts.from_model(without_adapters(model), "adapter")
    assert (facts.parameters, facts.macs) == (count_parameters(plain), count_macs(plain))
    assert facts.architecture == "CavMaeForAudioVisualClassification" and without_adapters(plain) is plain


class TestTraining:
    @staticmethod
    def trainer(model, folder, **options) -> AudioVisualTrainer:
        args = make_arguments(folder, AudioVisualTrainingArguments, max_steps=2, **options)
        views = make_views(make_features(), OFF, student=make_model())
        return AudioVisualTrainer(model, args, train_dataset=views, data_collator=AudioVisualCollator())

    def test_moves_the_adapters_and_nothing_below(self, base, tmp_path):
        model = adapted(base)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        self.trainer(model, tmp_path / "run").train()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)

    def test_the_head_has_a_learning_rate_of_its_own(self, base, tmp_path):
        trainer = self.trainer(adapted(base), tmp_path / "run", head_learning_rate_factor=10)
        rates = {
            id(parameter): group["lr"]
            for group in trainer.create_optimizer().param_groups
            for parameter in group["params"]
        }
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                assert rates[id(parameter)] == pytest.approx(0.5 if "classifier" in name else 0.05), name

    def test_resumes_from_a_checkpoint(self, base, tmp_path):
        whole = self.trainer(adapted(base), tmp_path / "whole")
        whole.train()
        options = {"save_strategy": "steps", "save_steps": 1}
        self.trainer(adapted(base), tmp_path / "run", **options).train()
        assert (tmp_path / "run" / "checkpoint-1" / "adapter_model.safetensors").is_file()
        resumed = self.trainer(adapted(base), tmp_path / "run", **options)
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
        for name, value in get_peft_model_state_dict(whole.model).items():
            torch.testing.assert_close(get_peft_model_state_dict(resumed.model)[name], value, msg=name)


def test_a_monitor_belongs_to_the_merged_teacher(base, tmp_path):
    folder = saved(adapted(base), base, tmp_path / "adapter")
    teacher, _ = load_model(str(folder))
    monitor = make_monitor(teacher)
    monitor.config.teacher_fingerprint = fingerprint(teacher)
    LiveTeacher(load_model(str(folder))[0], monitor)
    with pytest.raises(ValueError, match="Train a monitor for this one"):
        LiveTeacher(make_model(), monitor)


def test_masks_are_adapted_too():
    model = add_adapters(tiny_scenes.make_model(), LoraArguments(lora_rank=2))
    inputs = {name: torch.randn(1, *shape) for name, shape in model.config.input_shapes.items()}
    merged_before = model.eval()(**inputs).logits
    torch.testing.assert_close(merge_adapters(model)(**inputs).logits, merged_before)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"lora_rank": 2, "lora_alpha": 0}, "lora_alpha must be positive"),
        ({"lora_rank": 2, "lora_dropout": 1}, "lora_dropout must lie in"),
        ({"lora_alpha": 2}, "give lora_rank, too"),
        ({"merge_adapter": True}, "give lora_rank, too"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        LoraArguments(**options)


@pytest.mark.parametrize(
    "run, start, message",
    [
        ({}, None, "name one to start from"),
        ({"freeze": ["audio_encoder"]}, "org/base", "freeze and freeze_epochs have no meaning"),
        ({"push_to_hub": True}, ".", "lies on this machine alone"),
    ],
)
def test_runs_that_cannot_be_adapted(run, start, message):
    args = SimpleNamespace(**{"freeze": [], "freeze_epochs": 0, "push_to_hub": False, **run})
    with pytest.raises(ValueError, match=message):
        LoraArguments(lora_rank=2).settle(args, start, merge=False)


def test_what_is_saved_by_default():
    args = SimpleNamespace(freeze=[], freeze_epochs=0, push_to_hub=True)
    for merge in (False, True):
        lora, told = LoraArguments(lora_rank=2), LoraArguments(lora_rank=2, merge_adapter=not merge)
        for options in (lora, told):
            options.settle(args, "org/base", merge)
        assert (lora.merge_adapter, told.merge_adapter) == (merge, not merge)
