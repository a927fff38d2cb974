"""Parameters and multiply-accumulates of the presets of both families, without allocating them.

python benchmarks/model_sizes.py
"""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from hf_emktd import (
    AvSegFormerConfig,
    AvSegFormerForAudioVisualSegmentation,
    CavMaeConfig,
    CavMaeForAudioVisualClassification,
)
from hf_emktd.metrics import count_macs, count_parameters
from hf_emktd.models.avsegformer.configuration_avsegformer import PRESETS as PVT_SIZES
from hf_emktd.models.cav_mae.configuration_cav_mae import PRESETS

# the hidden layers of VGGish, and of the small one
AUDIO_HIDDEN_SIZES = {"VGGish": 4096, "VGGish-S": 1024}


def main() -> None:
    print("| CAV-MAE | width | parameters | MACs a clip |\n| --- | ---: | ---: | ---: |")
    for name in PRESETS:
        config = CavMaeConfig.from_preset(name)
        model = on_meta(CavMaeForAudioVisualClassification, config)
        print(f"| `{name}` | {config.hidden_size} | {millions(model)} | {count_macs(model) / 1e9:.2f} G |")
    print("\n| AVSegFormer, 5 frames of 224 | visual encoder | audio encoder | all | MACs a clip |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in PVT_SIZES:
        for audio, width in AUDIO_HIDDEN_SIZES.items():
            config = AvSegFormerConfig.from_preset(name, image_size=224, audio_hidden_size=width)
            model = on_meta(AvSegFormerForAudioVisualSegmentation, config)
            parts = [model.avsegformer.visual_encoder, model.avsegformer.audio_encoder, model]
            sizes = " | ".join(map(millions, parts))
            print(f"| PVTv2-{name} + {audio} | {sizes} | {count_macs(model) / 1e9:.1f} G |")


def on_meta(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return model_class(config)


def millions(module: torch.nn.Module) -> str:
    return f"{count_parameters(module) / 1e6:.3f} M"


if __name__ == "__main__":
    main()
