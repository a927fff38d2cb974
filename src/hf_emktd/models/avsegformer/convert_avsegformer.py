"""
Converts official AVSegFormer, VGGish and PVTv2 checkpoints into a model directory.

    python -m hf_emktd.models.avsegformer.convert_avsegformer --checkpoint S4_PVT_best.pth --output_dir DIR
    python -m hf_emktd.models.avsegformer.convert_avsegformer --pvt pvt_v2_b0.pth --vggish vggish-10086976.pth \
        --output_dir DIR --image_size 224
    python -m hf_emktd.models.avsegformer.convert_avsegformer --model DIR --vggish vggish-10086976.pth --output_dir OUT

The first reads a whole model of https://github.com/vvvb-github/AVSegFormer with a PVTv2 picture encoder, trained on S4
or MS3. The second makes a new model whose encoders are pre-trained and whose head must be trained; the third fills the
encoders of a given one. All sizes are inferred from the tensors.
"""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..checkpoints import CheckpointError, check_tensors, read_checkpoint, shape_of
from .configuration_avsegformer import PRESETS, AvSegFormerConfig
from .modeling_avsegformer import ENCODER_STAGES, AvSegFormerForAudioVisualSegmentation
from .processing_avsegformer import AvSegFormerProcessor

# Not to be read off the tensors, and the same in every official file.
OFFICIAL_HEADS = 8
OFFICIAL_VISION_HEADS = [1, 2, 5, 8]
OFFICIAL_IMAGE_SIZE = 512
# Positions of the layers with weights in VGGish's two sequences.
CONVOLUTIONS = (0, 3, 6, 8, 11, 13)
LINEAR_LAYERS = (0, 2, 4)

