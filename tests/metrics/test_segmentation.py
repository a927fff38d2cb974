from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import EvalPrediction

from hf_emktd.metrics import (
    IGNORE_INDEX,
    SegmentationMetric,
    compute_mask_metrics,
    frame_statistics,
    preprocess_mask_logits,
    segmentation_metrics,
)

sys.path.insert(0, str(Path(__file__).parent))

from mask_formulas import KINDS, formula_clip, formula_data_set

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "segmentation.json").read_text())


@pytest.fixture(scope="module")
def data_set() -> tuple[Tensor, Tensor]:
    return formula_data_set()


@pytest.fixture(scope="module")
def statistics(data_set) -> Tensor:
    return frame_statistics(*data_set)


def logits_of(*rows: list[float]) -> Tensor:
    """One clip of one frame whose sigmoids are `rows`."""
    return torch.tensor(rows, dtype=torch.float64).logit().float()[None, None]


def masks_of(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)[None, None]


def metrics_of(logits: Tensor, labels: Tensor, **options) -> dict[str, float]:
    return segmentation_metrics(frame_statistics(logits, labels), **options)


@pytest.mark.parametrize(("index", "kind"), enumerate([*KINDS, "larger", "smaller"]))
def test_each_clip_equals_the_official_code(statistics, index, kind):
    metrics = segmentation_metrics(statistics[index : index + 1])
    assert metrics["MJ"] == pytest.approx(GOLDEN["clips"]["MJ"][index], abs=2e-7)
    if kind == "all empty":
        assert math.isnan(metrics["MF"]) and GOLDEN["clips"]["MF"][index] == 0
    else:
        assert metrics["MF"] == pytest.approx(GOLDEN["clips"]["MF"][index], abs=2e-7)


@pytest.mark.parametrize("clips_per_batch", [1, 2, 4, 9])
def test_each_test_batch_equals_the_official_code(statistics, clips_per_batch):
    metrics = segmentation_metrics(statistics, clips_per_batch=clips_per_batch)
    expected = GOLDEN["clips_per_batch"][str(clips_per_batch)]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=2e-7)
    assert (metrics["clips"], metrics["frames"]) == (9, 45)


def test_the_data_set_as_one_batch(statistics):
    expected = segmentation_metrics(statistics, clips_per_batch=9)
    assert segmentation_metrics(statistics, protocol="dataset") == expected


def test_hand_computed_frame():
    # claimed at one half: three pixels, two of them right, none missed
    logits, labels = logits_of([0.9, 0.8], [0.6, 0.1]), masks_of([1, 1], [0, 0])
    metrics = metrics_of(logits, labels)
    assert metrics["MJ"] == pytest.approx(2 / 3)
    # above 0.6 precision and recall are 1
    assert metrics["MF"] == pytest.approx(1.0)
    assert metrics["mask_share"] == pytest.approx(3 / 4)
    assert metrics["peak_probability"] == pytest.approx(0.9)


def test_hand_computed_best_threshold():
    # claims from the highest on: wrong, right, wrong, right; P = 1/2, R = 1/2 after two, P = 1/2, R = 1 after four
    logits, labels = logits_of([0.9, 0.7], [0.5, 0.3]), masks_of([0, 1], [0, 1])
    assert metrics_of(logits, labels)["MF"] == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))


@pytest.mark.parametrize(
    ("probabilities", "share"),
    [([0.1, 0.2], 1.0), ([0.1, 0.9], 0.5), ([0.8, 0.9], 0.0)],
)
def test_a_frame_without_sounding_pixels_is_scored_by_what_is_left_alone(probabilities, share):
    metrics = metrics_of(logits_of(probabilities), masks_of([0, 0]))
    assert metrics["MJ"] == pytest.approx(share)
    assert math.isnan(metrics["MF"])


def test_a_silent_clip_gives_nothing_to_mf_of_a_batch_but_not_to_the_data_set():
    logits = torch.cat([logits_of([0.9, 0.1]), logits_of([0.2, 0.1])])
    labels = torch.cat([masks_of([1, 0]), masks_of([0, 0])])
    assert metrics_of(logits, labels)["MF"] == pytest.approx(0.5)
    assert metrics_of(logits, labels, protocol="dataset")["MF"] == pytest.approx(1.0)


def test_thresholds_are_reached_as_the_official_comparison_says():
    """Sigmoids on, just below and just above the thresholds, one by one."""
    logits, masks = formula_clip("on thresholds")
    probabilities = logits.sigmoid()
    curves = frame_statistics(logits, masks)[:, :255]
    for index, threshold in enumerate(torch.linspace(0, 1 - 1e-10, 255)):
        claimed = (probabilities >= threshold).float()
        hits = (claimed * masks).sum((1, 2))
        precision, recall = hits / (claimed.sum((1, 2)) + 1e-20), hits / masks.sum((1, 2))
        expected = (1.3 * precision * recall / (0.3 * precision + recall)).nan_to_num(0)
        torch.testing.assert_close(curves[:, index], expected, rtol=1e-6, atol=0)


