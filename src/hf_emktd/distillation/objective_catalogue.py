"""Which objectives there are."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

from .objectives import OBJECTIVES_OF_TASK, DistillationObjective


@dataclass(frozen=True)
class ObjectiveEntry:
    """
    One objective; as text, a line of a list.

    Args:
        name (`str`): For `--objective` and `DistillationArguments(objective=[...])`.
        compares (`str`): What of the teacher and the student.
        tasks (`tuple[str, ...]`): `"audio-visual-classification"`, `"audio-visual-segmentation"` or both.
        default_weight (`float`): Of the whole objective; weights of its terms are options of its class.
        source (`str`): The paper's address, or its name; `"this library"` where there is none.
    """

    name: str
    compares: str
    tasks: tuple[str, ...]
    default_weight: float
    source: str

    def __str__(self) -> str:
        tasks = " and ".join(task.removeprefix("audio-visual-") for task in self.tasks)
        return f"{self.name:11} {self.compares} ({tasks}; weight {self.default_weight:g}; {self.source})"


def list_objectives(task: str | None = None) -> list[ObjectiveEntry]:
    """
    All objectives, in the order of the documentation.

    ```python
    >>> import hf_emktd

    >>> print(hf_emktd.list_objectives()[0])
    kd          logits (classification and segmentation; weight 1; https://arxiv.org/abs/1503.02531)
    ```

    Args:
        task (`str`, *optional*): Those of one task alone.

    Raises:
        ValueError: the task is unknown.
    """
    if task is not None and task not in OBJECTIVES_OF_TASK:
        raise ValueError(f"task must be one of {', '.join(OBJECTIVES_OF_TASK)}, got {task!r}.")
    entries: dict[str, ObjectiveEntry] = {}
    for own_task, known in OBJECTIVES_OF_TASK.items():
        for name, kind in known.items():
            first = entries.get(name) or ObjectiveEntry(name, kind.compares, (), _default_weight(kind), kind.source)
            entries[name] = replace(first, tasks=(*first.tasks, own_task))
    return [entry for entry in entries.values() if task is None or task in entry.tasks]


def _default_weight(kind: type[DistillationObjective]) -> float:
    """Of the first constructor that names it: subclasses hand their options on."""
    parameters = (inspect.signature(cls.__init__).parameters for cls in kind.__mro__ if "__init__" in vars(cls))
    return next(known["weight"].default for known in parameters if "weight" in known)
