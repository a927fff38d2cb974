"""
Makes `relatives.json`: losses and gradients of related methods computed by their official code on formula inputs.

    for r in yzd-v/cls_KD megvii-research/mdistiller WangYZ1608/Knowledge-Distillation-via-ND wkcn/TinyCLIP \
             RuipingL/TransKD; do git clone https://github.com/$r official/$r; done
    python tests/golden/relatives_make.py --official official

Not run by the tests. The lines before an official import stand in for packages that its loss does not use.
"""

import argparse
import importlib.util
import json
import sys
import types
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "distillation" / "objectives")]

import relative_formulas as formulas  # noqa: E402

PICTURES = 3
FILES = {
    "nkd": "yzd-v/cls_KD/mmcls/models/dis_losses/nkd.py",
    "dkd": "megvii-research/mdistiller/mdistiller/distillers/DKD.py",
    "nd": "WangYZ1608/Knowledge-Distillation-via-ND/CIFAR/utils.py",
    "affinity": "wkcn/TinyCLIP/src/open_clip/clip_soft_loss.py",
    "transkd": "RuipingL/TransKD/train/CSF.py",
}
COMMITS = {
    "yzd-v/cls_KD": "1e5d48f36957ee460d39d7ebc592c6cc7f8f3d66",
    "megvii-research/mdistiller": "a08d46f10d6102bd6e3f258ca5ac880b020ea259",
    "WangYZ1608/Knowledge-Distillation-via-ND": "fc6f3f9058ed35189a1d3c0a79a7594025e4d88f",
    "wkcn/TinyCLIP": "ad981bf308f007c4a47c1b34786cc90bbfd2c43c",
    "RuipingL/TransKD": "39ab795d37d32bf2638acf9a384754cd25f7fd98",
}


def stand_in(name: str, **attributes: object) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(attributes)


def load(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"official.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def value_and_gradient(loss, *inputs: Tensor) -> dict[str, object]:
    """The loss and its gradient on the first input."""
    first = inputs[0].clone().requires_grad_()
    value = loss(first, *inputs[1:])
    value.backward()
    return {"loss": value.item(), "gradient": first.grad.flatten().tolist()}


def official_nkd(module: types.ModuleType) -> dict[str, object]:
    student, teacher, labels = formulas.formula_logits()
    return {
        "default": value_and_gradient(module.NKDLoss("nkd", True), student, teacher, labels),
        "gamma 0.5, temperature 2": value_and_gradient(
            module.NKDLoss("nkd", True, 2.0, 0.5), student, teacher, labels
        ),
    }


def official_dkd(module: types.ModuleType) -> dict[str, object]:
    student, teacher, labels = formulas.formula_logits()
    return {
        f"{alpha} {beta} {temperature}": value_and_gradient(
            lambda *inputs, a=alpha, b=beta, t=temperature: module.dkd_loss(*inputs, a, b, t), student, teacher, labels
        )
        for alpha, beta, temperature in ((1.0, 8.0, 4.0), (0.5, 2.0, 1.0))
    }


def official_nd(module: types.ModuleType) -> dict[str, object]:
    student, teacher, means = formulas.formula_features()
    labels = formulas.formula_logits()[2]
    by_class = {str(index): mean.tolist() for index, mean in enumerate(means)}
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor):
        return value_and_gradient(module.DirectNormLoss(), student, teacher, by_class, labels)


def official_affinity(module: types.ModuleType) -> dict[str, object]:
    pairs = {name: nn.functional.normalize(value, dim=1) for name, value in formulas.formula_pairs().items()}
    loss = module.ClipSoftLoss(local_loss=True, rank=0, world_size=1)
    arguments = (pairs["student.audio"], pairs["student.visual"], 50.0)
    return {"loss": loss(*arguments, pairs["teacher.audio"], pairs["teacher.visual"], 50.0).item()}


class Pyramid(nn.Module):
    """A student that returns given stages."""

    def __init__(self, maps: list[Tensor], embeddings: list[Tensor]) -> None:
        super().__init__()
        self.maps, self.embeddings = maps, embeddings

    def forward(self, _: None, is_feat: bool) -> tuple[list[Tensor], None, list[Tensor]]:
        return self.maps, None, [each.flatten(2).transpose(1, 2) for each in self.embeddings]


def official_name(name: str) -> str:
    """Of a parameter of `MultiStageFeatures` in the official `SKF`, which counts stages from the coarsest."""
    part, stage, *rest = name.split(".")
    if part == "embedding_maps":
        return f"embed{int(stage) + 1}_linearproject.{rest[0]}"
    layers = {
        "reduction": "conv1",
        "expansion": "conv2",
        "squeeze": "fc.0",
        "squeeze_norm": "fc.1",
        "excitations": "fcs",
    }
    return ".".join([f"skfs.{3 - int(stage)}", layers[rest[0]], *rest[1:]])


def official_transkd(module: types.ModuleType) -> dict[str, float]:
    from hf_emktd.distillation import MultiStageFeatures

    widths = formulas.STAGE_WIDTHS
    maps, embeddings = (formulas.formula_stages("student", kind, PICTURES) for kind in ("maps", "embeddings"))
    model = module.SKF(Pyramid(maps, embeddings), widths["student"], widths["teacher"], formulas.FUSED_WIDTH, 5)
    ours = MultiStageFeatures(widths["student"], widths["teacher"], fused_width=formulas.FUSED_WIDTH).state_dict()
    state = {official_name(name): value for name, value in formulas.formula_state(ours).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("fc1" in name or "running" in name or "num_" in name for name in missing)
    fused, _, projected = model.train()(None)
    their_maps, theirs = (formulas.formula_stages("teacher", kind, PICTURES) for kind in ("maps", "embeddings"))
    theirs = [each.flatten(2).transpose(1, 2) for each in theirs]
    losses = [nn.functional.mse_loss(*pair) for pair in zip(projected, theirs, strict=True)]
    return {
        "features": module.hcl(fused, their_maps).item(),
        "embeddings": sum(weight * loss.item() for weight, loss in zip((0.1, 0.1, 0.5, 1), losses, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="Folder with the clones.")
    parser.add_argument("--output", default=str(HERE / "relatives.json"), help="File to write.")
    options = parser.parse_args()

    stand_in("mmcls")
    stand_in("mmcls.registry", MODELS=types.SimpleNamespace(register_module=lambda: lambda cls: cls))
    stand_in("official")
    stand_in("official._base", Distiller=nn.Module)
    stand_in("open_clip")
    stand_in("open_clip.loss", gather_features=None, gather_feature=lambda feature, *_: feature)
    stand_in("models")
    stand_in("models.Segformer", mit_b0=None, mit_b1=None, mit_b2=None)
    golden = {"source": {"commits": COMMITS, "files": FILES}}
    for name, file in FILES.items():
        golden[name] = globals()[f"official_{name}"](load(Path(options.official) / file))
    Path(options.output).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
