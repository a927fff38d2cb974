import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from avsegformer_formulas import formula_inputs
from transformers import AutoModel, AutoProcessor

from formulas import formula_tensor
from hf_emktd import AvSegFormerForAudioVisualSegmentation
from hf_emktd.models.avsegformer.convert_avsegformer import (
    convert_checkpoint,
    initialise_model,
    load_pvt,
    load_vggish,
    main,
)
from hf_emktd.models.checkpoints import CheckpointError

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "golden" / "avsegformer.json").read_text())["model"]
COMMAND = [sys.executable, "-m", "hf_emktd.models.avsegformer.convert_avsegformer"]


def official_state_dict(prefix: str = "") -> dict[str, torch.Tensor]:
    """Formula weights of the golden model, or of the part of it whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): formula_tensor(name, tuple(shape))
        for name, shape in GOLDEN["shapes"].items()
        if name.startswith(prefix)
    }


@pytest.fixture(scope="module")
def official() -> dict[str, torch.Tensor]:
    return official_state_dict()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Encoder files under their official names, PVTv2's with its ImageNet classifier."""
    folder = tmp_path_factory.mktemp("encoders")
    pvt = official_state_dict("backbone.") | {"head.weight": torch.zeros(9, 32), "head.bias": torch.zeros(9)}
    for name, state in (("pvt", pvt), ("vggish", official_state_dict("vggish."))):
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in ("pvt", "vggish")}


