"""Executable companion to RC-TPL: its map: docs/architecture.md."""

__version__ = "0.1.0"
