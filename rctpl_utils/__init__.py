"""Executable companion to RC-TPL: a module a section of the paper (README.md has the map)."""

__version__ = "0.1.0"
