"""Two processes with half of the clips each learn what one with all of them does, projections included."""

import os

import pytest
import torch
from relative_formulas import uniform
from torch import distributed, multiprocessing

from hf_emktd.distillation import AffinityMimicking, TeacherSignal, TokenRelationGraph
from hf_emktd.models.cav_mae.modeling_cav_mae import CavMaeClassifierOutput

GRIDS = {"audio": ((2, 3),), "visual": ((2, 2),)}
WIDTHS = {"student": 3, "teacher": 4}
RANKS, CLIPS_OF_RANK = 2, 2


def tokens_of(role, clips):
    counts = {branch: rows * columns for branch, ((rows, columns),) in GRIDS.items()}
    return {
        branch: uniform(f"{role}.{branch}.ranks", RANKS * CLIPS_OF_RANK, count, WIDTHS[role]).double()[clips]
        for branch, count in counts.items()
    }


def objectives():
    torch.manual_seed(0)
    widths = [dict.fromkeys(GRIDS, width) for width in WIDTHS.values()]
    return [AffinityMimicking(), TokenRelationGraph(GRIDS, *widths, inner_weight=0.0, branches=("audio",)).double()]


def losses_and_gradients(clips):
    """Of each objective the loss, the gradient on the clips' audio tokens and that of a projection."""
    found = []
    for objective in objectives():
        student = {branch: tokens.requires_grad_() for branch, tokens in tokens_of("student", clips).items()}
        signal = TeacherSignal(logits=torch.zeros(1, 2), tokens=tokens_of("teacher", clips), grids=GRIDS)
        output = CavMaeClassifierOutput(**{f"{branch}_tokens": tokens for branch, tokens in student.items()})
        (loss,) = objective(output, signal).values()
        loss.backward()
        weights = [parameter.grad for parameter in objective.parameters()]
        found.append((loss.detach(), student["audio"].grad, weights))
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


@pytest.mark.parametrize("index", range(2), ids=["affinity", "trg"])
def test_ranks_together_are_one_process(index, ranks):
    loss, gradient, weights = losses_and_gradients(slice(0, RANKS * CLIPS_OF_RANK))[index]
    assert len(weights) == index  # of the projection
    for rank in ranks:
        torch.testing.assert_close(rank[index][0], loss)
    # of a rank's own clips; DDP divides by the ranks when it averages the gradients of parameters
    torch.testing.assert_close(torch.cat([rank[index][1] for rank in ranks]) / RANKS, gradient)
    for number, expected in enumerate(weights):
        torch.testing.assert_close(sum(rank[index][2][number] for rank in ranks) / RANKS, expected)
