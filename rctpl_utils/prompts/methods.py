"""What stands in a row of a table: learned or written class embeddings, one run a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rctpl_utils.scoring import ClassEmbeddings

Embedder = Callable[[Sequence[str]], ClassEmbeddings]


@dataclass(frozen=True)
class Method:
    """A row of Table 1, under the name that the table prints; run k belongs to encoder k."""

    name: str
    embedders: tuple[Embedder, ...]
    branch: str = "both"  # or "report", "concept"
