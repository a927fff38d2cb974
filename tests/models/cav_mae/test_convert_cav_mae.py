import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cav_mae_formulas import decoder_shapes, formula_inputs, official_shapes, official_state_dict
from transformers import AutoModel, AutoProcessor

from hf_emktd import CavMaeForAudioVisualClassification
from hf_emktd.models.cav_mae.convert_cav_mae import (
    CheckpointError,
    convert_checkpoint,
    infer_config,
    main,
    read_checkpoint,
    read_label_names,
)

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "cav_mae.json").read_text())


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("official") / "fine_tuned.pth"
    torch.save(official_state_dict(official_shapes()), path)
    return path


@pytest.fixture(scope="module")
def pre_trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("official") / "pre_trained.pth"
    torch.save(official_state_dict(official_shapes(classes=None) | decoder_shapes()), path)
    return path


@pytest.fixture(scope="module")
def converted(fine_tuned, tmp_path_factory) -> Path:
    """The fine-tuned file after the command line ran on it in a process of its own."""
    folder = tmp_path_factory.mktemp("converted")
    command = [sys.executable, "-m", "hf_emktd.models.cav_mae.convert_cav_mae"]
    command += ["--checkpoint", str(fine_tuned), "--output_dir", str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "width 128, 2 heads, 10 + 2 layers, spectrogram 64 x 128, picture 32, 7 classes" in output
    assert "dropped" not in output and "newly initialised" not in output
    return folder


@pytest.fixture(scope="module")
def model(converted) -> CavMaeForAudioVisualClassification:
    return AutoModel.from_pretrained(converted).eval()


class TestGolden:
    @pytest.mark.parametrize("mode", ["multimodal", "missingaudioonly", "missingvideoonly", "audioonly", "videoonly"])
    def test_logits_equal_the_official_ones(self, model, mode):
        audio, picture = formula_inputs()
        with torch.no_grad():
            logits = model(
                None if "video" in mode else audio,
                None if "audio" in mode else picture,
                single_modality_mode="missing" if "missing" in mode else "only",
            ).logits
        torch.testing.assert_close(logits, torch.tensor(GOLDEN["fine_tuned"]["logits"][mode]), atol=1e-4, rtol=0)

    def test_modes_differ(self):
        logits = torch.tensor(list(GOLDEN["fine_tuned"]["logits"].values()))
        assert torch.pdist(logits.flatten(1)).min() > 0.1

    @pytest.mark.parametrize("branch", ["audio", "visual", "fusion"])
    def test_tokens_equal_the_official_ones(self, model, branch):
        with torch.no_grad():
            tokens = model(*formula_inputs(), output_tokens=True)[f"{branch}_tokens"]
        expected = torch.tensor(GOLDEN["fine_tuned"]["tokens"][branch])
        torch.testing.assert_close(tokens[:, ::3, ::40], expected, atol=1e-4, rtol=0)

    def test_pre_trained_encoder_equals_the_official_one(self, pre_trained, tmp_path):
        convert_checkpoint(pre_trained, tmp_path)
        with torch.no_grad():
            pooled = AutoModel.from_pretrained(tmp_path).eval()(*formula_inputs()).pooler_output
        expected = torch.tensor(GOLDEN["pre_trained"]["pooled"])
        torch.testing.assert_close(pooled[:, ::8], expected, atol=1e-4, rtol=0)


class TestOutput:
    def test_processor_makes_what_the_model_reads(self, converted, model):
        processor = AutoProcessor.from_pretrained(converted)
        waveform, picture = torch.zeros(8000).numpy(), (torch.zeros(40, 50, 3).to(torch.uint8)).numpy()
        inputs = processor(audio=waveform, images=picture, sampling_rate=16000, return_tensors="pt")
        assert model(**inputs).logits.shape == (1, 7)

    def test_pre_trained_report_says_what_is_dropped_and_what_is_new(self, pre_trained, tmp_path, capsys):
        main(["--checkpoint", str(pre_trained), "--output_dir", str(tmp_path)])
        output = capsys.readouterr().out
        assert f"dropped {len(decoder_shapes())} tensors of the pre-training decoder: decoder_blocks, " in output
        assert "the head is newly initialised and must be trained (classifier.dense.bias, " in output
        assert AutoModel.from_pretrained(tmp_path).config.num_labels == 309

    def test_pre_trained_takes_its_classes_from_the_label_names(self, pre_trained, tmp_path):
        (tmp_path / "labels.txt").write_text("dog barking\ncat, purring\n\n")
        convert_checkpoint(pre_trained, tmp_path / "model", tmp_path / "labels.txt", single_modality_mode="only")
        config = AutoModel.from_pretrained(tmp_path / "model").config
        assert config.id2label == {0: "dog barking", 1: "cat, purring"}
        assert config.single_modality_mode == "only"

    def test_official_label_csv(self, fine_tuned, tmp_path):
        rows = ["index,mid,display_name", '1,/m/b,"Male speech, man speaking"', '0,/m/a,"Speech"']
        rows += [f"{index},/m/{index},class {index}" for index in range(2, 7)]
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        convert_checkpoint(fine_tuned, tmp_path / "model", tmp_path / "labels.csv")
        config = AutoModel.from_pretrained(tmp_path / "model").config
        assert [config.id2label[index] for index in range(3)] == ["Speech", "Male speech, man speaking", "class 2"]
        assert config.label2id["class 6"] == 6


class TestInference:
    def test_official_base_size(self):
        shapes = official_shapes(width=768, depth=11, joint_depth=1, audio_tokens=512, visual_tokens=196, classes=309)
        config = infer_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
        assert (config.hidden_size, config.num_attention_heads, config.mlp_ratio) == (768, 12, 4)
        assert (config.modality_specific_depth, config.joint_depth, config.patch_size) == (11, 1, 16)
        assert (config.audio_length, config.num_mel_bins, config.image_size) == (1024, 128, 224)
        assert config.num_labels == 309

    def test_every_official_tensor_is_read(self, fine_tuned, model):
        """No parameter kept its initial value: each of the 164.7 M of the real thing comes from the file."""
        state = read_checkpoint(fine_tuned)
        numbers = sorted(tensor.double().sum().item() for tensor in state.values())
        assert sorted(tensor.double().sum().item() for tensor in model.state_dict().values()) == numbers


def change(**tensors: torch.Tensor | None):
    """A fine-tuned state dict with some tensors replaced, or removed where `None`."""
    state = official_state_dict(official_shapes(depth=1, joint_depth=1)) | {
        f"module.{name}": tensor for name, tensor in tensors.items()
    }
    return {name: tensor for name, tensor in state.items() if tensor is not None}


class TestFailure:
    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"weight": torch.zeros(2)}, r"lacks patch_embed_a.proj.weight.*its keys begin with weight"),
            ({}, "holds dict where a non-empty dict of tensors"),
            ({"epoch": 3, "model": {}}, "non-empty dict of tensors is expected; pass the model's state dict"),
            (change(**{"norm.bias": None}), r"1 tensors missing \(cav_mae.layernorm.bias\), 0 unknown"),
            (change(**{"mlp_head.1.bias": None}), r"1 tensors missing \(classifier.dense.bias\)"),
            (change(extra=torch.zeros(1)), r"0 tensors missing \(\), 1 unknown \(extra\)"),
            (change(**{"norm.bias": torch.zeros(64)}), r"layernorm.bias has shape \(64,\).*but \(128,\)"),
            (change(pos_embed_a=torch.zeros(1, 33, 128)), "33 audio tokens are not a grid over 128 mel bins"),
            (change(pos_embed_v=torch.zeros(1, 5, 128)), "5 visual tokens not a square"),
            (change(pos_embed_a=torch.zeros(32, 128)), r"must have 3 dimensions but has shape \(32, 128\)"),
            (
                change(**{"patch_embed_a.proj.weight": torch.zeros(100, 1, 16, 16)}),
                "width 100, which is not a multiple of the 64",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "state",
    )
    def test_files_that_are_no_cav_mae(self, state, message, tmp_path):
        torch.save(state, tmp_path / "file.pth")
        with pytest.raises(CheckpointError, match=message):
            convert_checkpoint(tmp_path / "file.pth", tmp_path / "model")
        assert not (tmp_path / "model").exists()

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint\n", b"PK\x03\x04 half a zip", b"\x80\x02}q\x00."])
    def test_files_that_are_no_checkpoint(self, content, tmp_path):
        (tmp_path / "file.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"file.pth.*({len(content)} bytes|non-empty dict)"):
            read_checkpoint(tmp_path / "file.pth")

    def test_code_in_a_file_is_not_executed(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "executed",))

        torch.save({"weight": Payload()}, tmp_path / "file.pth")
        with pytest.raises(CheckpointError, match="UnpicklingError"):
            read_checkpoint(tmp_path / "file.pth")
        assert not (tmp_path / "executed").exists()

    def test_label_names_of_another_data_set(self, fine_tuned, tmp_path):
        (tmp_path / "labels.txt").write_text("one\ntwo\n")
        with pytest.raises(CheckpointError, match=r"\(7, 128\) in the checkpoint, but \(2, 128\).*label names"):
            convert_checkpoint(fine_tuned, tmp_path / "model", tmp_path / "labels.txt")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "has no label names"),
            ("dog\ncat\ndog\n", r"names \['dog'\] more than once"),
            ("index,mid,display_name\n0,a,dog\n2,b,cat\n", "must run from 0 to 1 without gaps"),
        ],
    )
    def test_label_files_that_make_no_sense(self, text, message, tmp_path):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_label_names(tmp_path / "labels.csv")

    @pytest.mark.parametrize("option", ["--checkpoint", "--label_names"])
    def test_command_line_ends_with_one_clear_line(self, fine_tuned, tmp_path, option, capsys):
        options = {"--checkpoint": str(fine_tuned), "--output_dir": str(tmp_path / "model"), option: "absent.file"}
        with pytest.raises(SystemExit) as exit_:
            main([part for pair in options.items() for part in pair])
        assert exit_.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("error: there is no ") and error.endswith("absent.file.\n")