def test_saturated_logits_reach_the_last_threshold():
    curve = frame_statistics(torch.tensor([[99.0, -99.0]]), torch.tensor([[1, 0]]))[:255]
    assert curve[-1] == 1 and curve[0] == pytest.approx(1.3 * 0.5 / (0.15 + 1))
    assert frame_statistics(torch.tensor([[9.0, -9.0]]), torch.tensor([[1, 0]]))[254] == 0


def test_frames_without_label_count_nowhere(data_set, statistics):
    logits, labels = data_set
    labels = labels.long()
    labels[:, 1:] = IGNORE_INDEX
    assert metrics_of(logits, labels) == segmentation_metrics(statistics[:, :1])
    labels[3] = IGNORE_INDEX
    kept = [index for index in range(9) if index != 3]
    assert metrics_of(logits, labels) == segmentation_metrics(statistics[kept][:, :1])


def test_rows_that_a_trainer_pads_are_no_frames(statistics):
    padded = torch.nn.functional.pad(statistics, (0, 0, 0, 2), value=-100)
    assert segmentation_metrics(padded) == segmentation_metrics(statistics)


@pytest.mark.parametrize("protocol", ["avsbench", "dataset"])
def test_the_order_does_not_matter(statistics, protocol):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    expected = segmentation_metrics(statistics, protocol)
    assert segmentation_metrics(statistics[order], protocol) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("protocol", "clips_per_batch"), [("avsbench", 1), ("avsbench", 2), ("dataset", 1)])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_batch_by_batch_equals_all_at_once(data_set, statistics, protocol, clips_per_batch, batch):
    batches = zip(*(values.split(batch) for values in data_set), strict=True)
    collected = torch.cat([frame_statistics(logits, labels) for logits, labels in batches])
    assert torch.equal(collected, statistics)
    expected = segmentation_metrics(statistics, protocol, clips_per_batch)
    assert segmentation_metrics(collected, protocol, clips_per_batch) == expected


def test_statistics_are_those_of_each_frame_alone(data_set, statistics):
    logits, labels = data_set
    assert torch.equal(frame_statistics(logits[2, 3], labels[2, 3]), statistics[2, 3])
    assert statistics.shape == (9, 5, 260) and statistics.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_masks_may_be_of_any_type(data_set, statistics, dtype):
    assert torch.equal(frame_statistics(data_set[0], data_set[1].to(dtype)), statistics)


def test_half_precision_logits_are_read(data_set):
    logits, labels = data_set
    rounded = logits.bfloat16()
    assert torch.equal(frame_statistics(rounded, labels), frame_statistics(rounded.float(), labels))


def test_a_trainer_gathers_statistics(data_set, statistics):
    logits, labels = data_set
    for outputs in (logits, (logits, torch.zeros(9))):
        gathered = preprocess_mask_logits(outputs, labels)
        prediction = EvalPrediction(predictions=gathered.numpy(), label_ids=labels.numpy())
        assert compute_mask_metrics(prediction) == segmentation_metrics(statistics)


def test_evaluate_metric_collects_batches(data_set, statistics, tmp_path):
    logits, labels = data_set
    metric = SegmentationMetric(cache_dir=str(tmp_path))
    metric.add_batch(predictions=logits[:4], references=labels[:4])
    metric.add(prediction=logits[4].numpy(), reference=labels[4].numpy())
    last = {"predictions": logits[5:], "references": labels[5:]}
    expected = segmentation_metrics(statistics, "dataset")
    assert metric.compute(**last, protocol="dataset") == expected
    # it starts anew
    metric.add_batch(predictions=logits, references=labels)
    assert metric.compute(clips_per_batch=2) == segmentation_metrics(statistics, clips_per_batch=2)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2, 4, 5), "must both be"),
        (torch.zeros(0, 4, 4), torch.zeros(0, 4, 4), "at least one frame"),
        (torch.zeros(4), torch.zeros(4), "must both be"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 255), "from 255 to 255. A mask of 0 and 255"),
        (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.5), "from 0.5 to 0.5"),
        (torch.zeros(1, 1, 2), torch.tensor([[[0, IGNORE_INDEX]]]), "some of its pixels only"),
    ],
)
def test_unusable_maps_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        frame_statistics(logits, labels)


def test_logits_that_are_nan_are_refused(data_set):
    logits, labels = data_set[0].clone(), data_set[1]
    logits[6, 2, 0, 0] = math.nan
    with pytest.raises(ValueError, match="1 of 9 clips are NaN, first of clip 6"):
        metrics_of(logits, labels)


def test_unusable_statistics_are_refused(statistics):
    with pytest.raises(ValueError, match="preprocess_logits_for_metrics=preprocess_mask_logits"):
        segmentation_metrics(np.zeros((2, 5, 32, 32)))
    with pytest.raises(ValueError, match="none of the 0 frames has a label"):
        segmentation_metrics(np.zeros((0, 0, 260)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"protocol": "ms3"}, "protocol must be one of"), ({"clips_per_batch": 0}, "clips_per_batch must be at least 1")],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        segmentation_metrics(np.zeros((1, 1, 260)), **options)
