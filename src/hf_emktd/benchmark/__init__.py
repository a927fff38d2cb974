"""Every objective against the others: suites of rows, runs that go on where they stopped, tables."""

from .execution import Executor
from .pictures import draw_suite
from .report import Report
from .runner import CACHE_OPTION, Benchmark
from .runs import check_typed_options, value_of
from .suites import SUITES, Row, missing_objectives, suite_rows

__all__ = [
    "CACHE_OPTION",
    "SUITES",
    "Benchmark",
    "Executor",
    "Report",
    "Row",
    "check_typed_options",
    "draw_suite",
    "missing_objectives",
    "suite_rows",
    "value_of",
]
