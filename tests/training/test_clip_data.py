"""From a data set's name to views."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_runs import LABELS, make_model

from hf_emktd.data import AugmentationArguments
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import ClipData, ClipViews, DataArguments, check_labels, open_clips


class TestArguments:
    def test_options_are_json(self):
        assert DataArguments(dataset_options='{"num_train": 5}').options == {"num_train": 5}
        assert DataArguments().options == {}

    @pytest.mark.parametrize("text", ["num_train=5", "[1]", '"text"', "{"])
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ValueError, match="dataset_options must be a JSON object such as"):
            DataArguments(dataset_options=text)

    @pytest.mark.parametrize("name", ["num_frames", "max_train_clips", "feature_workers"])
    def test_counts_start_at_one(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            DataArguments(**{name: 0})

    def test_filled_from_a_trained_model(self):
        trained_on = {"dataset": "a.csv", "data_dir": "clips", "options": {"label_names": ["x"]}}
        args = DataArguments()
        args.fill_from(SimpleNamespace(training_data=trained_on))
        assert args.to_config() == trained_on

    def test_what_the_user_named_stays(self):
        args = DataArguments(dataset="b.csv")
        args.fill_from(SimpleNamespace(training_data={"dataset": "a.csv", "options": {"x": 1}}))
        assert args.to_config() == {"dataset": "b.csv", "data_dir": None, "options": {}}

    def test_touchtone_as_a_last_resort(self):
        args = DataArguments(dataset_options='{"num_train": 5}')
        args.fill_from(make_model().config)
        assert args.to_config() == {"dataset": "touchtone", "data_dir": None, "options": {"num_train": 5}}

    @pytest.mark.parametrize(
        "dataset, published",
        [("vggsound", {"dataset": "vggsound", "options": {}}), ("/home/me/clips.csv", None)],
    )
    def test_a_published_config_names_no_place_of_this_machine(self, dataset, published):
        args = DataArguments(dataset=dataset, data_dir="/home/me/clips")
        assert args.to_config(published=True) == published

    def test_survives_a_saved_config(self, tmp_path):
        config = make_model().config
        config.training_data = DataArguments(dataset="a.csv", dataset_options='{"x": [1]}').to_config()
        config.save_pretrained(tmp_path)
        args = DataArguments()
        args.fill_from(type(config).from_pretrained(tmp_path))
        assert (args.dataset, json.loads(args.dataset_options)) == ("a.csv", {"x": [1]})


@pytest.mark.parametrize("name", ["nope.csv", "mine/nope.csv"])
def test_a_table_that_is_not_there_is_no_name_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=rf"No such file or directory: '{name}', seen from .*--dataset\.$"):
        open_clips(DataArguments(dataset=name), CavMaeProcessor.from_config(make_model().config))


class TestSplits:
    def test_features_of_every_split(self, data):
        assert {name: len(split) for name, split in data.features.items()} == {"train": 12, "validation": 6, "test": 7}
        assert data.label_names == LABELS
        assert data.train_labels == [index % 3 for index in range(12)]

    def test_unknown_split(self, data):
        with pytest.raises(ValueError, match=r"no usable clip in split 'dev' \(splits: train, validation, test\)"):
            data.split("dev")

    def test_validation_stands_in_for_test(self, data):
        assert data.evaluation_split("test") == "test"
        del data.source.splits["test"]
        assert data.evaluation_split("test") == "validation"
        assert data.evaluation_split("train") == "train"

    def test_the_test_split_never_stands_in_for_validation(self, data):
        assert len(data.validation_views()) == 6
        del data.features["validation"]
        assert data.validation_views() is None

    def test_fewer_training_clips(self, tmp_path, table, processor):
        """Random ones, the same each time: tables are often sorted by class."""
        lines = table.read_text().splitlines()
        by_class = table.with_name("sorted.csv")
        by_class.write_text("\n".join([lines[0], *sorted(lines[1:], key=lambda line: line.split(",")[1])]) + "\n")
        args = DataArguments(dataset=str(by_class), max_train_clips=4)
        few, again = (ClipData(args, processor) for _ in range(2))
        assert len(few.split("train")) == len(few.train_labels) == 4
        assert len(set(few.train_labels)) > 1  # the first four are of one class
        assert few.split("train")["clip_id"][:] == again.split("train")["clip_id"][:]
        assert len(few.split("validation")) == 6
        assert len(ClipData(DataArguments(dataset=str(table), max_train_clips=99), processor).split("train")) == 12

    def test_one_split_alone(self, table, processor):
        data = ClipData(DataArguments(dataset=str(table)), processor, only_split="test")
        assert list(data.features) == ["test"]
        with pytest.raises(ValueError, match="no split 'dev' with a clip in it, only train, validation, test"):
            ClipData(DataArguments(dataset=str(table)), processor, only_split="dev")


class TestViews:
    def test_training_views(self, data):
        views = data.train_views(AugmentationArguments(mixup_probability=1.0))
        assert isinstance(views, ClipViews) and len(views) == 12
        view = views[0, 1]
        assert view["label"].shape == (3,) and view["input_values"].shape == (32, 32)
        assert "teacher_input_values" not in view

    def test_a_teacher_of_other_sizes_gets_its_own_inputs(self, data):
        student = CavMaeProcessor.from_config(make_model(image_size=8).config)
        view = data.train_views(AugmentationArguments.none(), student, data.processor)[0, 0]
        assert view["pixel_values"].shape == (3, 8, 8)
        assert view["teacher_pixel_values"].shape == (3, 16, 16)

    def test_a_saved_teacher_is_not_taken_for_another(self, data, tmp_path):
        """What a saved processor carries beside its parameters (`auto_map`) must not double the inputs."""
        data.processor.feature_extractor.auto_map = {"AutoProcessor": "processing_cav_mae.CavMaeProcessor"}
        data.processor.save_pretrained(tmp_path)
        saved = CavMaeProcessor.from_pretrained(tmp_path)
        assert saved.feature_extractor.auto_map
        plain = CavMaeProcessor.from_config(make_model().config)
        assert "teacher_input_values" not in data.train_views(AugmentationArguments.none(), plain, saved)[0, 0]

    def test_plain_views_are_the_same_each_time(self, data):
        first, again = data.plain_views("test")[0], data.plain_views("test")[0]
        np.testing.assert_array_equal(first["input_values"], again["input_values"])
        np.testing.assert_array_equal(first["pixel_values"], again["pixel_values"])


class TestLabels:
    def test_same_classes(self, data):
        check_labels(data, make_model().config)

    @pytest.mark.parametrize(
        "names, message",
        [
            (["bell", "rain", "dog"], r"from class 1 on \(model: \['rain', 'dog'\], data: \['dog', 'rain'\]\)"),
            (
                ["bell", "dog"],
                r"2 classes and .* has 3; they differ from class 2 on \(model: \[\], data: \['rain'\]\)",
            ),
        ],
    )
    def test_others_are_refused_with_both_sides_named(self, table, processor, names, message):
        config = make_model(id2label=dict(enumerate(names))).config
        with pytest.raises(ValueError, match=message):
            ClipData(DataArguments(dataset=str(table)), processor, model_config=config)
