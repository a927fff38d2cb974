"""Batches of views: shapes, types, absent modalities."""

import numpy as np
import pytest
import torch

from hf_emktd.data.collators import AudioVisualCollator, NamingCollator


def make_view(index: int, label=None, **changes) -> dict:
    view = {
        "clip_id": f"clip{index}",
        "label": index if label is None else label,
        "input_values": np.full((4, 3), index, np.float32),
        "pixel_values": np.full((3, 2, 2), -index, np.float32),
    }
    return view | changes


def test_stacks_views():
    batch = AudioVisualCollator()([make_view(0), make_view(1)])
    assert set(batch) == {"input_values", "pixel_values", "labels"}
    assert torch.equal(batch["input_values"][1], torch.ones(4, 3))
    assert torch.equal(batch["pixel_values"][1], -torch.ones(3, 2, 2))
    assert batch["input_values"].dtype == batch["pixel_values"].dtype == torch.float32
    assert torch.equal(batch["labels"], torch.tensor([0, 1])) and batch["labels"].dtype == torch.int64


def test_names_are_added_where_views_have_them():
    naming = NamingCollator(AudioVisualCollator())
    batch = naming([make_view(0), make_view(1)])
    assert batch.pop("clip_ids") == ["clip0", "clip1"]
    assert set(batch) == set(naming([{"label": 0}])) | {"input_values", "pixel_values"}


def test_mixed_labels_are_rows_of_shares():
    labels = [np.float32([0.25, 0.75]), np.float32([1, 0])]
    batch = AudioVisualCollator()([make_view(0, labels[0]), make_view(1, labels[1])])
    assert torch.equal(batch["labels"], torch.tensor([[0.25, 0.75], [1.0, 0.0]]))


def test_masks_come_before_classes():
    masks = [np.full((5, 2, 2), index, np.int64) for index in range(2)]
    batch = AudioVisualCollator()([make_view(index, labels=mask) for index, mask in enumerate(masks)])
    assert batch["labels"].shape == (2, 5, 2, 2) and batch["labels"].dtype == torch.int64
    assert torch.equal(batch["labels"][1], torch.ones(5, 2, 2, dtype=torch.int64))


def test_teacher_inputs_keep_their_own_size():
    teacher = {"teacher_input_values": np.zeros((8, 3), np.float32), "teacher_pixel_values": np.zeros((3, 4, 4))}
    batch = AudioVisualCollator()([make_view(i, **teacher) for i in range(3)])
    assert batch["teacher_input_values"].shape == (3, 8, 3)
    assert batch["teacher_pixel_values"].shape == (3, 3, 4, 4)


@pytest.mark.parametrize("absent", [{"input_values": None}, {"pixel_values": None}])
def test_a_modality_that_all_clips_lack_has_no_key(absent):
    batch = AudioVisualCollator()([make_view(0, **absent), make_view(1, **absent)])
    assert set(batch) == {"input_values", "pixel_values", "labels"} - set(absent)


def test_a_modality_that_some_clips_lack_is_refused_by_name():
    views = [make_view(0), make_view(1, input_values=None), make_view(2), make_view(3, input_values=None)]
    with pytest.raises(ValueError, match=r"2 of 4 clips in a batch have no input_values: 'clip1', 'clip3'.*leave"):
        AudioVisualCollator()(views)


def test_unlabelled_views_give_no_labels():
    views = [{name: value for name, value in make_view(0).items() if name != "label"}]
    assert "labels" not in AudioVisualCollator()(views)
