"""text/concepts."""
