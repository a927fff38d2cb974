"""What a student costs on this machine: latency and peak memory of one clip."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from ..metrics import dummy_clip, measure_latency_ms

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)
MEGABYTE = 10**6


def measure_latency(config: PreTrainedConfig, device: str = "cpu", repetitions: int = 20) -> float:
    """
    Median milliseconds of a forward pass of one clip in float32, after three passes to warm up, on as many threads as
    torch has now (`torch.get_num_threads()`). See [`~metrics.measure_latency_ms`].
    """
    model = AutoModel.from_config(config, dtype=torch.float32).to(device)
    return measure_latency_ms(model, repetitions=repetitions)


def measure_peak_memory(config: PreTrainedConfig, device: str = "cpu") -> float | None:
    """
    Peak megabytes (10^6 bytes) of a model and one forward pass of one clip, in float32 and without gradients.

    On the CPU: by how much the resident set of a new process grows, at its highest, when the model is built and run.
    The model was built, run and thrown away there once before, so that the code of the libraries is not counted.
    Whatever is allocated counts, also outside of torch. `None` where the system does not tell (Linux's /proc does).

    On CUDA: the weights and, by torch's `max_memory_allocated`, what a second pass adds to them at its highest. The
    CUDA context and what torch keeps in reserve are not counted.

    Raises:
        ValueError: for a device that is neither.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return _peak_on_cuda(config, device)
    if kind != "cpu":
        raise ValueError(f"memory can be measured on cpu and cuda, not on {device}.")
    if not RESET.exists():
        return None
    # Not a fork of this process, whose OpenMP threads a child would wait for in vain: a fork of a server that has
    # imported this module and done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_peak_of_this_process, config, torch.get_num_threads()).result()


def peak_growth(run: Callable[[], object]) -> float:
    """
    By how many megabytes (10^6 bytes) this process' resident set grows, at its highest, in a second call of `run`.
    What other calls left behind hides some of it, so a new process measures one `run`. Linux only.
    """
    run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text(RESET_PEAK, encoding="ascii")
    before = _kilobytes("VmRSS")
    run()
    return (_kilobytes("VmHWM") - before) * 1024 / MEGABYTE


def _peak_of_this_process(config: PreTrainedConfig, threads: int) -> float:
    torch.set_num_threads(threads)
    return peak_growth(partial(_run, config))


def _peak_on_cuda(config: PreTrainedConfig, device: str) -> float:
    model = _run(config, device)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _forward(model)
    return (weights + torch.cuda.max_memory_allocated(device) - before) / MEGABYTE


def _run(config: PreTrainedConfig, device: str = "cpu") -> PreTrainedModel:
    model = AutoModel.from_config(config, dtype=torch.float32).to(device).eval()
    _forward(model)
    return model


@torch.inference_mode()
def _forward(model: PreTrainedModel) -> None:
    model(**dummy_clip(model.config, model.device))


def _kilobytes(name: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    return int(lines[name].split()[0])
