"""
Makes `avsegformer.json`: numbers computed by the official AVSegFormer code from formula weights and inputs.

    git clone https://github.com/vvvb-github/AVSegFormer
    pip install torchvision pandas
    python tests/golden/avsegformer_make.py --official AVSegFormer

Not run by the tests. The stand-ins before the official import are for timm's three helpers, for libraries that are
imported and not needed here, and for the compiled kernel, without which the official code takes its PyTorch path.
"""

import argparse
import contextlib
import functools
import importlib
import json
import pickle
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "models" / "avsegformer")]

from avsegformer_formulas import (  # noqa: E402
    CLIPS,
    FRAMES,
    MASK_MLP_SIZE,
    NUM_QUERIES,
    PVT_SIZES,
    SIDE,
    VGGISH_REDUCTION,
    formula_inputs,
    formula_labels,
    formula_mask,
)

from formulas import formula_picture, formula_tensor, formula_waveform  # noqa: E402

LAYER = {"dim": 256, "ffn_dim": 40, "dropout": 0.1}
WAVEFORMS = {"one": 15600, "almost_two": 30959, "five": 80000}
PICTURES = {"wide": (67, 101), "high": (90, 41)}


def stand_in(name: str, **attributes: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def stand_ins() -> None:
    stand_in("timm")
    stand_in("timm.models")
    layers = {"to_2tuple": lambda x: (x, x), "trunc_normal_": nn.init.trunc_normal_}
    stand_in("timm.models.layers", DropPath=lambda rate: nn.Identity(), **layers)
    stand_in("timm.models.registry", register_model=lambda function: function)
    stand_in("timm.models.vision_transformer", _cfg=dict)
    for name in ("MultiScaleDeformableAttention", "resampy", "soundfile", "cv2"):
        stand_in(name)
    stand_in("mmcv", Config=None)
    torch.Tensor.cuda = lambda self: self


def narrowed(size: int) -> int:
    return size if size == 1 else size // VGGISH_REDUCTION


def build_official() -> nn.Module:
    """The official model with a small picture encoder, a narrow VGGish and few layers."""
    avsegformer = importlib.import_module("model.AVSegFormer")
    pvt = importlib.import_module("model.backbone.pvt")
    vggish = importlib.import_module("model.vggish.vggish")
    head = importlib.import_module("model.head.AVSegHead")
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    avsegformer.build_backbone = lambda type: pvt.PyramidVisionTransformerV2(
        img_size=SIDE, qkv_bias=True, norm_layer=norm, drop_path_rate=0.1, **PVT_SIZES
    )
    narrow = types.SimpleNamespace(**vars(nn))
    narrow.Conv2d = lambda before, after, **options: nn.Conv2d(narrowed(before), after // VGGISH_REDUCTION, **options)
    # the embeddings keep their 128, by which no convolution's output is ever called
    narrow.Linear = lambda before, after: nn.Linear(narrowed(before), after if after == 128 else narrowed(after))
    vggish.nn = narrow
    mlp = head.MLP
    head.MLP = lambda queries, hidden, width, layers: mlp(queries, MASK_MLP_SIZE, width, layers)
    return avsegformer.AVSegFormer(
        backbone={"type": "pvt"},
        vggish={
            "freeze_audio_extractor": False,
            "pretrained_vggish_model_path": None,
            "preprocess_audio_to_log_mel": False,
            "postprocess_log_mel_with_pca": False,
            "pretrained_pca_params_path": None,
        },
        head={
            "type": "AVSegHead",
            "in_channels": PVT_SIZES["embed_dims"],
            "num_classes": 1,
            "query_num": NUM_QUERIES,
            "fusion_block": {"type": "CrossModalMixer"},
            "positional_encoding": {"type": "SinePositionalEncoding", "num_feats": 128},
            "query_generator": {
                "type": "AttentionGenerator",
                "num_layers": 1,
                "query_num": NUM_QUERIES,
                "hidden_dim": 24,
            },
            "transformer": {
                "type": "AVSTransformer",
                "encoder": {"num_layers": 2, "layer": LAYER},
                "decoder": {"num_layers": 2, "layer": LAYER},
            },
        },
    ).eval()


def numbers(tensor: torch.Tensor) -> list:
    return np.round(tensor.detach().double().numpy(), 6).tolist()


def forward(model: nn.Module) -> dict:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: formula_tensor(name, shape) for name, shape in shapes.items()})
    seen = {}
    for name, module in (("stages", model.backbone), ("audio_map", model.vggish.features), ("audio", model.vggish)):
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.__setitem__(name, output))
    model.head.transformer.register_forward_hook(lambda *call: seen.update(memory=call[2][0], queries=call[2][1][-1]))
    examples, pictures = (values.flatten(0, 1) for values in formula_inputs())
    logits, features = model(examples.unsqueeze(1), pictures)
    return {
        "shapes": shapes,
        "logits": numbers(logits[:, 0, ::7, ::7]),
        "mask_features": numbers(features[:, ::29, ::5, ::5]),
        "audio_map": numbers(seen["audio_map"][:, ::7]),
        "audio_embeddings": numbers(seen["audio"][:, ::5]),
        "stages": [numbers(stage[:, ::5, ::3, ::3]) for stage in seen["stages"]],
        "memory": numbers(seen["memory"][:, ::11, ::37]),
        "queries": numbers(seen["queries"][:, :, ::31]),
    }


