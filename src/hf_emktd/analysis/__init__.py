"""What trained models say about a method: mutual information between branches, entropies of a monitor."""

from .clip_batches import clip_batches, clip_views, device_at_hand
from .complementarity import (
    Agreement,
    Pair,
    best_sources,
    check_gains,
    compare_branches,
    compare_with_gains,
    label_entropy,
    pair_name,
)
from .complementarity_plot import draw_complementarity
from .complementarity_report import Setting, complementarity_dict, complementarity_markdown
from .corruption_sweeps import Level, sweep_covers, sweep_noise
from .corruptions import SoundNoise, cover_pictures, sound_noise_for
from .entropy_bins import EntropyBin, entropy_bins, rank_correlations
from .entropy_plots import draw_entropies
from .entropy_report import EntropyAnalysis
from .estimate import Estimate
from .gains import read_gains
from .held_out_bounds import ceiling, held_out_information, held_out_label_information
from .known_information import Check, check_classes, check_gaussians, check_uniforms
from .modality_tags import TagWeights, read_tags, weights_by_tag
from .monitor_readings import Readings, read_monitor
from .nearest_neighbours import neighbour_information, neighbour_label_information
from .representations import pooled_tokens
from .tables import markdown_table

__all__ = [
    "Agreement",
    "Check",
    "EntropyAnalysis",
    "EntropyBin",
    "Estimate",
    "Level",
    "Pair",
    "Readings",
    "Setting",
    "SoundNoise",
    "TagWeights",
    "best_sources",
    "ceiling",
    "check_classes",
    "check_gains",
    "check_gaussians",
    "check_uniforms",
    "clip_batches",
    "clip_views",
    "compare_branches",
    "compare_with_gains",
    "complementarity_dict",
    "complementarity_markdown",
    "cover_pictures",
    "device_at_hand",
    "draw_complementarity",
    "draw_entropies",
    "entropy_bins",
    "held_out_information",
    "held_out_label_information",
    "label_entropy",
    "markdown_table",
    "neighbour_information",
    "neighbour_label_information",
    "pair_name",
    "pooled_tokens",
    "rank_correlations",
    "read_gains",
    "read_monitor",
    "read_tags",
    "sound_noise_for",
    "sweep_covers",
    "sweep_noise",
    "weights_by_tag",
]
