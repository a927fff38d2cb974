"""Draws the pictures of docs/method.md from the models that `make quickstart` leaves.

python docs/make_figures.py --run quickstart
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from hf_emktd.data import load_clips
from hf_emktd.distillation import EntropyMonitor, entropy_weights
from hf_emktd.distillation.kernels import TokenKernel
from hf_emktd.training import load_model

DOCS = Path(__file__).resolve().parent
MODELS = {"teacher": "teacher", "EM-KTD + KD": "em-ktd_kd", "labels only": "labels_only"}
BRANCHES = ("audio", "visual", "fusion")
CLIPS = 96
CLIP = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="quickstart", type=Path, help="Folder that `make quickstart` wrote.")
    args = parser.parse_args()
    torch.manual_seed(0)
    plt.rcParams.update({"font.size": 9, "savefig.dpi": 110, "savefig.bbox": "tight"})
    draw_way(DOCS / "method-way.png")
    videos = load_clips("touchtone").splits["test"]["video"][:CLIPS]
    tokens = {title: branch_tokens(args.run / folder, videos) for title, folder in MODELS.items()}
    draw_grams(tokens, DOCS / "method-gram.png")
    draw_weights(args.run / "teacher", tokens["teacher"], DOCS / "method-weights.png")


def branch_tokens(folder: Path, videos: list[str]) -> dict[str, torch.Tensor]:
    """By branch the tokens `(clips, tokens, width)` of a model."""
    model, processor = load_model(str(folder))
    with torch.no_grad():
        output = model.eval()(**processor(clips=list(videos), return_tensors="pt"), output_tokens=True)
    return {branch: output[f"{branch}_tokens"] for branch in BRANCHES}


def draw_way(path: Path) -> None:
    """One clip through teacher and student to the parts of the loss."""
    figure, axes = plt.subplots(figsize=(8.6, 3.0))
    axes.set(xlim=(0, 10), ylim=(0, 4))
    axes.axis("off")
    boxes = {
        "clip": (0.6, 2, "clip:\none view"),
        "teacher": (2.4, 3.2, "teacher\n(frozen)"),
        "student": (2.4, 0.8, "student"),
        "teacher tokens": (4.4, 3.2, "tokens of\nsound, picture,\nfusion"),
        "student tokens": (4.4, 0.8, "tokens of\nsound, picture,\nfusion"),
        "probes": (6.5, 3.4, "probes: entropy $H_m$"),
        "grams": (6.5, 2, "Gram matrices\n$K^T_m$ and $K^S_m$\nof each clip"),
        "loss": (9.0, 2, "$\\sum_m w_m\\,$Huber$(K^T_m-K^S_m)$\n+ labels + KD"),
    }
    for x, y, text in boxes.values():
        style = {"boxstyle": "round", "facecolor": "#eef3fa", "edgecolor": "#45617f"}
        axes.text(x, y, text, ha="center", va="center", bbox=style)
    arrows = [
        ((1.1, 2.2), (1.8, 3.0)),
        ((1.1, 1.8), (1.8, 1.0)),
        ((3.0, 3.2), (3.6, 3.2)),
        ((3.0, 0.8), (3.6, 0.8)),
        ((5.2, 3.3), (5.5, 3.35)),
        ((5.2, 2.9), (5.7, 2.4)),
        ((5.2, 1.1), (5.7, 1.6)),
        ((7.3, 2), (7.7, 2)),
        ((7.4, 3.15), (8.3, 2.45)),
    ]
    for start, end in arrows:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#45617f"})
    axes.text(8.05, 3.05, "$w_m=e^{-\\lambda H_m}$")
    figure.savefig(path)
    plt.close(figure)


def draw_grams(tokens: dict[str, dict[str, torch.Tensor]], path: Path) -> None:
    """The default kernel's Gram matrices of one clip, the grey levels of a branch shared by all models."""
    figure, axes = plt.subplots(len(tokens), len(BRANCHES), figsize=(5.2, 5.4))
    for column, branch in enumerate(BRANCHES):
        grams = [TokenKernel().gram(own[branch][CLIP]).numpy() for own in tokens.values()]
        low = min(gram.min() for gram in grams)
        for row, (title, gram) in enumerate(zip(tokens, grams, strict=True)):
            place = axes[row, column]
            place.imshow(gram, vmin=low, vmax=1, cmap="viridis")
            place.set(xticks=[], yticks=[])
            error = np.square(gram - grams[0]).mean() / 2
            note = f"{len(gram)} tokens" if row == 0 else f"loss {error:.4f}"
            place.set_title(f"{branch}, {note}" if row == 0 else note)
            if column == 0:
                place.set_ylabel(title)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def draw_weights(teacher: Path, tokens: dict[str, torch.Tensor], path: Path) -> None:
    """The weight by entropy, and where the clips of the test split lie on it."""
    monitor = EntropyMonitor.from_pretrained(teacher / "entropy_monitor").eval()
    with torch.no_grad():
        entropies = monitor(tokens).entropies
    weights = entropy_weights(entropies)
    largest = float(np.log(monitor.config.num_labels))
    figure, axes = plt.subplots(figsize=(5.2, 3.0))
    line = torch.linspace(0, largest, 200)
    axes.plot(line, entropy_weights({"": line})[""], color="black", lw=1)
    for row, branch in enumerate(BRANCHES):
        label = f"{branch}: mean weight {weights[branch].mean().item():.2f}"
        height = np.full(len(entropies[branch]), 0.18 - 0.06 * row)
        axes.scatter(entropies[branch], height, marker="|", s=60, lw=0.8, alpha=0.7, label=label)
    axes.set(xlabel=f"entropy of the probe in nats (at most log {monitor.config.num_labels} = {largest:.2f})")
    axes.set(ylabel="weight, $\\lambda$ = 0.5", ylim=(0, 1.05))
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
