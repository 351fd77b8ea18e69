"""A run as a page."""

from selfsup.report.page import write_report

__all__ = ["write_report"]
