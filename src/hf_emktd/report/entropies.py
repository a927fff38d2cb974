"""The entropy analysis of a run's teacher, on the clips of the report."""

from __future__ import annotations

import math

from ..analysis import (
    EntropyAnalysis,
    entropy_bins,
    rank_correlations,
    read_monitor,
    sound_noise_for,
    sweep_covers,
    sweep_noise,
)
from ..distillation.teacher import LiveTeacher
from ..hub import DistillationSummary
from ..hub.distillation_summary import SEGMENTATION
from ..training.arguments import DistillationArguments
from .at_hand import Clips, LoadedModel

BINS = 10
# A sweep runs the teacher fifteen times on each of its clips.
CLIPS_PER_SWEPT = 8


def analyse_teacher(loaded: LoadedModel, teacher: LiveTeacher, clips: Clips, entropy_lambda: float) -> EntropyAnalysis:
    """
    Entropies of the clips, and of an eighth of them as pictures are covered and sounds drown.

    Args:
        loaded: the teacher, for its name and inputs.
        teacher: the same with its monitor.

    Raises:
        ValueError: if the clips do not give the teacher all branches that the monitor probes.
    """
    views = clips.views(loaded.processor)
    swept = views.select(range(0, len(views), CLIPS_PER_SWEPT))
    options = {"batch_size": clips.batch_size, "seed": clips.seed}
    noise = sound_noise_for(loaded.processor)
    readings = read_monitor(teacher, views, clips.batch_size)[0]
    masks = loaded.model.config.task == SEGMENTATION
    return EntropyAnalysis(
        teacher=loaded.name,
        dataset=clips.data.args.dataset,
        split=clips.split,
        score="MJ" if masks else "accuracy",
        entropy_lambda=entropy_lambda,
        largest_entropy=math.log(2 if masks else loaded.model.config.num_labels),
        sweep_clips=len(swept),
        readings=readings,
        bins=entropy_bins(readings, entropy_lambda, min(BINS, len(views))),
        rank_correlations=rank_correlations(readings),
        covers=sweep_covers(teacher, swept, entropy_lambda, **options),
        noises=sweep_noise(teacher, swept, entropy_lambda, noise, **options),
    )


def lambda_of(summary: DistillationSummary) -> float:
    """The lambda that weighed the run's branches, or the default one."""
    used = [one.settings["entropy_lambda"] for one in summary.objectives if "entropy_lambda" in one.settings]
    return float(used[0]) if used else DistillationArguments.entropy_lambda
