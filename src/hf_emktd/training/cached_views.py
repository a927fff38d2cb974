"""Views of the training clips, each with what the teacher said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..data.collators import AudioVisualCollator
from .teacher_cache import TeacherCache, stack_signals
from .views import ClipViews, ViewKey


class CachedViews(ClipViews):
    """
    Those views of clips that a teacher cache knows.

    `views[clip, view]` is one of the clip's `num_views`, with `teacher_signal`; [`ClipSampler`] asks for these.
    `views[clip]` draws the view from torch's generator.

    Args:
        views: of the same clips, made in the same way.
        cache: [`TeacherCache`].
        with_signals: whether to read the teacher's signals; without, a student of labels alone sees the same views.
    """

    def __init__(self, views: ClipViews, cache: TeacherCache, with_signals: bool = True) -> None:
        super().__init__(views.features, views.transform)
        self.cache = cache
        self.num_views = cache.num_views
        self.with_signals = with_signals

    def __getitems__(self, keys: Sequence[ViewKey]) -> list[dict[str, Any]]:
        pairs = [key if isinstance(key, tuple) else (key, int(torch.randint(self.num_views, ()))) for key in keys]
        clips, numbers = zip(*pairs, strict=True)
        seeds = self.cache.view_seeds(clips, numbers)
        views = super().__getitems__(list(zip(clips, seeds, strict=True)))
        if not self.with_signals:
            return views
        signals = self.cache.signals(clips, numbers)
        return [view | {"teacher_signal": signal} for view, signal in zip(views, signals, strict=True)]


class SignalCollator(AudioVisualCollator):
    """
    As [`AudioVisualCollator`], and `teacher_signal`, which [`~distillation.cached_teacher.CachedTeacher`] reads.
    """

    def __call__(self, views: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(views)
        signals = [view["teacher_signal"] for view in views if "teacher_signal" in view]
        return batch | {"teacher_signal": stack_signals(signals)} if signals else batch
