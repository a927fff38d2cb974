"""Stands in transformers' registry for a pipeline that is imported when the first one is made."""

from importlib import import_module
from typing import Any

from transformers import Pipeline


class LazyPipeline:
    """
    A class of [`hf_emktd.pipelines`] by its name: reading media needs imports that `import hf_emktd` shall not wait
    for, and transformers before 5.23 takes no dotted names.
    """

    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False
    _load_processor = None

    def __init__(self, name: str):
        self.name = name

    def __call__(self, **options: Any) -> Pipeline:
        return getattr(import_module("hf_emktd.pipelines"), self.name)(**options)
