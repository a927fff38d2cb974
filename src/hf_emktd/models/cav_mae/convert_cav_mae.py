"""
Converts an official CAV-MAE checkpoint into a model directory.

    python -m hf_emktd.models.cav_mae.convert_cav_mae --checkpoint FILE.pth --output_dir DIR
    python -m hf_emktd.models.cav_mae.convert_cav_mae --checkpoint FILE.pth --output_dir DIR --label_names LABELS.csv

Reads fine-tuned (`CAVMAEFT`) and pre-trained (`CAVMAE`) checkpoints of https://github.com/YuanGongND/cav-mae. All
sizes are inferred from the tensors. Of a pre-trained one the decoder is dropped and the head is newly initialised.
"""

import argparse
import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..checkpoints import CheckpointError, check_tensors, read_checkpoint, shape_of
from .configuration_cav_mae import CavMaeConfig
from .modeling_cav_mae import CavMaeForAudioVisualClassification
from .processing_cav_mae import CavMaeProcessor

OFFICIAL_MEL_BINS = 128
OFFICIAL_HEAD_WIDTH = 64
SIZING_KEYS = (
    "patch_embed_a.proj.weight",
    "patch_embed_v.proj.weight",
    "pos_embed_a",
    "pos_embed_v",
    "blocks_a.0.mlp.fc1.weight",
    "blocks_v.0.mlp.fc1.weight",
    "blocks_u.0.mlp.fc1.weight",
)
DECODER_KEYS = re.compile(r"decoder_|mask_token$")
RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^patch_embed_a\.proj\.", "cav_mae.audio_embeddings.patch_embeddings.projection."),
        (r"^patch_embed_v\.proj\.", "cav_mae.visual_embeddings.patch_embeddings.projection."),
        (r"^pos_embed_a$", "cav_mae.audio_embeddings.position_embeddings"),
        (r"^pos_embed_v$", "cav_mae.visual_embeddings.position_embeddings"),
        (r"^modality_a$", "cav_mae.audio_embeddings.modality_embeddings"),
        (r"^modality_v$", "cav_mae.visual_embeddings.modality_embeddings"),
        (r"^blocks_a\.", "cav_mae.audio_layers."),
        (r"^blocks_v\.", "cav_mae.visual_layers."),
        (r"^blocks_u\.", "cav_mae.joint_layers."),
        (r"\.norm1(_[av])?\.", r".layernorm_before\1."),
        (r"\.norm2(_[av])?\.", r".layernorm_after\1."),
        (r"\.attn\.proj\.", ".attention.output."),
        (r"\.attn\.qkv\.", ".attention.qkv."),
        (r"^norm(_[av])?\.", r"cav_mae.layernorm\1."),
        (r"(layernorm\w*)_a\.", r"\1_audio."),
        (r"(layernorm\w*)_v\.", r"\1_visual."),
        (r"^mlp_head\.0\.", "classifier.layernorm."),
        (r"^mlp_head\.1\.", "classifier.dense."),
    )
)


@dataclass
class ConversionReport:
    """
    What a conversion found.

    Args:
        config ([`CavMaeConfig`]): The inferred sizes.
        num_parameters (`int`): Parameters of the converted model.
        dropped (`list[str]`): Official names of the tensors that were left out: the pre-training decoder.
        initialised (`list[str]`): Names of the tensors that the checkpoint lacks, newly initialised: the head.
    """

    config: CavMaeConfig
    num_parameters: int
    dropped: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        config = self.config
        lines = [
            f"width {config.hidden_size}, {config.num_attention_heads} heads, {config.modality_specific_depth} + "
            f"{config.joint_depth} layers, spectrogram {config.audio_length} x {config.num_mel_bins}, picture "
            f"{config.image_size}, {config.num_labels} classes: {self.num_parameters / 1e6:.3f} M parameters"
        ]
        if self.dropped:
            parts = sorted({name.split(".")[0] for name in self.dropped})
            lines.append(f"dropped {len(self.dropped)} tensors of the pre-training decoder: {', '.join(parts)}")
        if self.initialised:
            lines.append(
                "pre-trained checkpoint without a classifier: the head is newly initialised and must be trained "
                f"({', '.join(self.initialised)})"
            )
        return "\n".join(lines)


def convert_checkpoint(
    checkpoint: str | Path,
    output_dir: str | Path,
    label_names: str | Path | None = None,
    single_modality_mode: str = "missing",
) -> ConversionReport:
    """
    Writes model and processor of an official checkpoint to `output_dir`.

    Args:
        checkpoint (`str` or `Path`): The official `.pth` file.
        output_dir (`str` or `Path`): Where the model goes.
        label_names (`str` or `Path`, *optional*): Names of the classes, see [`read_label_names`].
        single_modality_mode (`str`, *optional*, defaults to `"missing"`): See [`CavMaeConfig`]; `"only"` for a
            checkpoint that was fine-tuned on a single modality.

    Raises:
        [`CheckpointError`]: if the file is no CAV-MAE checkpoint or the label names do not fit it.
    """
    state = read_checkpoint(checkpoint)
    names = None if label_names is None else read_label_names(label_names)
    config = infer_config(state, names)
    config.single_modality_mode = single_modality_mode
    model = CavMaeForAudioVisualClassification(config)
    converted = {rename_key(key): tensor.float() for key, tensor in state.items() if not DECODER_KEYS.match(key)}
    initialised = check_tensors(converted, model, "CAV-MAE", "classifier.", "its other tensors or the label names")
    model.load_state_dict(converted, strict=False)
    model.save_pretrained(output_dir)
    CavMaeProcessor.from_config(config).save_pretrained(output_dir)
    dropped = [key for key in state if DECODER_KEYS.match(key)]
    return ConversionReport(config, model.num_parameters(), dropped, initialised)


