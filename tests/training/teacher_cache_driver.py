"""Writes a teacher cache of 12 clips, as a process of its own: one of several, or one that is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import datasets
import torch
from tiny_runs import make_model, make_teacher

from hf_emktd.data import AugmentationArguments
from hf_emktd.distillation.token_codes import TokenRelations
from hf_emktd.models.cav_mae import CavMaeProcessor
from hf_emktd.training import ClipData, DataArguments, cache_source, plan_cache, write_teacher_cache
from hf_emktd.training.process_group import end_process_group


class SlowTeacher(torch.nn.Module):
    """So that a run can be killed in the middle."""

    def __init__(self, teacher, seconds: float) -> None:
        super().__init__()
        self.teacher, self.seconds = teacher, seconds

    def forward(self, **inputs):
        time.sleep(self.seconds)
        return self.teacher(**inputs)


def write(folder: str | Path, table: str | Path, seconds: float = 0.0) -> None:
    data = ClipData(DataArguments(dataset=str(table)), CavMaeProcessor.from_config(make_model().config))
    live, views = make_teacher(), data.train_views(AugmentationArguments())
    source = cache_source(live.model, live.monitor, data.processor, data, views)
    plan = plan_cache(live, views, source, TokenRelations(), num_views=3, batch_size=4, shard_rows=5)
    write_teacher_cache(folder, plan, SlowTeacher(live, seconds), views)


def main() -> None:
    folder, table, cache, seconds = sys.argv[1:]
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = Path(cache)
    write(folder, table, float(seconds))


if __name__ == "__main__":
    main()
    end_process_group()
