"""
Makes `diswot.json`: both distances of the official DisWOT code on formula features and gradients.

    git clone https://github.com/lilujunai/DisWOT-CVPR2023
    python tests/golden/diswot_make.py --official DisWOT-CVPR2023/distiller_zoo

Not run by the tests. The official semantic distance compares a channels x channels matrix of each class; given the
whole gradient as one class whose channels are the classes, it compares classes x classes, as ours does.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from formulas import hashed_uniform  # noqa: E402

# of the student and of the teacher
SHAPES = {"features": ((6, 3, 4), (6, 5, 2)), "gradients": ((4, 3), (4, 7))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="The folder distiller_zoo of the official repository.")
    parser.add_argument("--output", default=str(HERE / "diswot.json"), help="File to write.")
    options = parser.parse_args()
    sys.path.insert(0, options.official)
    from ICKD import ICKDLoss
    from SP import Similarity

    tensors = {
        name: [
            torch.from_numpy(hashed_uniform(f"{name} {role}", shape))
            for role, shape in zip(("student", "teacher"), shapes, strict=True)
        ]
        for name, shapes in SHAPES.items()
    }
    golden = {
        "source": "lilujunai/DisWOT-CVPR2023 at dffe4e6118a2ab6a5ed89c9495e1ee2b6c808afa, distiller_zoo/SP.py and "
        "ICKD.py, run on formulas.hashed_uniform('features student', ...) and so on",
        "shapes": SHAPES,
        "clips": Similarity()([tensors["features"][0]], [tensors["features"][1]])[0].item(),
        "classes": ICKDLoss()(*[[tensor[None]] for tensor in tensors["gradients"]])[0].item(),
    }
    Path(options.output).write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
