"""
Makes `cav_mae.json`: numbers computed by the official CAV-MAE code from formula weights and inputs.

    git clone https://github.com/YuanGongND/cav-mae
    pip install timm==0.4.5 torchvision
    python tests/golden/cav_mae_make.py --official cav-mae/src

Not run by the tests. The few lines before the official import stand in for names that newer NumPy and PyTorch lack.
"""

import argparse
import collections.abc
import json
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
import torchaudio
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "models" / "cav_mae")]

from cav_mae_formulas import (  # noqa: E402
    decoder_shapes,
    formula_inputs,
    formula_picture,
    formula_tensor,
    formula_waveform,
    official_shapes,
)

MODES = ("multimodal", "missingaudioonly", "missingvideoonly", "audioonly", "videoonly")
SIZES = {"img_size": 32, "audio_length": 64, "embed_dim": 128, "modality_specific_depth": 10, "num_heads": 2}
CLIPS = {"short": (7000, (67, 101)), "long": (16000, (90, 41)), "tiny": (420, (20, 30))}


def load_official(model: torch.nn.Module, shapes: dict[str, tuple[int, ...]]) -> torch.nn.Module:
    """Fills an official model with formula weights; its names and shapes must be those the tests assume."""
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    model.load_state_dict({name: formula_tensor(name, shape) for name, shape in shapes.items()})
    return model.eval()


def numbers(tensor: torch.Tensor) -> list:
    return np.round(tensor.detach().double().numpy(), 6).tolist()


def fine_tuned(models: types.ModuleType) -> dict:
    model = load_official(models.CAVMAEFT(label_dim=7, **SIZES), official_shapes())
    seen = {}
    for name in ("blocks_a", "blocks_v"):
        last = getattr(model, name)[-1]
        last.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output))
    model.norm.register_forward_hook(lambda module, inputs, output: seen.__setitem__("norm", output))
    audio, picture = formula_inputs()
    golden = {"logits": {mode: numbers(model(audio, picture, mode)) for mode in reversed(MODES)}}
    tokens = {"audio": seen["blocks_a"], "visual": seen["blocks_v"], "fusion": seen["norm"]}
    golden["tokens"] = {branch: numbers(value[:, ::3, ::40]) for branch, value in tokens.items()}
    return golden


def pre_trained(models: types.ModuleType) -> dict:
    decoder = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
    model = load_official(models.CAVMAE(**SIZES, **decoder), official_shapes(classes=None) | decoder_shapes())
    tokens, *_ = model.forward_encoder(*formula_inputs(), mask_ratio_a=0.0, mask_ratio_v=0.0)
    return {"pooled": numbers(tokens.mean(dim=1)[:, ::8])}


def position_embeddings(models: types.ModuleType) -> dict:
    model = models.CAVMAEFT(label_dim=7, **SIZES)
    return {"audio": numbers(model.pos_embed_a[0, ::5, ::9]), "visual": numbers(model.pos_embed_v[0, :, ::9])}


def preprocessed(dataloader: types.ModuleType) -> dict:
    """Runs the official data set over files made from the formulas."""
    waveforms = {name: formula_waveform(samples) for name, (samples, _) in CLIPS.items()}
    torchaudio.load = lambda name: (torch.from_numpy(waveforms[name])[None], 16000)
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, (_, (height, width)) in CLIPS.items():
            (Path(folder) / "frame_5").mkdir(exist_ok=True)
            # PNG under the name the official code expects: lossless
            Image.fromarray(formula_picture(height, width)).save(f"{folder}/frame_5/{name}.jpg", format="PNG")
            rows.append({"video_id": name, "wav": name, "video_path": folder, "labels": "a"})
        (Path(folder) / "data.json").write_text(json.dumps({"data": rows}))
        (Path(folder) / "labels.csv").write_text("index,mid,display_name\n0,a,alpha\n")
        options = {"num_mel_bins": 128, "target_length": 64, "freqm": 0, "timem": 0, "mixup": 0, "dataset": "formula"}
        options |= {"mode": "eval", "mean": -5.081, "std": 4.4849, "noise": False, "im_res": 32}
        dataset = dataloader.AudiosetDataset(f"{folder}/data.json", options, f"{folder}/labels.csv")
        items = dict(zip(CLIPS, (dataset[index] for index in range(len(CLIPS))), strict=True))
    return {
        "clips": {name: {"samples": samples, "picture": picture} for name, (samples, picture) in CLIPS.items()},
        "input_values": {name: numbers(fbank[::5, ::9]) for name, (fbank, _, _) in items.items()},
        "pixel_values": {name: numbers(image[:, ::5, ::5]) for name, (_, image, _) in items.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="The folder src of the official repository.")
    parser.add_argument("--output", default=str(HERE / "cav_mae.json"), help="File to write.")
    options = parser.parse_args()

    np.float = float
    six = types.ModuleType("torch._six")
    six.container_abcs = collections.abc
    sys.modules["torch._six"] = six
    sys.path.insert(0, options.official)
    import dataloader

    import models

    with torch.no_grad():
        golden = {
            "source": "YuanGongND/cav-mae at 68fe8c2a3917dc2926e41f796bfdcb331a64b42c, src/models/cav_mae.py and "
            "src/dataloader.py, run on the formulas of tests/models/cav_mae/cav_mae_formulas.py",
            "fine_tuned": fine_tuned(models),
            "pre_trained": pre_trained(models),
            "position_embeddings": position_embeddings(models),
            "preprocessed": preprocessed(dataloader),
        }
    Path(options.output).write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