def losses() -> dict:
    """The official losses, the first colour channel taken for the logits."""
    _, pictures = formula_inputs()
    logits = pictures.flatten(0, 1)[:, :1]
    features = torch.stack([formula_tensor(f"mask_features.{i}", (16, 16, 16)) for i in range(CLIPS * FRAMES)])
    labels = formula_labels().flatten(0, 1).unsqueeze(1).float()
    official, golden = importlib.import_module("scripts.ms3.loss"), {}
    for kind in ("dice", "bce"):
        options = {"weight_dict": {"iou_loss": 1.0, "mix_loss": 0.1}, "loss_type": kind}
        _, golden[kind] = official.IouSemanticAwareLoss(logits, features, labels, **options)
    return golden


def preprocessed() -> dict:
    """Runs the official spectrogram and data set over formula clips."""
    examples = importlib.import_module("model.vggish.vggish_input").waveform_to_examples
    log_mels = {
        name: examples(formula_waveform(samples).astype(np.float64), 16000) for name, samples in WAVEFORMS.items()
    }
    pictures, masks = {}, {}
    s4_dataset = importlib.import_module("dataloader.s4_dataset")
    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder))
        config = types.SimpleNamespace(
            anno_csv=f"{folder}/meta.csv", dir_img=folder, dir_mask=f"{folder}/masks", dir_audio_log_mel=folder
        )
        with contextlib.redirect_stdout(sys.stderr):
            dataset = s4_dataset.S4Dataset("val", config)
        # The official indexing of a row by number is by label in new pandas.
        dataset.df_split = dataset.df_split.rename(columns={"name": 0, "category": 2})
        for index, name in enumerate(PICTURES):
            images, _, mask, *_ = dataset[index]
            pictures[name], masks[name] = numbers(images[0][:, ::73, ::73]), mask[0, 0, ::37, ::37].int().tolist()
    return {
        "waveforms": WAVEFORMS,
        "pictures": PICTURES,
        "log_mel": {name: numbers(value[:, 0, ::19, ::9]) for name, value in log_mels.items()},
        "pixel_values": pictures,
        "masks": masks,
    }


def write_clips(folder: Path) -> None:
    rows = ["name,start,category,split"]
    for name, size in PICTURES.items():
        for kind, array in (("", formula_picture(*size)), ("masks", formula_mask(*size))):
            place = folder / kind / "val" / "any" / name
            place.mkdir(parents=True)
            for frame in range(1, 6):
                Image.fromarray(array).save(place / f"{name}_{frame}.png")
        (folder / "val" / "any" / f"{name}.pkl").write_bytes(pickle.dumps(torch.zeros(5, 1, 96, 64)))
        rows.append(f"{name},0,any,val")
    (folder / "meta.csv").write_text("\n".join(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="A clone of the official repository.")
    parser.add_argument("--output", default=str(HERE / "avsegformer.json"), help="File to write.")
    options = parser.parse_args()
    stand_ins()
    sys.path.insert(0, options.official)
    with torch.no_grad():
        golden = {
            "source": "vvvb-github/AVSegFormer at 7083cb6586d1bc06d174a34be3c34bb5814cf0c3, model/, ops/, "
            "scripts/ms3/loss.py and dataloader/s4_dataset.py, run on the formulas of tests/models/avsegformer",
            "model": forward(build_official()),
            "losses": losses(),
            "preprocessed": preprocessed(),
        }
    Path(options.output).write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
