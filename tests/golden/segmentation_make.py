"""
Makes `segmentation.json`: MJ and MF computed by the official AVSBench code from formula logits and masks.

    git clone https://github.com/OpenNLPLab/AVSBench
    python tests/golden/segmentation_make.py --official AVSBench/avs_scripts/avs_s4/utils

Not run by the tests. The few lines before the official import stand in for packages that the metrics do not use, and
one after it keeps the metrics on the CPU.
"""

import argparse
import json
import sys
import tempfile
import types
from pathlib import Path
from statistics import fmean
from unittest import mock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "metrics"))

from mask_formulas import formula_data_set  # noqa: E402

CLIPS_PER_BATCH = (1, 2, 4, 9)


def official_batches(utility: types.ModuleType, clips_per_batch: int) -> dict[str, list[float]]:
    """MJ and MF of each test batch, as the loop of the official `test.py` takes them."""
    logits, masks = formula_data_set()
    batches = list(zip(logits.split(clips_per_batch), masks.split(clips_per_batch), strict=True))
    batches = [(pred.flatten(0, 1), target.flatten(0, 1)) for pred, target in batches]
    with tempfile.TemporaryDirectory() as folder:
        return {
            "MJ": [float(utility.mask_iou(*batch)) for batch in batches],
            "MF": [float(utility.Eval_Fmeasure(*batch, folder)) for batch in batches],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", required=True, help="The folder avs_s4/utils of the official repository.")
    parser.add_argument("--output", default=str(HERE / "segmentation.json"), help="File to write.")
    options = parser.parse_args()

    for name in ("cv2", "torchvision"):
        sys.modules.setdefault(name, mock.MagicMock())
    sys.path.insert(0, options.official)
    import utility

    official_curves = utility._eval_pr
    utility._eval_pr = lambda pred, gt, num: official_curves(pred, gt, num, cuda_flag=False)
    batches = {size: official_batches(utility, size) for size in CLIPS_PER_BATCH}
    golden = {
        "source": "OpenNLPLab/AVSBench at f7414aff6aedf49248887abf352471612fb1ec90, "
        "avs_scripts/avs_s4/utils/utility.py, run on the formulas of tests/metrics/mask_formulas.py",
        "clips": batches[1],
        "clips_per_batch": {
            str(size): {name: fmean(values) for name, values in batch.items()} for size, batch in batches.items()
        },
    }
    Path(options.output).write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
