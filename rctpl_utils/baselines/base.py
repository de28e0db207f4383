"""What RC-TPL's competitors offer to the tables: one protocol, whatever they learned from."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

CLASSIFY, GROUND, RETRIEVE = "classify", "ground", "retrieve"  # abilities


class ZeroShotModel(Protocol):
    """A trained model that scores, grounds and embeds films for concepts given by their names.

    `films` is a batch of what the model reads: the frozen backbone's maps (n, h, w, c) for the
    baselines trained here, `ImageFeatures` for prompt learners on the frozen encoder, preprocessed
    images (n, C, S, S) for released checkpoints.
    """

    name: str  # as the tables print it
    published: frozenset[str]  # abilities of the published method; others are our extensions

    def classify(self, films: Any, concepts: Sequence[str]) -> Tensor:
        """Scores for L concepts by their canonical names, seen in training or not: (n, L)."""

    def ground(self, films: Any, concept: str) -> Tensor:
        """Where a concept is, larger = more likely there: (n, h, w)."""

    def embed_images(self, films: Any) -> Tensor:
        """Image vectors for retrieval, to be compared by cosine: (n, v)."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Sentence vectors in the space of `embed_images`: (m, v)."""
