"""One HTML page about accuracy curves."""

from lexirobust.reporting.report import report

__all__ = ["report"]
