"""Parameters and multiply-accumulates of the CAV-MAE presets, without allocating them.

python benchmarks/model_sizes.py
"""

from __future__ import annotations

import torch

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification
from hf_emktd.metrics import count_macs, count_parameters
from hf_emktd.models.cav_mae.configuration_cav_mae import PRESETS


def main() -> None:
    print("| preset | width | parameters | MACs a clip |\n| --- | ---: | ---: | ---: |")
    for name in PRESETS:
        config = CavMaeConfig.from_preset(name)
        with torch.device("meta"):
            model = CavMaeForAudioVisualClassification(config)
        parameters, macs = count_parameters(model) / 1e6, count_macs(model) / 1e9
        print(f"| `{name}` | {config.hidden_size} | {parameters:.3f} M | {macs:.2f} G |")


if __name__ == "__main__":
    main()
