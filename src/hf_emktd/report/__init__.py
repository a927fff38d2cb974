"""A run as one page: what was distilled from what, how it went, and where the student differs from its teacher."""

from .contents import ReportOptions, make_report
from .left_out import LeftOut
from .run_record import RunRecord, read_run

__all__ = ["LeftOut", "ReportOptions", "RunRecord", "make_report", "read_run"]
