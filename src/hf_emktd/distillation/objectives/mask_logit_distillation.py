"""Logit distillation (KD) of masks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .logit_distillation import LogitDistillation
from .mask_logits import check_masks


class MaskLogitDistillation(LogitDistillation):
    r"""
    \\(T^2 \, \mathrm{KL}(\sigma(t / T) \,\|\, \sigma(s / T))\\) of each pixel's Bernoulli distribution, mean over
    pixels, frames and clips, in float32. A binary mask has one logit a pixel, whose softmax is 1 whatever the logit;
    the sigmoid is what the class softmax of Hinton et al. (2015) becomes for two classes.

    Every frame counts, labelled or not: on AVSBench's S4 the teacher is all that four of five training frames have.
    A teacher's mask of another size is resized to the student's, bilinearly and with antialiasing.

    Args:
        temperature (`float`, *optional*, defaults to 1.0):
            \\(T\\). Not given in the EM-KTD paper. A temperature brings out how a teacher ranks the wrong classes,
            and two classes leave nothing to rank. Above 1 it shifts the gradient to pixels of the far background,
            where both models are right and only the sizes of their logits differ; at 1 the contours count.
        weight (`float`, *optional*, defaults to 1.0):
            Factor of the part `kd`. Not given in the EM-KTD paper.

    Raises:
        ValueError: if `temperature` or `weight` is not positive.
    """

    def __init__(self, temperature: float = 1.0, weight: float = 1.0) -> None:
        super().__init__(temperature, weight)

    def _check_shapes(self, student: Tensor, teacher: Tensor) -> None:
        check_masks(student, teacher)

    def _clip_divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean KL of each clip's pixels, `(batch,)`, from logits `(batch, frames, height, width)`."""
        teacher = resize_logits(teacher, student.shape[-2:])
        return bernoulli_divergence(student / self.temperature, teacher / self.temperature).mean(dim=(1, 2, 3))


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """`(batch, frames, height, width)` -> `(batch, frames, *size)`; antialiasing acts on sides that shrink only."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False, antialias=True)


def bernoulli_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """
    KL of sigmoid(teacher) from sigmoid(student), pixel by pixel, in nats; of log-sigmoids, so that logits of any
    finite size give finite values and gradients.
    """
    on = F.logsigmoid(teacher) - F.logsigmoid(student)
    off = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return teacher.sigmoid() * on + (-teacher).sigmoid() * off
