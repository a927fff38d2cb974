"""
Makes `frequency_decoupled.json`: the losses of the official FD-CMKD code, its bands of frequencies and the gradients
of the students' vectors, from formula vectors.

    git clone https://github.com/zxn0710/re-FD-CMKD-main    # a copy of the official code
    python tests/golden/frequency_decoupled_make.py --official re-FD-CMKD-main

Not run by the tests. The official data set and networks are not imported: their places are taken by the formulas.
"""

import argparse
import json
import sys
from pathlib import Path
from unittest import mock

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "distillation")]

from frequency_formulas import CLASSES, CLASSIFIERS, CLIPS, LABELS, WIDTH, formula_classifier, formula_vectors  # noqa: E402

# The last of these arguments of the official function, in its order.
CLASSIFIER_ARGUMENTS = (
    "cls_align_a_low",
    "cls_align_a_high",
    "cls_align_v_low",
    "cls_align_v_high",
    "cls_task_a_low",
    "cls_task_v_low",
    "cls_task_a_high",
    "cls_task_v_high",
)


class FormulaNetwork(nn.Module):
    """Pooled vectors as a parameter, whose gradient is then read; logits of zero, a task loss of log(classes)."""

    def __init__(self, role: str, modality: str) -> None:
        super().__init__()
        self.vectors = nn.Parameter(formula_vectors(role, modality))

    def forward(self, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vectors * 1, torch.zeros(CLIPS, CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="The folder of the official repository.")
    parser.add_argument("--output", default=str(HERE / "frequency_decoupled.json"), help="File to write.")
    options = parser.parse_args()

    for name in ("dataset", "dataset.CremadDataset", "models", "models.basic_model"):
        sys.modules[name] = mock.MagicMock()
    sys.path.insert(0, options.official)
    import main_fd_cmkd as official

    networks = {(role, m): FormulaNetwork(role, m) for role in ("student", "teacher") for m in "av"}
    classifiers = {name: official.Classifier(WIDTH, CLASSES) for name in CLASSIFIERS}
    for name, classifier in classifiers.items():
        classifier.fc.load_state_dict(formula_classifier(name))
    students = [networks["student", m] for m in "av"]
    optimizer = torch.optim.SGD([p for network in students for p in network.parameters()], lr=0.01)
    batch = (torch.zeros(CLIPS, 1), torch.zeros(CLIPS, 1), torch.tensor(LABELS))
    _, audio, visual = official.train_epoch(
        None,
        0,
        *students,
        *(networks["teacher", m] for m in "av"),
        official.FDFilter(),
        official.FDFilter(),
        *(classifiers[name] for name in CLASSIFIER_ARGUMENTS),
        "cpu",
        [batch],
        optimizer,
    )
    low, high = official.FDFilter()(formula_vectors("student", "a"))
    golden = {
        "source": "zxn0710/re-FD-CMKD-main at feda414a2290ba40c22ebd5e81cb7354534e6e75, a copy of the official code, "
        "main_fd_cmkd.py and utils/utils.py, run on the formulas of tests/distillation/frequency_formulas.py",
        "loss": {"audio_from_visual": audio, "visual_from_audio": visual},
        "bands": {"low": low[:2, ::64].tolist(), "high": high[:2, ::64].tolist()},
        "gradient": {m: networks["student", m].vectors.grad[:2, ::64].tolist() for m in "av"},
    }
    Path(options.output).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
