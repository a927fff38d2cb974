"""Teach the sound encoder of an AVSegFormer which spoken words a second of sound holds, before it sees a picture.

    python ../shared/data/build_avdigits.py clips runs/avdigits/data
    python benchmarks/pretrain_sound_encoder.py --dataset runs/avdigits/data/clips.csv --output_dir runs/sound \\
        --config_fields audio_hidden_size=256

The teachers of the paper hear with a VGGish that was trained on millions of clips; without it a segmentation model
has to learn to hear from masks, and a few thousand scenes are not enough. The output is a whole model whose visual
part has not been trained: `train_teacher.py --init runs/sound --freeze audio_encoder` goes on from it.

Every example is one to three words said at once, each at a pace, loudness and time of its own, in noise, with bands
of the spectrogram masked; the target is the set of words. Prints the share of single words of known and of new
speakers that it recognises.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModel, set_seed

from hf_emktd import AvSegFormerConfig, AvSegFormerProcessor
from hf_emktd.data import ClipTable, read_clip
from hf_emktd.training import derive_config, parse_overrides
from hf_emktd.training.students import part_of

SECOND = 16_000  # samples: what one VGGish example is made of
PACES = (0.8, 1.25)
NOISES = (0.001, 0.01)
MASKED_FRAMES, MASKED_BANDS = 16, 10


class Words:
    """The spoken words of one split of a clip table, each recording once, at 16 kHz."""

    def __init__(self, table: str, split: str) -> None:
        source = ClipTable(table)
        rows = {row["audio"]: row["label"] for row in source.splits[split]}
        self.label_names = source.label_names
        self.labels = list(rows.values())
        self.recordings = [
            read_clip(path, sampling_rate=SECOND, read_video=False).waveform[:SECOND]
            for path in tqdm(rows, desc=f"{split} recordings")
        ]

    def alone(self, index: int) -> np.ndarray:
        """One word from the start of an otherwise silent second."""
        return at_loudness(np.pad(self.recordings[index], (0, SECOND - len(self.recordings[index]))), 0.6)

    def mixture(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One to three words over each other, coming back every second as in the scenes, and which they are."""
        waveform, target = np.zeros(SECOND, np.float32), np.zeros(len(self.label_names), np.float32)
        for index in random.integers(len(self.labels), size=random.integers(1, 4)):
            word = at_pace(self.recordings[index], random.uniform(*PACES))[:SECOND]
            word = np.pad(at_loudness(word, random.uniform(0.4, 0.8)), (0, SECOND - len(word)))
            waveform += np.roll(word, random.integers(SECOND))
            target[self.labels[index]] = 1
        return waveform + random.normal(0, random.uniform(*NOISES), SECOND).astype(np.float32), target


def at_pace(waveform: np.ndarray, pace: float) -> np.ndarray:
    """Faster and higher by the factor `pace`, as from another throat."""
    return np.interp(np.arange(0, len(waveform) - 1, pace), np.arange(len(waveform)), waveform).astype(np.float32)


def at_loudness(waveform: np.ndarray, peak: float) -> np.ndarray:
    return waveform / (np.abs(waveform).max() + 1e-6) * peak


def masked(log_mel: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A stretch of time and one of frequency replaced by their mean (SpecAugment)."""
    log_mel = log_mel.copy()
    start, band = random.integers(log_mel.shape[0] - MASKED_FRAMES), random.integers(log_mel.shape[1] - MASKED_BANDS)
    log_mel[start : start + random.integers(MASKED_FRAMES)] = log_mel.mean()
    log_mel[:, band : band + random.integers(MASKED_BANDS)] = log_mel.mean()
    return log_mel


class Hearing(nn.Module):
    """The sound encoder of a segmenter and a linear layer on its embedding."""

    def __init__(self, segmenter: nn.Module, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.encoder = part_of(segmenter, "audio_encoder")
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(segmenter.config.audio_embedding_size, num_labels)

    def forward(self, examples: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.encoder(examples)[1]))


def train(hearing: Hearing, words: Words, to_log_mel, args: argparse.Namespace) -> None:
    random = np.random.default_rng(args.seed)
    optimizer = torch.optim.AdamW(hearing.parameters(), lr=args.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, args.steps, pct_start=0.1)
    for _ in (progress := tqdm(range(args.steps), desc="training")):
        waveforms, targets = zip(*(words.mixture(random) for _ in range(args.batch_size)), strict=True)
        examples = np.stack([masked(to_log_mel(waveform), random) for waveform in waveforms])
        loss = F.binary_cross_entropy_with_logits(hearing(torch.from_numpy(examples)), torch.tensor(np.stack(targets)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


@torch.no_grad()
def recognised(hearing: Hearing, words: Words, to_log_mel) -> float:
    """Share of single words whose own logit is the largest."""
    hearing.eval()
    examples = np.stack([to_log_mel(words.alone(index)) for index in range(len(words.labels))])
    logits = torch.cat([hearing(part) for part in torch.from_numpy(examples).split(64)])
    return (logits.argmax(dim=1) == torch.tensor(words.labels)).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="Clip table whose sounds are single words.")
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--config_fields", nargs="*", default=[], help="FIELD=VALUE pairs over PVTv2-b0's config.")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch_size", type=int, default=48)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)
    config = AvSegFormerConfig.from_preset("b0")
    segmenter = AutoModel.from_config(derive_config(config, parse_overrides(args.config_fields, config)))
    processor = AvSegFormerProcessor.from_config(segmenter.config)

    def to_log_mel(waveform: np.ndarray) -> np.ndarray:
        return processor.feature_extractor.log_mel(waveform, SECOND)[0]

    words = Words(args.dataset, "train")
    hearing = Hearing(segmenter, len(words.label_names), args.dropout)
    train(hearing, words, to_log_mel, args)
    for split, whose in (("validation", "known"), ("test", "new")):
        share = recognised(hearing, Words(args.dataset, split), to_log_mel)
        print(f"words of {whose} speakers recognised: {share:.1%}")
    segmenter.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
