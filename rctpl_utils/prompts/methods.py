"""What stands in a row of a table: learned or written class embeddings, one run a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rctpl_utils.scoring import ClassEmbeddings

Embedder = Callable[[Sequence[str]], ClassEmbeddings]


@dataclass(frozen=True)
class Method:
    """A row of Table 1.

    Attributes:
        name: as the table prints it.
        embedders: from concepts to class embeddings; run k belongs to encoder k.
        branch: "report", "concept" or "both".
    """

    name: str
    embedders: tuple[Embedder, ...]
    branch: str = "both"
