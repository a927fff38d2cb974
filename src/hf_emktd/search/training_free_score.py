"""How well an untrained student relates clips and classes as its teacher does: the score of DisWOT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from ..distillation.kernels import at_least_float32
from ..distillation.teacher import branch_tokens
from ..distillation.token_distillation import BRANCHES
from ..training.students import inherit

TEACHER_WEIGHTS = ("random", "trained")
# of the clips, and of the classes where there are several
Agreement = tuple[float, float | None]


@dataclass(frozen=True)
class Relations:
    """
    What is compared of one batch.

    Args:
        clips: `(batch, batch)`, [`relation_matrix`] of the last tokens before pooling, over all frames.
        classes: `(classes, classes)`, [`relation_matrix`] of the gradients of the classes' weights; `None` of a model
            of masks, whose one class has no relations.
    """

    clips: Tensor
    classes: Tensor | None


@dataclass(frozen=True)
class TrainingFreeScore:
    """
    Agreement of an untrained student with the teacher; higher is better, 0 at most.

    Args:
        clips: by initialisation, minus [`clip_distance`], mean over the batches.
        classes: the same of [`class_distance`]; `None` of a model of masks.
    """

    clips: tuple[float, ...]
    classes: tuple[float, ...] | None

    @property
    def totals(self) -> tuple[float, ...]:
        """By initialisation the sum of both, as in the official code."""
        return self.clips if self.classes is None else tuple(map(sum, zip(self.clips, self.classes, strict=True)))

    @property
    def total(self) -> float:
        """Mean of `totals`."""
        return fmean(self.totals)

    @property
    def deviation(self) -> float:
        """Standard deviation of `totals`, NaN of a single one."""
        return stdev(self.totals) if len(self.totals) > 1 else math.nan

    def is_above(self, other: TrainingFreeScore) -> bool:
        """
        Whether the total is higher than the `other`'s by more than two standard errors of their difference, which is
        taken initialisation by initialisation; never with a single one.
        """
        differences = [own - given for own, given in zip(self.totals, other.totals, strict=True)]
        if len(differences) < 2:
            return False
        return fmean(differences) > 2 * stdev(differences) / math.sqrt(len(differences))


def score_students(
    teacher: PreTrainedModel,
    configs: Sequence[PreTrainedConfig],
    batches: Sequence[dict[str, Tensor]],
    *,
    initialisations: int = 5,
    teacher_weights: str = "random",
    progress: bool = True,
) -> list[TrainingFreeScore]:
    """
    Scores students without training them: DisWOT (Dong et al., CVPR 2023, https://huggingface.co/papers/2303.15678).

    The tokens of the fusion branch stand for the last feature map before pooling. The official code draws all weights
    from N(0, 1), under which attention looks at a single token; here models are drawn as their family draws them, and
    students get the parts of the teacher that distill.py hands on. The official code takes one initialisation and a
    new batch for each student; here all students meet the same teachers and batches.

    Args:
        teacher: not changed.
        configs: of the students.
        batches: on the teacher's device, inputs and `labels` as the collator makes them, at least two clips each.
        initialisations: pairs of teacher and student that are drawn.
        teacher_weights: `"random"`, drawn each time as in the official code, or `"trained"`, as given.
        progress: whether to show a bar.

    Raises:
        ValueError: without a batch or initialisation, for a batch of one clip, or for unknown teacher weights.
    """
    _check(batches, initialisations, teacher_weights)
    scores: list[list[Agreement]] = [[] for _ in configs]
    with tqdm(total=initialisations * len(configs), desc="Score", disable=not progress) as bar:
        for index in range(initialisations):
            reference = teacher if teacher_weights == "trained" else _draw(teacher.config, 2 * index, teacher.device)
            targets = [relations_of(reference, batch) for batch in batches]
            for config, own in zip(configs, scores, strict=True):
                # the teacher's own seed would give layers of the same width the same weights
                student = _draw(config, 2 * index + 1, teacher.device)
                inherit(student, reference)
                own.append(_agreement([relations_of(student, batch) for batch in batches], targets))
                bar.update()
    return [_score(own) for own in scores]


def relations_of(model: PreTrainedModel, batch: dict[str, Tensor]) -> Relations:
    """The [`Relations`] that `model` sees in a batch, in evaluation mode and without gradients."""
    seen: list[Tensor] = []
    head = _classifier(model) if model.config.num_labels > 1 else None
    hook = head and head.register_forward_hook(lambda _, inputs, logits: seen.extend((inputs[0], logits)))
    was_training = model.training
    model.eval()
    inputs = {name: batch[name].to(model.dtype) for name in model.config.input_shapes if name in batch}
    with torch.no_grad():
        output = model(**inputs, output_tokens=True)
    model.train(was_training)
    tokens = branch_tokens(output)
    last = next(tokens[branch] for branch in reversed(BRANCHES) if branch in tokens)
    if hook is None:
        return Relations(relation_matrix(last), None)
    hook.remove()
    return Relations(relation_matrix(last), relation_matrix(class_gradients(*seen, batch["labels"])))


def relation_matrix(features: Tensor) -> Tensor:
    """
    Dot products of all pairs of rows, each row of them divided by its length: `(rows, ...)` to `(rows, rows)`, in
    float32 or more.
    """
    rows = at_least_float32(features).flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def class_gradients(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """
    Gradient `(classes, width)` of the mean cross entropy in the weight of the linear layer that made `logits`
    `(batch, classes)` of `features` `(batch, width)`, for class ids `labels` `(batch,)`.
    """
    logits = at_least_float32(logits)
    errors = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    return errors.T @ features.to(logits.dtype) / len(labels)


def clip_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""
    \\(\|G_s - G_t\|^2 / B^2\\) of two relation matrices of B clips: DisWOT's relation term, which is SPKD's loss
    (official `distiller_zoo/SP.py`).
    """
    return (student - teacher).square().sum() / len(student) ** 2


def class_distance(student: Tensor, teacher: Tensor) -> Tensor:
    r"""
    \\(\|G_s - G_t\|^2 / K\\) of two relation matrices of K classes: DisWOT's semantic term, between classes.

    The official code (`distiller_zoo/ICKD.py` as `exps/parse_nb201_distill.py` uses it) compares a channels x channels
    matrix of each class instead. That needs equal widths, and channels that correspond, which those of two networks
    with random weights do not; between classes it needs the same class list alone. The divisor is its, one a row.
    """
    return (student - teacher).square().sum() / len(student)


def _agreement(own: Sequence[Relations], given: Sequence[Relations]) -> Agreement:
    pairs = list(zip(own, given, strict=True))
    clips = -fmean(clip_distance(a.clips, b.clips).item() for a, b in pairs)
    if own[0].classes is None:
        return clips, None
    return clips, -fmean(class_distance(a.classes, b.classes).item() for a, b in pairs)


def _score(agreements: Sequence[Agreement]) -> TrainingFreeScore:
    clips, classes = zip(*agreements, strict=True)
    return TrainingFreeScore(clips, None if classes[0] is None else classes)


def _draw(config: PreTrainedConfig, seed: int, device: torch.device) -> PreTrainedModel:
    """A model with random weights that depend on `seed` alone; torch's generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModel.from_config(config, dtype=torch.float32).to(device)


def _classifier(model: PreTrainedModel) -> nn.Linear:
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != model.config.num_labels:
        raise ValueError(
            f"the last layer of {type(model).__name__} is no linear layer with its {model.config.num_labels} classes; "
            "the score needs the gradient of such a layer."
        )
    return layers[-1]


def _check(batches: Sequence[dict[str, Tensor]], initialisations: int, teacher_weights: str) -> None:
    if not batches or min(len(batch["labels"]) for batch in batches) < 2:
        sizes = [len(batch["labels"]) for batch in batches]
        raise ValueError(f"expected at least one batch, and two clips or more in each, got batches of {sizes}.")
    if initialisations < 1:
        raise ValueError(f"initialisations must be at least 1, got {initialisations}.")
    if teacher_weights not in TEACHER_WEIGHTS:
        raise ValueError(f"teacher_weights must be one of {', '.join(TEACHER_WEIGHTS)}, got {teacher_weights!r}.")