def infer_config(state: dict[str, torch.Tensor], label_names: list[str] | None = None) -> CavMaeConfig:
    """
    Configuration that the tensors of an official state dict belong to.

    128 mel bins and heads of width 64 are taken for granted, as in every official checkpoint; the rest follows from
    the shapes. Without a head in the checkpoint and without `label_names` there are 309 classes.

    Raises:
        [`CheckpointError`]: if keys are missing or the sizes contradict each other.
    """
    missing = [key for key in SIZING_KEYS if key not in state]
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(missing)} and is no CAV-MAE model with both modalities; its keys begin "
            f"with {', '.join(list(state)[:3])}."
        )
    width, _, patch, _ = shape_of(state, "patch_embed_a.proj.weight", 4)
    if width % OFFICIAL_HEAD_WIDTH:
        raise CheckpointError(
            f"the checkpoint has width {width}, which is not a multiple of the {OFFICIAL_HEAD_WIDTH} of each head."
        )
    labels = {} if label_names is None else {"id2label": dict(enumerate(label_names))}
    return CavMaeConfig(
        hidden_size=width,
        num_attention_heads=width // OFFICIAL_HEAD_WIDTH,
        modality_specific_depth=_depth(state, "blocks_a"),
        joint_depth=_depth(state, "blocks_u"),
        mlp_ratio=shape_of(state, "blocks_a.0.mlp.fc1.weight", 2)[0] / width,
        patch_size=patch,
        num_mel_bins=OFFICIAL_MEL_BINS,
        **_infer_input_sizes(state, patch),
        **(labels or _infer_num_labels(state)),
    )


def rename_key(key: str) -> str:
    """Name in [`CavMaeForAudioVisualClassification`] of an official tensor."""
    for pattern, replacement in RENAMES:
        key = pattern.sub(replacement, key)
    return key


def read_label_names(path: str | Path) -> list[str]:
    """
    Class names in the order of their ids, from the official CSV (`index,mid,display_name`) or a text file with one
    name per line.

    Raises:
        [`CheckpointError`]: if the file is absent or empty, ids have gaps, or a name occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file of label names {path}.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    names = lines
    if lines and {"index", "display_name"} <= set(lines[0].split(",")):
        rows = sorted(csv.DictReader(lines), key=lambda row: int(row["index"]))
        if [int(row["index"]) for row in rows] != list(range(len(rows))):
            raise CheckpointError(f"the column index of {path} must run from 0 to {len(rows) - 1} without gaps.")
        names = [row["display_name"] for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise CheckpointError(f"{path} has no label names." if not names else f"{path} names {twice} more than once.")
    return names


def _infer_input_sizes(state: dict[str, torch.Tensor], patch: int) -> dict[str, int]:
    audio_tokens, visual_tokens = (shape_of(state, f"pos_embed_{modality}", 3)[1] for modality in "av")
    rows, side = OFFICIAL_MEL_BINS // patch, math.isqrt(visual_tokens)
    if rows * patch != OFFICIAL_MEL_BINS or audio_tokens % rows or side**2 != visual_tokens:
        raise CheckpointError(
            f"{audio_tokens} audio tokens are not a grid over {OFFICIAL_MEL_BINS} mel bins, or {visual_tokens} visual "
            f"tokens not a square, with patches of {patch}."
        )
    return {"audio_length": audio_tokens // rows * patch, "image_size": side * patch}


def _infer_num_labels(state: dict[str, torch.Tensor]) -> dict[str, int]:
    return {"num_labels": shape_of(state, "mlp_head.1.weight", 2)[0]} if "mlp_head.1.weight" in state else {}


def _depth(state: dict[str, torch.Tensor], blocks: str) -> int:
    return len({key.split(".")[1] for key in state if key.startswith(f"{blocks}.")})


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="Official CAV-MAE file (.pth), fine-tuned or pre-trained.")
    parser.add_argument("--output_dir", required=True, help="Directory to write model and processor to.")
    parser.add_argument(
        "--label_names", help="Official CSV (index,mid,display_name) or a text file with one name per line."
    )
    parser.add_argument(
        "--single_modality_mode",
        choices=("missing", "only"),
        default="missing",
        help="Use 'only' for a checkpoint that was fine-tuned on a single modality.",
    )
    options = parser.parse_args(arguments)
    try:
        report = convert_checkpoint(**vars(options))
    except CheckpointError as error:
        parser.exit(1, f"error: {error}\n")
    print(report)
    print(f"saved to {options.output_dir}")


if __name__ == "__main__":
    main()