@pytest.fixture(scope="module")
def converted(official, tmp_path_factory) -> Path:
    """The file with the names of DataParallel, after the command line ran on it in a process of its own."""
    folder = tmp_path_factory.mktemp("converted")
    torch.save({f"module.{name}": tensor for name, tensor in official.items()}, folder / "official.pth")
    options = ["--checkpoint", str(folder / "official.pth"), "--output_dir", str(folder / "model")]
    done = subprocess.run([*COMMAND, *options, "--image_size", "64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        "PVTv2 [8, 16, 20, 32] x [1, 1, 2, 1], VGGish 256, head 256 wide, 1 + 2 + 2 layers, 7 queries" in done.stdout
    )
    assert "dropped 11 tensors that no forward pass uses: head.attn_fc, head.fpn\n" in done.stdout
    return folder / "model"


@pytest.fixture(scope="module")
def model(converted) -> AvSegFormerForAudioVisualSegmentation:
    return AutoModel.from_pretrained(converted).eval()


def assert_equal(tensor: torch.Tensor, golden: list) -> None:
    torch.testing.assert_close(tensor, torch.tensor(golden), atol=1e-4, rtol=0)


class TestGolden:
    @torch.no_grad()
    def test_logits_and_mask_feature_equal_the_official_ones(self, model):
        output = model(*formula_inputs())
        assert_equal(output.mask_features.flatten(0, 1)[:, ::29, ::5, ::5], GOLDEN["mask_features"])
        assert_equal(output.logits.flatten(0, 1)[:, ::7, ::7], GOLDEN["logits"])

    @torch.no_grad()
    def test_sound_encoder_equals_the_official_one(self, model):
        features, embeddings = model.avsegformer.audio_encoder(formula_inputs()[0].flatten(0, 1))
        assert_equal(features[:, ::7], GOLDEN["audio_map"])
        assert_equal(embeddings[:, ::5], GOLDEN["audio_embeddings"])

    @torch.no_grad()
    def test_picture_encoder_and_queries_equal_the_official_ones(self, model):
        seen = []
        hook = model.avsegformer.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
        queries = model.avsegformer(*formula_inputs()).query_states.flatten(0, 1)
        hook.remove()
        stages = model.avsegformer.visual_encoder(formula_inputs()[1].flatten(0, 1)).feature_maps
        for stage, golden in zip(stages, GOLDEN["stages"], strict=True):
            assert_equal(stage[:, ::5, ::3, ::3], golden)
        assert_equal(seen[0][:, ::11, ::37], GOLDEN["memory"])
        assert_equal(queries[:, :, ::31], GOLDEN["queries"])

    def test_audio_tokens_are_the_official_map(self, model):
        tokens = model(*formula_inputs(), output_tokens=True).audio_tokens.view(4, 4, 6, 32)
        assert_equal(tokens.permute(0, 3, 2, 1)[:, ::7].detach(), GOLDEN["audio_map"])


class TestOutput:
    def test_every_tensor_in_use_is_read(self, official, model):
        used = {name: tensor for name, tensor in official.items() if not name.startswith(("head.fpn", "head.attn_fc"))}
        count = sum(tensor.numel() for tensor in used.values())
        assert sum(tensor.numel() for tensor in model.state_dict().values()) == count
        total = sum(tensor.double().sum() for tensor in used.values())
        assert sum(tensor.double().sum() for tensor in model.state_dict().values()) == pytest.approx(total)

    def test_processor_makes_what_the_model_reads(self, converted, model):
        processor = AutoProcessor.from_pretrained(converted)
        assert (model.config.image_size, processor.image_processor.image_size) == (64, 64)
        assert (model.config.vision_mlp_ratios, model.config.vision_sr_ratios) == ([8, 8, 4, 4], [8, 4, 2, 1])

    def test_new_model_from_encoder_files(self, files, tmp_path, capsys):
        options = ["--pvt", str(files["pvt"]), "--vggish", str(files["vggish"]), "--image_size", "96"]
        main([*options, "--output_dir", str(tmp_path / "new")])
        output = capsys.readouterr().out
        assert "newly initialised, to be trained: head" in output and "dropped 2 tensors" in output
        model = AutoModel.from_pretrained(tmp_path / "new").eval()
        assert (model.config.image_size, model.config.hidden_size) == (96, 256)
        with torch.no_grad():
            features, _ = model.avsegformer.audio_encoder(formula_inputs()[0].flatten(0, 1))
            stages = model.avsegformer.visual_encoder(formula_inputs()[1].flatten(0, 1)).feature_maps
        assert_equal(features[:, ::7], GOLDEN["audio_map"])
        assert_equal(stages[3][:, ::5, ::3, ::3], GOLDEN["stages"][3])

    def test_encoders_of_a_given_model(self, files, converted, model, tmp_path):
        state = {name: torch.zeros_like(tensor) for name, tensor in torch.load(files["vggish"]).items()}
        torch.save(state, tmp_path / "zeros.pth")
        report = initialise_model(tmp_path / "filled", model=converted, vggish=tmp_path / "zeros.pth")
        filled = AutoModel.from_pretrained(tmp_path / "filled")
        assert report.initialised == [] and not any(p.any() for p in filled.avsegformer.audio_encoder.parameters())
        assert torch.equal(filled.mask_head.reduction.weight, model.mask_head.reduction.weight)
        assert load_vggish(filled, files["vggish"]) == []
        assert load_pvt(filled, files["pvt"]) == ["head.weight", "head.bias"]
        for name, tensor in filled.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name


class TestFailure:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"head.learnable_query.weight": None}, "lacks head.learnable_query.weight and is not an AVSegFormer"),
            ({"backbone.patch_embed1.proj.weight": None}, "lacks patch_embed1.proj.weight and is not a PVTv2"),
            ({"vggish.features.0.weight": None}, "lacks features.0.weight and is not a VGGish"),
            ({"head.fc.4.weight": torch.zeros(71, 32, 1, 1)}, r"predicts 71 classes \(AVSS\)"),
            ({"head.fc.0.bias": None}, r"1 tensors missing \(mask_head.reduction.bias\), 0 unknown"),
            ({"extra": torch.zeros(1)}, r"0 tensors missing \(\), 1 unknown \(extra\)"),
            ({"head.fc.0.bias": torch.zeros(3)}, r"mask_head.reduction.bias has shape \(3,\).*\(128,\) follows"),
            ({"head.fc.4.weight": torch.zeros(3)}, r"must have 4 dimensions but has shape \(3,\)"),
        ],
    )
    def test_files_that_are_no_avsegformer(self, official, change, message, tmp_path):
        state = {name: tensor for name, tensor in (official | change).items() if tensor is not None}
        torch.save(state, tmp_path / "file.pth")
        with pytest.raises(CheckpointError, match=message):
            convert_checkpoint(tmp_path / "file.pth", tmp_path / "model", image_size=64)
        assert not (tmp_path / "model").exists()

    def test_encoder_of_another_size(self, files, tiny_model):
        with pytest.raises(CheckpointError, match=r"follows from the model's configuration"):
            load_vggish(tiny_model, files["vggish"])
        with pytest.raises(CheckpointError, match="does not fit this model's PVTv2: 0 tensors missing"):
            load_pvt(tiny_model, files["pvt"])

    def test_files_in_each_others_place(self, files, tmp_path):
        with pytest.raises(CheckpointError, match=r"is not a PVTv2 model; its keys begin with features.0.weight"):
            initialise_model(tmp_path / "model", pvt=files["vggish"])

    @pytest.mark.parametrize("options", [[], ["--checkpoint", "a.pth", "--vggish", "b.pth"]])
    def test_command_line_wants_one_kind_of_source(self, options, tmp_path, capsys):
        with pytest.raises(SystemExit):
            main([*options, "--output_dir", str(tmp_path)])
        assert "give either --checkpoint or some of --pvt, --vggish and --model" in capsys.readouterr().err

    def test_command_line_ends_with_one_clear_line(self, tmp_path, capsys):
        with pytest.raises(SystemExit) as exit_:
            main(["--checkpoint", "absent.pth", "--output_dir", str(tmp_path)])
        assert exit_.value.code == 1
        assert capsys.readouterr().err == "error: there is no checkpoint file absent.pth.\n"
