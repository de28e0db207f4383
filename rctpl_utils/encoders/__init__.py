"""Frozen vision-language models behind one protocol (paper 3.2)."""
