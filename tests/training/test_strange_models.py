"""Models and monitors that somebody else made, or edited: refused in one message, and no code is run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import make_model, make_monitor, make_trainer

from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import MONITOR_FOLDER, find_monitor, load_model
from hf_emktd.training.interruption import CheckpointError

REFUSED = "is no model this library can load"


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strangers") / "model"
    model = make_model(seed=1)
    model.save_pretrained(folder)
    CavMaeProcessor.from_config(model.config).save_pretrained(folder)
    make_monitor(model).save_pretrained(folder / MONITOR_FOLDER)
    return folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path) -> Path:
    """Exists once code of a stranger has run."""
    return tmp_path / "ran"


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(path: Path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


class TestPickles:
    def test_weights_in_a_pickle_are_not_read(self, folder, marker):
        (folder / "model.safetensors").unlink()
        torch.save({"state": Bomb(marker)}, folder / "pytorch_model.bin")
        with pytest.raises(ValueError, match=REFUSED):
            load_model(str(folder))
        assert not marker.exists()

    def test_pickles_beside_the_weights_are_left_alone(self, folder, marker):
        for name in ("training_args.bin", "pytorch_model.bin", "optimizer.pt", "rng_state.pth"):
            (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
        load_model(str(folder))
        assert not marker.exists()

    def test_an_adapter_in_a_pickle_is_not_read(self, original, tmp_path, marker):
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        for name in ("config.json", "processor_config.json"):
            shutil.copy(original / name, adapter)
        lora = {"peft_type": "LORA", "r": 2, "target_modules": ["query"], "base_model_name_or_path": str(original)}
        (adapter / "adapter_config.json").write_text(json.dumps(lora))
        torch.save({"state": Bomb(marker)}, adapter / "adapter_model.bin")
        with pytest.raises(ValueError, match=REFUSED):
            load_model(str(adapter))
        edit(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="antigravity")
        with pytest.raises(ValueError, match="with other fields than this library writes"):
            load_model(str(adapter))
        assert not marker.exists()


class TestCode:
    def test_code_beside_a_known_model_is_not_run(self, folder, marker):
        code = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
        for name in ("configuration_cav_mae.py", "modeling_cav_mae.py", "processing_cav_mae.py"):
            (folder / name).write_text(code)
        load_model(str(folder))
        assert not marker.exists()

    @pytest.mark.parametrize("place", ["evil.Config", "../evil.Config", "org/evil--evil.Config"])
    def test_an_unknown_model_with_code_of_its_own_is_refused(self, folder, marker, place):
        (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
        shutil.copy(folder / "evil.py", folder.parent)
        edit(folder / "config.json", model_type="evil", auto_map={"AutoConfig": place, "AutoModel": place})
        with pytest.raises(ValueError, match=REFUSED):
            load_model(str(folder))
        assert not marker.exists()

    def test_kernels_of_a_stranger_are_not_fetched(self, folder):
        edit(folder / "config.json", attn_implementation="org/evil-kernel")
        with pytest.raises(ValueError, match=REFUSED):
            load_model(str(folder))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 4 * 10**9}, "parameters; more than 1e\\+10 are refused"),
        ({"hidden_size": 2**40}, "parameters; more than 1e\\+10 are refused"),
        ({"modality_specific_depth": 10**9}, "modality_specific_depth must be at most 1,024"),
        ({"hidden_size": -16}, "hidden_size must be at least 1"),
        ({"mlp_ratio": float("inf")}, "mlp_ratio must be positive and finite"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be positive and finite"),
        ({"image_size": 8 * 10**9}, "image_size must be at most 16,384"),
        ({"audio_length": 8 * 10**9}, "audio_length must be at most 262,144"),
        ({"num_labels": 10**12, "id2label": None, "label2id": None}, "num_labels must be at most 1,000,000"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"hidden_size": "16"}, "expected int, got str"),
        ({"id2label": ["dog"]}, REFUSED),
        ({"hidden_act": "os.system"}, REFUSED),
        ({"dtype": "load"}, REFUSED),
        ({"model_type": "bert"}, REFUSED),
        ({"model_type": "../../etc"}, REFUSED),
        ({"transformers_weights": "../../../etc/passwd"}, REFUSED),
    ],
)
def test_an_edited_config_is_refused_before_anything_is_allocated(folder, fields, message):
    edit(folder / "config.json", **fields)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("image_processor", {"image_size": 10**9}, "image_size must be a whole number from 1 to 16,384"),
        ("image_processor", {"image_std": [0, 1, 1]}, "those of image_std positive"),
        ("image_processor", {"image_processor_type": "../evil"}, REFUSED),
        ("feature_extractor", {"audio_length": 10**15}, "audio_length must be a whole number"),
        ("feature_extractor", {"sampling_rate": -1}, "sampling_rate must be a whole number"),
        ("feature_extractor", {"std": float("nan")}, "std must be positive"),
    ],
)
def test_an_edited_processor_is_refused(folder, part, fields, message):
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content[part] |= fields
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


class TestWeights:
    def refused(self, folder: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_model(str(folder))

    def test_of_another_shape(self, folder):
        edit(folder / "config.json", audio_length=64, hidden_size=32)
        self.refused(folder, "tensors are of another shape than its config says: .* for ")

    def test_missing(self, folder):
        rewrite(folder / "model.safetensors", lambda state: state.pop("classifier.dense.weight"))
        self.refused(folder, "1 tensors are missing: classifier.dense.weight")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, folder, value):
        rewrite(folder / "model.safetensors", lambda state: state["classifier.dense.bias"].fill_(value))
        self.refused(folder, "1 of its tensors hold NaN or infinity: classifier.dense.bias")

    @pytest.mark.parametrize("content", [b"", b"\xff" * 8, (2**60).to_bytes(8, "little") + b"{}", b"\x80\x04]."])
    def test_no_safetensors(self, folder, content):
        (folder / "model.safetensors").write_bytes(content)
        self.refused(folder, REFUSED)

    def test_cut_off(self, folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        self.refused(folder, REFUSED)

    def test_an_index_that_points_outside(self, folder):
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        weight_map = dict.fromkeys(names, "../outside.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        self.refused(folder, "names files outside of the directory: ../outside.safetensors")


@pytest.mark.parametrize(
    "fields",
    [
        {"branch_widths": {"audio": -1}},
        {"branch_widths": {"audio": 10**12}},
        {"branch_widths": {"../../etc": 16}},
        {"branch_widths": [16]},
        {"hidden_layers": 10**9},
        {"task": "audio-visual-segmentation", "mask_grid": [10**9, 10**9]},
        {"branch_grids": {"audio": 7}},
        {"id2label": {"0": "one"}, "label2id": None},
    ],
)
def test_an_edited_monitor_is_refused(folder, fields):
    edit(folder / MONITOR_FOLDER / "config.json", **fields)
    with pytest.raises(ValueError, match=r"the entropy monitor in .* cannot be loaded"):
        find_monitor(folder)


def test_a_monitor_of_nan_is_refused(folder):
    weights = folder / MONITOR_FOLDER / "model.safetensors"
    rewrite(weights, lambda state: next(iter(state.values())).fill_(float("nan")))
    with pytest.raises(ValueError, match="1 of its tensors hold NaN or infinity"):
        find_monitor(folder)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_run_is_resumed_without_running_what_a_pickle_holds(name, tmp_path, marker):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch"}
    make_trainer(tmp_path / "run", **options).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    assert (checkpoint / name).is_file()
    torch.save(Bomb(marker), checkpoint / name)
    resumed = make_trainer(tmp_path / "run", **options)
    if name == "training_args.bin":
        resumed.train(resume_from_checkpoint=str(checkpoint))  # is not read
    else:
        with pytest.raises((pickle.UnpicklingError, CheckpointError), match=r"(?i)weights.only"):
            resumed.train(resume_from_checkpoint=str(checkpoint))
    assert not marker.exists()