PVT_SIZING_KEYS = (
    *(f"patch_embed{stage}.proj.weight" for stage in "1234"),
    *(f"block{stage}.0.mlp.fc1.weight" for stage in "1234"),
)
VGGISH_SIZING_KEYS = (
    *(f"features.{place}.weight" for place in CONVOLUTIONS),
    *(f"embeddings.{place}.weight" for place in LINEAR_LAYERS),
)
HEAD_SIZING_KEYS = (
    "head.learnable_query.weight",
    "head.query_generator.layers.0.ffn.0.weight",
    "head.transformer.encoder.layers.0.self_attn.attention_weights.weight",
    "head.transformer.encoder.layers.0.linear1.weight",
    "head.transformer.decoder.layers.0.linear1.weight",
    "head.mlp.layers.0.weight",
    "head.fc.4.weight",
)
# Built by the official code and never run: an unused pyramid with its prediction, VGGish's PCA, PVTv2's classifier.
UNUSED_KEYS = re.compile(r"head\.(fpn|attn_fc)\.|vggish\.pproc\.|pproc\.|(backbone\.)?head\.(weight|bias)$")
PVT_RENAMES = (
    (r"^patch_embed(\d)\.norm\.", r"patch_embed\1.layer_norm."),
    (r"^patch_embed(\d)\.", r"encoder.layers.\1.patch_embedding."),
    (r"^block(\d)\.", r"encoder.layers.\1.blocks."),
    (r"^norm(\d)\.", r"encoder.layers.\1.layer_norm."),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.attn\.q\.", ".attention.query."),
    (r"\.attn\.sr\.", ".attention.spatial_reduction."),
    (r"\.attn\.norm\.", ".attention.layer_norm."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
    (r"^encoder\.layers\.(\d)", lambda match: f"encoder.layers.{int(match[1]) - 1}"),
)
HEAD_RENAMES = (
    (r"^audio_proj\.", "avsegformer.audio_projection."),
    (r"^head\.level_embed$", "avsegformer.encoder.level_embeddings"),
    (r"^head\.learnable_query\.", "avsegformer.queries."),
    (r"^head\.query_generator\.query\.", "avsegformer.query_generator.queries."),
    (r"^head\.query_generator\.", "avsegformer.query_generator."),
    (r"^head\.transformer\.encoder\.", "avsegformer.encoder."),
    (r"^head\.transformer\.decoder\.layers\.", "avsegformer.decoder_layers."),
    (r"^head\.in_proj\.", "avsegformer.input_projections."),
    (r"^head\.lateral_conv\.", "avsegformer.lateral_projection."),
    (r"^head\.out_conv\.", "avsegformer.smoothing."),
    (r"^head\.fusion_block\.q_proj\.", "avsegformer.mixer.query."),
    (r"^head\.fusion_block\.kv_proj\.", "avsegformer.mixer.key_value."),
    (r"^head\.fusion_block\.proj\.", "avsegformer.mixer.output."),
    (r"^head\.mlp\.layers\.", "mask_head.query_mlp."),
    (r"^head\.fc\.0\.", "mask_head.reduction."),
    (r"^head\.fc\.2\.", "mask_head.refinement."),
    (r"^head\.fc\.4\.", "mask_head.prediction."),
    (r"(\.encoder\.layers\.\d+)\.self_attn\.(value|output)_proj\.", r"\1.attention.\2."),
    (r"(\.encoder\.layers\.\d+)\.self_attn\.", r"\1.attention."),
    (r"(\.encoder\.layers\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"(\.encoder\.layers\.\d+)\.norm2\.", r"\1.feed_forward_norm."),
    (r"\.(self|cross)_attn\.in_proj_", r".\1_attention.in_projection."),
    (r"\.(self|cross)_attn\.out_proj\.", r".\1_attention.out_projection."),
    (r"\.(ffn\.0|linear1)\.", ".feed_forward.fc1."),
    (r"\.(ffn\.2|linear2)\.", ".feed_forward.fc2."),
    (r"\.norm1\.", ".self_attention_norm."),
    (r"\.norm2\.", ".cross_attention_norm."),
    (r"\.norm3\.", ".feed_forward_norm."),
)

State = dict[str, torch.Tensor]


@dataclass
class ConversionReport:
    """
    What a conversion found.

    Args:
        config ([`AvSegFormerConfig`]): The sizes.
        num_parameters (`int`): Parameters of the written model.
        dropped (`list[str]`): Official names of the tensors that were left out, which no forward pass uses.
        initialised (`list[str]`): Names of the parts of a new model that no file gave weights for.
    """

    config: AvSegFormerConfig
    num_parameters: int
    dropped: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        config = self.config
        lines = [
            f"PVTv2 {list(config.vision_hidden_sizes)} x {list(config.vision_depths)}, VGGish "
            f"{config.audio_hidden_size}, head {config.hidden_size} wide, {config.query_layers} + "
            f"{config.encoder_layers} + {config.decoder_layers} layers, {config.num_queries} queries, picture "
            f"{config.image_size}: {self.num_parameters / 1e6:.3f} M parameters"
        ]
        if self.dropped:
            parts = sorted({".".join(name.split(".")[:2]) for name in self.dropped})
            lines.append(f"dropped {len(self.dropped)} tensors that no forward pass uses: {', '.join(parts)}")
        if self.initialised:
            lines.append(f"newly initialised, to be trained: {', '.join(self.initialised)}")
        return "\n".join(lines)


def convert_checkpoint(
    checkpoint: str | Path, output_dir: str | Path, image_size: int = OFFICIAL_IMAGE_SIZE
) -> ConversionReport:
    """
    Writes model and processor of an official AVSegFormer checkpoint to `output_dir`.

    Args:
        checkpoint (`str` or `Path`): The official `.pth` file, with PVTv2, trained on S4 or MS3.
        output_dir (`str` or `Path`): Where the model goes.
        image_size (`int`, *optional*, defaults to 512): Side of the picture it was trained on; no tensor tells.

    Raises:
        [`CheckpointError`]: if the file is no such checkpoint.
    """
    state = read_checkpoint(checkpoint)
    model = AvSegFormerForAudioVisualSegmentation(infer_config(state, image_size))
    dropped = [key for key in state if UNUSED_KEYS.match(key)]
    converted = rename_tensors({key: tensor for key, tensor in state.items() if not UNUSED_KEYS.match(key)})
    check_tensors(converted, model, "AVSegFormer")
    model.load_state_dict(converted)
    return _save(model, output_dir, dropped)


def initialise_model(
    output_dir: str | Path,
    model: str | Path | None = None,
    pvt: str | Path | None = None,
    vggish: str | Path | None = None,
    image_size: int | None = None,
) -> ConversionReport:
    """
    Writes a model whose encoders come from official files, and its processor, to `output_dir`.

    Args:
        output_dir (`str` or `Path`): Where the model goes.
        model (`str` or `Path`, *optional*): Model directory to start from, or name of a preset. By default a new model
            whose encoders have the files' sizes, PVTv2-b5 without a file.
        pvt (`str` or `Path`, *optional*): Official PVTv2 file (`pvt_v2_b0.pth`), its classifier is dropped.
        vggish (`str` or `Path`, *optional*): VGGish file (`vggish-10086976.pth`).
        image_size (`int`, *optional*): Side of the picture; by default that of `model`, or 512.

    Raises:
        [`CheckpointError`]: if a file is not what it should be or does not fit `model`.
    """
    states = {name: read_checkpoint(path) for name, path in (("pvt", pvt), ("vggish", vggish)) if path is not None}
    sizes = {} if image_size is None else {"image_size": image_size}
    if model is None or str(model) in PRESETS:
        sizes |= _infer_vggish_sizes(states["vggish"]) if "vggish" in states else {}
        sizes |= _infer_pvt_sizes(states["pvt"]) if model is None and "pvt" in states else {}
        config = AvSegFormerConfig(**sizes) if model is None else AvSegFormerConfig.from_preset(str(model), **sizes)
        built = AvSegFormerForAudioVisualSegmentation(config)
        files = {"pvt": "PVTv2", "vggish": "VGGish"}
        initialised = [*(part for name, part in files.items() if name not in states), "head"]
    else:
        built, initialised = AvSegFormerForAudioVisualSegmentation.from_pretrained(model, **sizes), []
    dropped = _load_pvt(built, states["pvt"]) if "pvt" in states else []
    dropped += _load_vggish(built, states["vggish"]) if "vggish" in states else []
    return _save(built, output_dir, dropped, initialised)


def load_pvt(model: AvSegFormerForAudioVisualSegmentation, path: str | Path) -> list[str]:
    """
    Fills the picture encoder of a model from an official PVTv2 file; returns the names of the dropped tensors.

    Raises:
        [`CheckpointError`]: if the file is not of a PVTv2 of this size.
    """
    return _load_pvt(model, read_checkpoint(path))


def load_vggish(model: AvSegFormerForAudioVisualSegmentation, path: str | Path) -> list[str]:
    """
    Fills the sound encoder of a model from a VGGish file; returns the names of the dropped tensors.

    Raises:
        [`CheckpointError`]: if the file is not of a VGGish of this size.
    """
    return _load_vggish(model, read_checkpoint(path))


def infer_config(state: State, image_size: int = OFFICIAL_IMAGE_SIZE) -> AvSegFormerConfig:
    """
    Configuration that the tensors of an official AVSegFormer belong to.

    Eight attention heads in the head, those of PVTv2 in its stages, and 32 groups in the group norms are taken for
    granted, as in every official configuration; the rest follows from the shapes.

    Raises:
        [`CheckpointError`]: if keys are missing or the model predicts anything but one mask.
    """
    _require(state, HEAD_SIZING_KEYS, "an AVSegFormer model")
    queries, width = shape_of(state, "head.learnable_query.weight", 2)
    classes = shape_of(state, "head.fc.4.weight", 4)[0]
    if classes != 1:
        raise CheckpointError(
            f"the checkpoint predicts {classes} classes (AVSS); only those with one mask, S4 and MS3, are converted."
        )
    layers = "head.transformer.{}.layers"
    looks = shape_of(state, f"{layers.format('encoder')}.0.self_attn.attention_weights.weight", 2)[0]
    return AvSegFormerConfig(
        **_infer_pvt_sizes(_part(state, "backbone.")),
        **_infer_vggish_sizes(_part(state, "vggish.")),
        hidden_size=width,
        num_attention_heads=OFFICIAL_HEADS,
        encoder_layers=_count(state, layers.format("encoder")),
        decoder_layers=_count(state, layers.format("decoder")),
        query_layers=_count(state, "head.query_generator.layers"),
        num_queries=queries,
        feed_forward_size=shape_of(state, f"{layers.format('encoder')}.0.linear1.weight", 2)[0],
        query_feed_forward_size=shape_of(state, "head.query_generator.layers.0.ffn.0.weight", 2)[0],
        mask_mlp_size=shape_of(state, "head.mlp.layers.0.weight", 4)[0],
        num_points=looks // (OFFICIAL_HEADS * len(ENCODER_STAGES)),
        image_size=image_size,
    )


def rename_tensors(state: State) -> State:
    """Tensors of an official AVSegFormer under the names of [`AvSegFormerForAudioVisualSegmentation`], float32."""
    encoders = {
        "visual_encoder": _rename_pvt(_part(state, "backbone.")),
        "audio_encoder": _rename_vggish(_part(state, "vggish.")),
    }
    renamed = {f"avsegformer.{part}.{key}": tensor for part, each in encoders.items() for key, tensor in each.items()}
    for key, tensor in state.items():
        if not key.startswith(("backbone.", "vggish.")):
            renamed[_substitute(key, HEAD_RENAMES)] = tensor.float()
    return renamed


def _load_pvt(model: AvSegFormerForAudioVisualSegmentation, state: State) -> list[str]:
    _require(state, PVT_SIZING_KEYS, "a PVTv2 model")
    used = {key: tensor for key, tensor in state.items() if not UNUSED_KEYS.match(key)}
    return _fill(model.avsegformer.visual_encoder, _rename_pvt(used), "this model's PVTv2", state, used)


def _load_vggish(model: AvSegFormerForAudioVisualSegmentation, state: State) -> list[str]:
    _require(state, VGGISH_SIZING_KEYS, "a VGGish model")
    used = {key: tensor for key, tensor in state.items() if not UNUSED_KEYS.match(key)}
    return _fill(model.avsegformer.audio_encoder, _rename_vggish(used), "this model's VGGish", state, used)


def _fill(encoder: torch.nn.Module, converted: State, name: str, state: State, used: State) -> list[str]:
    check_tensors(converted, encoder, name, source="the model's configuration")
    encoder.load_state_dict(converted)
    return [key for key in state if key not in used]


def _rename_pvt(state: State) -> State:
    renamed = {}
    for key, tensor in state.items():
        name = _substitute(key, PVT_RENAMES)
        if ".attention.kv." in name:  # transformers has two layers where the official code has one
            key_half, value_half = tensor.float().chunk(2)
            renamed[name.replace(".kv.", ".key.")], renamed[name.replace(".kv.", ".value.")] = key_half, value_half
        else:
            renamed[name] = tensor.float()
    return renamed


def _rename_vggish(state: State) -> State:
    names = {f"features.{place}.": f"convolutions.{index}." for index, place in enumerate(CONVOLUTIONS)}
    names |= {f"embeddings.{place}.": f"layers.{index}." for index, place in enumerate(LINEAR_LAYERS)}
    renamed = {}
    for key, tensor in state.items():
        stem, _, kind = key.rpartition(".")
        renamed[names.get(f"{stem}.", f"{stem}.") + kind] = tensor.float()
    return renamed


def _infer_pvt_sizes(state: State) -> dict[str, list[int]]:
    _require(state, PVT_SIZING_KEYS, "a PVTv2 model")
    widths = [shape_of(state, f"patch_embed{stage}.proj.weight", 4)[0] for stage in "1234"]
    hidden = [shape_of(state, f"block{stage}.0.mlp.fc1.weight", 2)[0] for stage in "1234"]
    reductions = [f"block{stage}.0.attn.sr.weight" for stage in "1234"]
    return {
        "vision_hidden_sizes": widths,
        "vision_depths": [_count(state, f"block{stage}") for stage in "1234"],
        "vision_num_attention_heads": OFFICIAL_VISION_HEADS,
        "vision_mlp_ratios": [each // width for each, width in zip(hidden, widths, strict=True)],
        "vision_sr_ratios": [shape_of(state, key, 4)[-1] if key in state else 1 for key in reductions],
    }


def _infer_vggish_sizes(state: State) -> dict[str, int | list[int]]:
    _require(state, VGGISH_SIZING_KEYS, "a VGGish model")
    return {
        "audio_channels": [shape_of(state, f"features.{place}.weight", 4)[0] for place in CONVOLUTIONS],
        "audio_hidden_size": shape_of(state, "embeddings.0.weight", 2)[0],
        "audio_embedding_size": shape_of(state, "embeddings.4.weight", 2)[0],
    }


def _require(state: State, keys: tuple[str, ...], what: str) -> None:
    missing = [key for key in keys if key not in state]
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(missing[:3])} and is not {what}; its keys begin with "
            f"{', '.join(list(state)[:3]) or 'nothing of the kind'}."
        )


def _part(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _count(state: State, layers: str) -> int:
    return len({key.removeprefix(f"{layers}.").split(".")[0] for key in state if key.startswith(f"{layers}.")})


def _substitute(key: str, renames: tuple) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _save(
    model: AvSegFormerForAudioVisualSegmentation,
    output_dir: str | Path,
    dropped: list[str],
    initialised: list[str] | None = None,
) -> ConversionReport:
    model.save_pretrained(output_dir)
    AvSegFormerProcessor.from_config(model.config).save_pretrained(output_dir)
    return ConversionReport(model.config, model.num_parameters(), dropped, initialised or [])


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="Official AVSegFormer file (.pth) with PVTv2, trained on S4 or MS3.")
    parser.add_argument("--pvt", help="Official PVTv2 file for the picture encoder (pvt_v2_b0.pth to pvt_v2_b5.pth).")
    parser.add_argument("--vggish", help="VGGish file for the sound encoder (vggish-10086976.pth).")
    parser.add_argument("--model", help="Model directory whose encoders to fill, or a preset (b0 to b5) to build.")
    parser.add_argument("--output_dir", required=True, help="Directory to write model and processor to.")
    parser.add_argument("--image_size", type=int, help="Side of the picture in pixels; 512 unless --model has one.")
    options = vars(parser.parse_args(arguments))
    checkpoint = options.pop("checkpoint")
    if (checkpoint is None) == all(options[name] is None for name in ("pvt", "vggish", "model")):
        parser.error("give either --checkpoint or some of --pvt, --vggish and --model")
    try:
        if checkpoint is None:
            report = initialise_model(**options)
        else:
            size = options["image_size"] or OFFICIAL_IMAGE_SIZE
            report = convert_checkpoint(checkpoint, options["output_dir"], size)
    except CheckpointError as error:
        parser.exit(1, f"error: {error}\n")
    print(report)
    print(f"saved to {options['output_dir']}")


if __name__ == "__main__":
    main()
