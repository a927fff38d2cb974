"""Which value of its option each row takes: validation says, from the same small grid for all."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..distillation.objectives import OBJECTIVES_OF_TASK
from .suites import TIMES, Row

# Times the default of an objective's weight.
FACTORS = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Choice:
    """
    What validation said of a row's option.

    Args:
        option: its name, or several of them joined by `TIMES`, as the values are.
        scores: of each value whose run ended well, the metric that decides and the one that decides between equals.
    """

    option: str
    scores: dict[str, tuple[float, float]]

    @property
    def value(self) -> str | None:
        """The best value; `None`, which keeps the default, where every run failed."""
        return max(self.scores, key=self.scores.__getitem__) if self.scores else None


def candidates(row: Row, task: str, factors: Sequence[float] = FACTORS) -> list[str]:
    """The values among which a row's option is chosen."""
    if row.tuned is None or row.values:
        return list(row.values)
    options = (option.split(".") for option in row.tuned.split(TIMES))
    defaults = [default_of(OBJECTIVES_OF_TASK[task][name], field) for name, field in options]
    grids = ([f"{factor * default:g}" for factor in factors] for default in defaults)
    return [TIMES.join(values) for values in itertools.product(*grids)]


def by_option(tuned: str, value: str) -> dict[str, str]:
    """A candidate as values by option."""
    return dict(zip(tuned.split(TIMES), value.split(TIMES), strict=True))


def default_of(objective: type, option: str) -> float:
    """
    The default of a constructor's parameter, of a base class's where the class passes it on.

    Raises:
        ValueError: if there is no such parameter.
    """
    for base in objective.__mro__:
        parameters = inspect.signature(base.__init__).parameters
        if option in parameters:
            return parameters[option].default
    raise ValueError(f"{objective.__name__} has no option {option!r}.")


def with_followed(rows: Sequence[Row], known: Mapping[str, Row]) -> list[Row]:
    """The rows, after those whose choices they follow, each once."""
    ordered: dict[str, Row] = {}
    for row in rows:
        for followed in with_followed([known[name] for name in row.follows.values()], known):
            ordered.setdefault(followed.name, followed)
        ordered.setdefault(row.name, row)
    return list(ordered.values())


def stages(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that can be tuned at the same time, each stage after those whose choices it follows."""
    depths: dict[str, int] = {}
    for row in rows:  # in the order of `with_followed`
        depths[row.name] = 1 + max((depths[name] for name in row.follows.values()), default=-1)
    return [[row for row in rows if depths[row.name] == depth] for depth in sorted(set(depths.values()))]


def settings(row: Row, choices: Mapping[str, Choice]) -> dict[str, str]:
    """The values that a row runs with, by option: its own choice and those it follows, as far as they were made."""
    followed = {option: choices[name].value for option, name in row.follows.items() if name in choices}
    own = choices.get(row.name)
    chosen = {} if own is None or own.value is None else by_option(own.option, own.value)
    return {option: value for option, value in followed.items() if value is not None} | chosen
