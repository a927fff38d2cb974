"""Two processes with half of the clips each learn what one with all of them does."""

import os

import pytest
import torch
from token_formulas import GRID, formula_tokens
from torch import distributed, multiprocessing

from hf_emktd.distillation import (
    ClipRelationDistillation,
    EntropyMonitoredClipRelations,
    ManifoldDistillation,
    SimilarityPreservingDistillation,
    TeacherSignal,
)
from hf_emktd.models.cav_mae.modeling_cav_mae import CavMaeClassifierOutput

GRIDS = {"audio": (GRID,)}
RANKS, CLIPS_OF_RANK = 2, 2
ENTROPIES = torch.tensor([0.1, 0.9, 2.0, 0.3], dtype=torch.float64)
AUDIO = {"branches": ("audio",)}


def objectives():
    return [
        SimilarityPreservingDistillation(**AUDIO),
        ClipRelationDistillation(GRIDS, scale="none", **AUDIO),
        EntropyMonitoredClipRelations(GRIDS, scale="none", **AUDIO),
        # all tokens of all ranks, so that chance plays no part
        ManifoldDistillation(GRIDS, inter_weight=1.0, random_weight=1.0, random_tokens=10**6, **AUDIO),
    ]


def losses_and_gradients(clips):
    student = formula_tokens("student")[clips]
    signal = TeacherSignal(
        logits=torch.zeros(len(student), 2),
        tokens={"audio": formula_tokens("teacher")[clips]},
        grids=GRIDS,
        entropies={"audio": ENTROPIES[clips]},
    )
    found = []
    for objective in objectives():
        tokens = student.clone().requires_grad_()
        (loss,) = objective(CavMaeClassifierOutput(audio_tokens=tokens), signal).values()
        loss.backward()
        found.append((loss.detach(), tokens.grad))
    return found


def run_rank(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    clips = slice(rank * CLIPS_OF_RANK, (rank + 1) * CLIPS_OF_RANK)
    torch.save(losses_and_gradients(clips), os.path.join(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    # forked: a fresh process would spend its time on imports
    multiprocessing.start_processes(run_rank, (str(folder),), nprocs=RANKS, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("index", range(4), ids=lambda index: objectives()[index].name)
def test_ranks_together_are_one_process(index, ranks):
    loss, gradient = losses_and_gradients(slice(0, RANKS * CLIPS_OF_RANK))[index]
    torch.testing.assert_close(sum(rank[index][0] for rank in ranks) / RANKS, loss)
    # of a rank's own clips; DDP divides by the ranks when it averages the gradients of parameters
    torch.testing.assert_close(torch.cat([rank[index][1] for rank in ranks]) / RANKS, gradient)
