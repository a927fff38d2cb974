"""Affinity mimicking between sound and picture."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor
from transformers.utils import ModelOutput

from ..gathering import gathered
from ..kernels import at_least_float32, autocast_disabled, unit_tokens
from ..teacher import TeacherSignal
from .base import DistillationObjective, check_positive, check_weight

PAIR = ("audio", "visual")


class AffinityMimicking(DistillationObjective):
    r"""
    \\(\tfrac12 (\mathrm{CE}(\rho(c \, A_T V_T^\top), \rho(c \, A_S V_S^\top)) + \mathrm{CE}(\rho(c \, V_T A_T^\top),
    \rho(c \, V_S A_S^\top)))\\), mean over rows, in float32: which pictures a sound resembles and which sounds a
    picture, over the clips of all ranks; \\(\rho\\) is the softmax of each row, rows of A and V are the unit-length
    means of a clip's audio and visual tokens (Wu et al., 2023; official file `src/open_clip/clip_soft_loss.py` of
    wkcn/TinyCLIP, where they are image and text). The least value is the mean entropy of the teacher's rows.

    Sound and picture of the same model need equal widths for an inner product; those of teacher and student may
    differ. Of CAV-MAE's branches the tokens meet in one space by contrastive pre-training only; a teacher without it
    has affinities that mean less. A batch of one clip has no others to resemble and costs 0.

    Args:
        logit_scale (`float`, *optional*, defaults to 50.0):
            c, of both sides, as in TinyCLIP's training.
        weight (`float`, *optional*, defaults to 1.0): factor of the part `affinity`, as in the official code.

    Raises:
        ValueError: for a constant that is not positive, from `for_models`, if a model lacks audio or visual tokens
            or theirs differ in width, and from `forward`, if one side lacks audio or visual tokens.
    """

    name = "affinity"
    compares = "pooled tokens of one width: which pictures of the batch a sound resembles, and back"
    source = "https://arxiv.org/abs/2309.12314"
    citation = """@inproceedings{wu2023tinyclip,
  title={TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance},
  author={Wu, Kan and Peng, Houwen and Zhou, Zhenghong and Xiao, Bin and Liu, Mengchen and Yuan, Lu and Xuan, Hong and Valenzuela, Michael and Chen, Xi Stephen and Wang, Xinggang and Chao, Hongyang and Hu, Han},
  booktitle={International Conference on Computer Vision},
  year={2023}
}"""  # noqa: E501
    requires_tokens = True

    def __init__(self, logit_scale: float = 50.0, weight: float = 1.0) -> None:
        super().__init__()
        check_positive(self, logit_scale=logit_scale)
        check_weight(self, weight)
        self.logit_scale = logit_scale
        self.weight = weight

    @classmethod
    def for_models(cls, student_config: Any, teacher_config: Any, **options: Any) -> Self:
        """Refuses a model without one of the branches, or whose tokens differ in width."""
        for role, config in (("student", student_config), ("teacher", teacher_config)):
            widths = [config.branch_widths.get(branch) for branch in PAIR]
            if None in widths or widths[0] != widths[1]:
                raise ValueError(
                    f"affinity: the {role}'s tokens have widths {dict(config.branch_widths)}; without audio and "
                    "visual tokens of one width there is no inner product between them. Leave affinity out, or take "
                    "models that have them."
                )
        return cls(**options)

    def forward(
        self, student_output: ModelOutput, teacher_signal: TeacherSignal, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"affinity": scalar}` from audio and visual tokens `(batch, tokens, width)`; `labels` are not used."""
        student = [getattr(student_output, f"{branch}_tokens") for branch in PAIR]
        teacher = [teacher_signal.tokens.get(branch) for branch in PAIR]
        _check_both("student", student)
        _check_both("teacher", teacher)
        with autocast_disabled(student[0]):
            student = self._affinities(*student)
            teacher = self._affinities(*(tokens.detach() for tokens in teacher))
            loss = (_cross_entropy(student, teacher) + _cross_entropy(student.T, teacher.T)) / 2
        return {self.name: self.weight * loss}

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "logit_scale": self.logit_scale, "weight": self.weight}

    def _affinities(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Scaled cosines `(clips, clips)` between sounds, the rows, and pictures of all ranks."""
        audio, visual = (gathered(unit_tokens(at_least_float32(tokens).mean(dim=1))) for tokens in (audio, visual))
        return self.logit_scale * audio @ visual.T


def _cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.softmax(dim=1) * student.log_softmax(dim=1)).sum(dim=1).mean()


def _check_both(role: str, tokens: list[Tensor | None]) -> None:
    missing = [branch for branch, value in zip(PAIR, tokens, strict=True) if value is None]
    if missing:
        raise ValueError(
            f"affinity compares sound with picture, but the {role} returned no {' and no '.join(missing)} tokens. "
            "Give it both inputs and output_tokens=True, or leave affinity out."
        )
