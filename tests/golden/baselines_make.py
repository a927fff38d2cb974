"""
Makes `baselines.json`: attention transfer, similarity-preserving and manifold distillation computed by the official
code from formula tokens.

    git clone https://github.com/HobbitLong/RepDistiller
    git clone https://github.com/Hao840/manifold-distillation
    python tests/golden/baselines_make.py --repdistiller RepDistiller --manifold manifold-distillation

Not run by the tests.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "distillation")]

from token_formulas import GRID, formula_tokens  # noqa: E402


def official_module(folder: str, name: str) -> ModuleType:
    """One file of an official repository, without its neighbours, which import more than it needs."""
    path = Path(folder) / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repdistiller", required=True, help="The folder of RepDistiller.")
    parser.add_argument("--manifold", required=True, help="The folder of manifold-distillation.")
    parser.add_argument("--output", default=str(HERE / "baselines.json"), help="File to write.")
    options = parser.parse_args()

    student, teacher = formula_tokens("student"), formula_tokens("teacher")
    maps = [tokens.transpose(1, 2).unflatten(2, GRID) for tokens in (student, teacher)]
    attention = official_module(options.repdistiller, "distiller_zoo/AT.py").Attention()
    similarity = official_module(options.repdistiller, "distiller_zoo/SP.py").Similarity()
    # a K beyond the number of tokens takes all of them: the random term without chance
    intra, inter, random = official_module(options.manifold, "losses.py").layer_mf_loss(student, teacher, K=10**6)
    golden = {
        "source": "HobbitLong/RepDistiller at b84f547c5db6a35318d4671d7d5c4de74c822403, distiller_zoo/AT.py and "
        "SP.py; Hao840/manifold-distillation at 1096b826d7d20e4560324e8682222b3129adc309, losses.py; run on the "
        "formulas of tests/distillation/token_formulas.py",
        "at": float(attention.at_loss(*maps)),
        "spkd": float(similarity.similarity_loss(student, teacher)),
        "manifold": {"intra": float(intra), "inter": float(inter), "random": float(random)},
    }
    Path(options.output).write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
