"""The rows of every comparison, as data: what is passed to distill.py, what is tuned, what the paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..distillation.objectives import OBJECTIVES_OF_TASK
from ..distillation.token_distillation import BRANCHES

# between options that are chosen together, and between their values
TIMES = " x "
EVENTS, MASKS = "audio-visual-classification", "audio-visual-segmentation"


@dataclass(frozen=True)
class Row:
    """
    One line of a table.

    Args:
        name: as the table shows it; rows of one name are the same in all suites and run once.
        objectives: names in `OBJECTIVES`, summed; none trains on labels only.
        tuned: the option that validation chooses, `"<objective>.<field>"` or a flag such as `"--weight_decay"`; of a
            sum of objectives several, joined by `TIMES`, in all combinations.
        values: candidates of `tuned`; *optional*, by default a grid around the objective's own default.
        follows: options that take the value which another row chose, by the name of that row.
        options: further options of distill.py.
        student_fields: further `FIELD=VALUE` of the student's config; `{half_image_size}` and the like stand for facts
            of the teacher, see [`teacher_facts`].
        modality: what the student is given: `"both"`, `"audio"` or `"visual"`.
        hidden_layers: of the probes of the row's entropy monitor.
        reference: the row whose seeds this one's are compared with, seed by seed.
        paper: what the EM-KTD paper reports, in the order of [`PAPER_COLUMNS`]; *optional*.
    """

    name: str
    objectives: tuple[str, ...] = ()
    tuned: str | None = None
    values: tuple[str, ...] = ()
    follows: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    student_fields: tuple[str, ...] = ()
    modality: str = "both"
    hidden_layers: int = 0
    reference: str = "KD"
    paper: str = ""


PAPER_COLUMNS = {EVENTS: "VGGSound: accuracy / mAP / mAUC", MASKS: "AVSBench S4: MJ / MF"}
PAPER_TEACHERS = {EVENTS: "63.9 / 65.0 / 97.9", MASKS: "83.15 / 90.40"}


def _with_kd(name: str, objective: str, **more) -> Row:
    """An objective beside logit distillation, whose weight is the one that suited logit distillation alone."""
    return Row(f"{name} + KD", (objective, "kd"), f"{objective}.weight", follows={"kd.weight": "KD"}, **more)


def _alone(name: str, objective: str, **more) -> Row:
    return Row(name, (objective,), f"{objective}.weight", **more)


def _variant(row: Row, name: str, **changes) -> Row:
    """The row under another name, with other options."""
    return replace(row, name=name, **{"paper": "", **changes})


LABELS = Row("labels only", tuned="--label_smoothing_factor", values=("0", "0.1", "0.2"))
KD = _alone("KD", "kd", paper="56.1 / 57.3 / 97.1")
KTD = _alone("KTD", "ktd")
KTD_KD = _with_kd("KTD", "ktd", paper="61.4 / 62.3 / 97.6")
EM_KTD_KD = _with_kd("EM-KTD", "em_ktd", paper="62.0 / 63.4 / 97.9")
CLIPS_KD = _with_kd("EM-clip-KTD", "em_clip_ktd")
BOTH_KD = Row(
    "EM-KTD + EM-clip-KTD + KD",
    ("em_ktd", "em_clip_ktd", "kd"),
    f"em_ktd.weight{TIMES}em_clip_ktd.weight",
    follows={"kd.weight": KD.name},
)
BOTH_UNMONITORED_KD = Row(
    "KTD + Clip-KTD + KD",
    ("ktd", "clip_ktd", "kd"),
    f"ktd.weight{TIMES}clip_ktd.weight",
    follows={"kd.weight": KD.name},
)
SPKD_KD = _with_kd("SPKD", "spkd", paper="55.6 / 56.1 / 96.6")
PUBLISHED = (
    _with_kd("AT", "at", paper="56.6 / 56.9 / 96.8"),
    SPKD_KD,
    _with_kd("MTST", "mtst", paper="57.6 / 58.5 / 97.0"),
    _with_kd("VkD", "vkd"),
)
OURS = (_with_kd("Clip-KTD", "clip_ktd"), CLIPS_KD, BOTH_KD, BOTH_UNMONITORED_KD, _with_kd("Manifold", "manifold"))
RELATIVES = (
    KD,
    _alone("NKD", "nkd"),
    _alone("DKD", "dkd"),
    _alone("BD-KD", "bd_kd"),
    _with_kd("TRG", "trg"),
    _with_kd("ND", "nd"),
    _with_kd("Affinity", "affinity"),
    _alone("FD-CMKD", "fd_cmkd"),
)
KERNELS = (
    KD,
    _variant(KTD_KD, "KTD linear + KD", options=("--ktd_kernel", "linear"), paper="60.2 / 59.4 / 97.7"),
    _variant(KTD_KD, "KTD polynomial + KD", options=("--ktd_kernel", "polynomial"), paper="60.5 / 60.4 / 97.8"),
    _variant(KTD_KD, "KTD RBF 2 + KD", options=("--ktd_gamma", "2"), paper="60.9 / 61.3 / 97.5"),
    KTD_KD,
    _variant(KTD_KD, "KTD chosen kernel + KD", tuned=None, options=("--ktd_kernel", "auto")),
    EM_KTD_KD,
    _variant(EM_KTD_KD, "EM-KTD RBF 2 + KD", options=("--ktd_gamma", "2")),
)
MONITORS = (
    KD,
    EM_KTD_KD,
    _variant(EM_KTD_KD, "EM-KTD, 1 hidden layer + KD", hidden_layers=1, paper="62.0 / 63.3"),
    _variant(EM_KTD_KD, "EM-KTD, 2 hidden layers + KD", hidden_layers=2, paper="61.7 / 62.7"),
)
WINDOWS = (
    KD,
    KTD_KD,
    _variant(KTD_KD, "KTD in windows + KD", options=("--ktd_sliding_window", "true")),
    EM_KTD_KD,
    _variant(EM_KTD_KD, "EM-KTD in windows + KD", options=("--ktd_sliding_window", "true")),
)
ONE_BRANCH = (
    KD,
    *(_variant(EM_KTD_KD, f"EM-KTD, {branch} + KD", options=("--branches", branch)) for branch in BRANCHES),
    EM_KTD_KD,
)


def _group(suffix: str, rows: tuple[Row, ...], **changes) -> tuple[Row, ...]:
    """The rows for another kind of student: tuned anew, following and compared with one another."""
    names = {row.name: f"{row.name}, {suffix}" for row in rows}
    papers = changes.pop("papers", {})
    group = []
    for row in rows:
        follows = {option: names[followed] for option, followed in row.follows.items()}
        own = {"name": names[row.name], "follows": follows, "reference": names[row.reference]}
        group.append(replace(row, **own | {"paper": papers.get(row.name, "")} | changes))
    return tuple(group)


HEADLINE = (LABELS, KD, EM_KTD_KD)
HALF = _group(
    "half the picture",
    HEADLINE,
    student_fields=("image_size={half_image_size}",),
    papers={KD.name: "54.5 / 56.5 / 97.1", EM_KTD_KD.name: "60.0 / 59.9 / 97.5"},
)
SAME_SIZE = _group(
    "teacher's size",
    HEADLINE,
    student_fields=(
        "hidden_size={hidden_size}",
        "num_attention_heads={num_attention_heads}",
        "modality_specific_depth={modality_specific_depth}",
    ),
)
CROSS_MODAL_ROWS = (LABELS, KD, _alone("FD-CMKD", "fd_cmkd"), EM_KTD_KD)
CROSS_MODAL = (
    *_group("sound only", CROSS_MODAL_ROWS, modality="audio", options=("--student_modalities", "audio")),
    *_group("picture only", CROSS_MODAL_ROWS, modality="visual", options=("--student_modalities", "visual")),
)
INIT_ROWS = (LABELS, KD, SPKD_KD, EM_KTD_KD, BOTH_KD)
# each compared with the same row from scratch
INHERITED = tuple(
    replace(row, reference=scratch.name)
    for row, scratch in zip(
        _group("inherited", INIT_ROWS, options=("--student_init", "inherit")), INIT_ROWS, strict=True
    )
)

MASK_PAPER = {
    "labels only": "77.41 / 86.76",
    "KD": "76.86 / 86.29",
    "MTST": "77.19 / 86.03",
    "KTD": "79.01 / 87.26",
    "EM-KTD": "79.81 / 87.86",
}
MASK_LABELS = Row("labels only", tuned="--weight_decay", values=("0.001", "0.01", "0.1"))
MASK_RELATIVES = (
    KD,
    _alone("BD-KD", "bd_kd"),
    _with_kd("TRG", "trg"),
    _with_kd("TransKD", "transkd"),
    _with_kd("BPKD", "bpkd"),
)
EM_KD, EM_KTD, MTST = _alone("EM-KD", "em_kd"), _alone("EM-KTD", "em_ktd"), _alone("MTST", "mtst")

SUITES: dict[str, dict[str, tuple[Row, ...]]] = {
    EVENTS: {
        "paper": (LABELS, KD, *PUBLISHED, EM_KD, KTD, KTD_KD, EM_KTD_KD, *OURS),
        "relatives": RELATIVES,
        "kernels": KERNELS,
        "resolution": HALF,
        "monitor": MONITORS,
        "window": WINDOWS,
        "branches": ONE_BRANCH,
        "same_size": SAME_SIZE,
        "cross_modal": CROSS_MODAL,
        "init": (*INIT_ROWS, *INHERITED),
    },
    MASKS: {
        "paper": (MASK_LABELS, KD, MTST, KTD, EM_KTD, *PUBLISHED, EM_KD, KTD_KD, EM_KTD_KD, *OURS),
        "relatives": MASK_RELATIVES,
        "kernels": KERNELS,
        "monitor": MONITORS,
        "window": WINDOWS,
    },
}


def suite_rows(task: str, suite: str) -> tuple[Row, ...]:
    """
    The rows of a suite for models of `task`, with what the paper reports of that task.

    Raises:
        ValueError: if the task has no such suite.
    """
    if suite not in SUITES[task]:
        raise ValueError(f"there is no suite {suite!r} for {task}; known: {', '.join(SUITES[task])}, all.")
    rows = SUITES[task][suite]
    return rows if task == EVENTS else tuple(replace(row, paper=MASK_PAPER.get(row.name, "")) for row in rows)


def missing_objectives(row: Row, task: str) -> list[str]:
    """The objectives of the row that do not exist for `task`."""
    return [name for name in row.objectives if name not in OBJECTIVES_OF_TASK[task]]
