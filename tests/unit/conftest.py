"""Fixtures that several test files of this folder share."""

from __future__ import annotations

from tests.unit.plugin_world import world

__all__ = ["world"]
