"""Latency, throughput and memory of a teacher and its student, side by side.

    OMP_NUM_THREADS=2 python benchmarks/model_latency.py
    python benchmarks/model_latency.py --device cuda --batch_sizes 1 8 64

CAV-MAE base and tiny with random weights, in float32: neither cost depends on the weights. Passes of the two take
turns, and the ratio is the median of the ratios, so other load on the machine counts for both alike. Memory is the
peak of one pass of one clip, weights included, in a process of its own.
"""

from __future__ import annotations

import argparse
from statistics import median

import torch

from hf_emktd import CavMaeConfig, CavMaeForAudioVisualClassification
from hf_emktd.metrics import count_macs, count_parameters, dummy_clip, measure_latency_ms
from hf_emktd.search.measurement import measure_peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs=2, default=["base", "tiny"], metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=10)
    args = parser.parse_args()
    configs = {name: CavMaeConfig.from_preset(name) for name in args.presets}
    peaks = {name: measure_peak_memory(config, args.device) for name, config in configs.items()}
    models = {name: CavMaeForAudioVisualClassification(config).to(args.device) for name, config in configs.items()}
    print(f"{args.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(sizes(models, peaks))
    print()
    print(latencies(models, args.batch_sizes, args.repetitions))


def sizes(models: dict, peaks: dict[str, float | None]) -> str:
    lines = ["| | parameters | GMACs a clip | peak memory of a clip |", "| --- | ---: | ---: | ---: |"]
    for name, model in models.items():
        peak = "not known" if peaks[name] is None else f"{peaks[name]:,.0f} MB"
        lines.append(f"| `{name}` | {count_parameters(model):,} | {count_macs(model) / 1e9:.2f} | {peak} |")
    return "\n".join(lines)


def latencies(models: dict, batch_sizes: list[int], repetitions: int) -> str:
    teacher, student = models
    lines = [f"| batch | `{teacher}` | `{student}` | `{teacher}` | `{student}` | latency of `{teacher}` |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    for batch_size in batch_sizes:
        times = {name: [] for name in models}
        for repetition in range(1 + repetitions):
            for name, model in models.items():
                inputs = {key: value.expand(batch_size, *value.shape[1:]) for key, value in clip(model).items()}
                milliseconds = measure_latency_ms(model, repetitions=1, warmup=0, **inputs)
                if repetition:
                    times[name].append(milliseconds)
        medians = [median(times[name]) for name in models]
        ratio = median(second / first for first, second in zip(*times.values(), strict=True))
        cells = [f"{value:,.1f} ms" for value in medians]
        cells += [f"{1000 * batch_size / value:,.1f} clips/s" for value in medians]
        lines.append(f"| {batch_size} | {' | '.join(cells)} | {ratio:.3f} |")
    return "\n".join(lines)


def clip(model) -> dict[str, torch.Tensor]:
    return dummy_clip(model.config, model.device)


if __name__ == "__main__":
    main()
