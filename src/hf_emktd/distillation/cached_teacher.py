"""A teacher whose signals were computed before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from .teacher import TeacherSignal, check_contract
from .token_codes import CODECS, STAGES, TokenCodec
from .token_distillation import Grids


class CachedTeacher(nn.Module):
    """
    Stands where [`LiveTeacher`] does and takes its signal from the batch, `teacher_signal`, instead of a model. It has
    no weights.

    Args:
        config: of the teacher.
        grids: by branch those of the tokens.
        codec: [`TokenCodec`] that the tokens were encoded by.
        has_entropies: whether the signals carry branch entropies.

    Raises:
        ValueError: if the config lacks a field of the contract.
    """

    def __init__(self, config: Any, grids: Grids, codec: TokenCodec, has_entropies: bool) -> None:
        super().__init__()
        check_contract(config, "teacher")
        self.config = config
        self.codec = codec
        self.has_entropies = has_entropies
        self.grids = dict(grids)

    def forward(self, teacher_signal: Mapping[str, Any] | None = None, **inputs: Any) -> TeacherSignal:
        """
        Takes a whole batch. `teacher_signal` has `logits` as [`TeacherSignal`] describes them, of any float dtype, by
        branch `entropies` `(batch,)`, and by branch the columns of `codes` as the codec describes them.
        """
        if teacher_signal is None:
            raise ValueError(
                f"the batch has no teacher_signal, only {sorted(inputs)}. Draw it from CachedViews and put it "
                "together with SignalCollator."
            )
        codes: Mapping[str, Mapping[str, Tensor]] = teacher_signal["codes"]
        return TeacherSignal(
            logits=teacher_signal["logits"].float(),
            tokens={branch: self.codec.decode(columns) for branch, columns in codes.items()},
            means={branch: columns["means"].float() for branch, columns in codes.items() if "means" in columns},
            grids=self.grids,
            entropies=dict(teacher_signal["entropies"]),
        )

    def check_serves(self, objectives: Iterable[Any]) -> None:
        """Raises `ValueError` for the first objective that needs something that was not stored."""
        for objective in objectives:
            if objective.reads not in self.codec.serves:
                raise ValueError(f"{objective.name} {_what_it_needs(objective.reads, self.codec.name)}")
            if objective.requires_entropies and not self.has_entropies:
                raise ValueError(
                    f"{objective.name} needs branch entropies, and the teacher cache was written without a monitor. "
                    "Write it again with one (cache_teacher.py --monitor)."
                )


def _what_it_needs(reads: str, codec: str) -> str:
    if reads == STAGES:
        return "reads the stages of the teacher's picture encoder, which are not cached. Leave out the teacher cache."
    names = [name for name, kind in CODECS.items() if reads in kind.serves]
    return (
        f"reads the teacher's {reads}, which a cache of codec {codec!r} does not hold. Write one with "
        f"cache_teacher.py --codec {names[0]}, or leave out the teacher cache."
    )
