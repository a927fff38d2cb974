"""Weights and inputs of an official CAV-MAE that follow from a formula; see `tests/formulas.py`."""

import torch

from formulas import formula_picture, formula_tensor, formula_waveform, hashed_uniform

__all__ = [
    "decoder_shapes",
    "formula_inputs",
    "formula_picture",
    "formula_tensor",
    "formula_waveform",
    "hashed_uniform",
    "official_shapes",
    "official_state_dict",
]


def official_shapes(
    width: int = 128,
    depth: int = 10,
    joint_depth: int = 2,
    audio_tokens: int = 32,
    visual_tokens: int = 4,
    classes: int | None = 7,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official encoder's tensors; `classes=None` for a pre-trained one without a head."""
    shapes = {f"modality_{m}": (1, 1, width) for m in "av"}
    shapes |= {"pos_embed_a": (1, audio_tokens, width), "pos_embed_v": (1, visual_tokens, width)}
    shapes |= {f"patch_embed_{m}.proj.weight": (width, c, 16, 16) for m, c in (("a", 1), ("v", 3))}
    shapes |= {f"patch_embed_{m}.proj.bias": (width,) for m in "av"}
    for branch, layers in (("a", depth), ("v", depth), ("u", joint_depth)):
        for layer in range(layers):
            shapes |= block_shapes(f"blocks_{branch}.{layer}", width)
    for norm in ("norm_a", "norm_v", "norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    if classes is not None:
        shapes |= {f"mlp_head.0.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= {"mlp_head.1.weight": (classes, width), "mlp_head.1.bias": (classes,)}
    return shapes


def block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one official transformer block, with its six norms."""
    shapes = {}
    for norm in ("norm1", "norm1_a", "norm1_v", "norm2", "norm2_a", "norm2_v"):
        shapes |= {f"{prefix}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    for linear, out, into in (
        ("attn.qkv", 3 * width, width),
        ("attn.proj", width, width),
        ("mlp.fc1", 4 * width, width),
        ("mlp.fc2", width, 4 * width),
    ):
        shapes |= {f"{prefix}.{linear}.weight": (out, into), f"{prefix}.{linear}.bias": (out,)}
    return shapes


def decoder_shapes(width: int = 128, decoder_width: int = 32) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a pre-training decoder with one block."""
    shapes = {"decoder_embed.weight": (decoder_width, width), "decoder_embed.bias": (decoder_width,)}
    shapes |= {"mask_token": (1, 1, decoder_width)}
    shapes |= {f"decoder_modality_{m}": (1, 1, decoder_width) for m in "av"}
    shapes |= {"decoder_pos_embed_a": (1, 32, decoder_width), "decoder_pos_embed_v": (1, 4, decoder_width)}
    shapes |= block_shapes("decoder_blocks.0", decoder_width)
    shapes |= {f"decoder_norm.{kind}": (decoder_width,) for kind in ("weight", "bias")}
    for m, size in (("a", 256), ("v", 768)):
        shapes |= {f"decoder_pred_{m}.weight": (size, decoder_width), f"decoder_pred_{m}.bias": (size,)}
    return shapes


def official_state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Formula weights under the names an official file has, with the `module.` of DataParallel."""
    return {f"module.{name}": formula_tensor(name, shape) for name, shape in shapes.items()}


def formula_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two clips: spectrograms `(2, 64, 128)` and pictures `(2, 3, 32, 32)`."""
    return tuple(torch.from_numpy(hashed_uniform(name, shape)) for name, shape in INPUT_SHAPES.items())


INPUT_SHAPES = {"input_values": (2, 64, 128), "pixel_values": (2, 3, 32, 32)}
