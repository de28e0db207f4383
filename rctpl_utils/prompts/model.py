"""RC-TPL at test time: learned prompts, a frozen encoder, images in place of text (paper 3.4)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_squares
from rctpl_utils.encoders.loading import named_encoder
from rctpl_utils.errors import InputError
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.zero_shot import branch_scores
from rctpl_utils.scoring import fuse


class RCTPL:
    """Zero-shot classification, grounding and embedding of chest radiographs.

    Example:
        >>> RCTPL.load("build/embedded/prompts/rc-tpl-0.safetensors").classify(images, ["Edema"])
    """

    native = frozenset({"classify", "ground", "embed_images", "embed_texts"})

    def __init__(self, encoder: Encoder, prompts: Prompts) -> None:
        if prompts.report.shape[1] != encoder.context_width:
            raise InputError(
                f"the prompts are {prompts.report.shape[1]} wide, the encoder's words "
                f"{encoder.context_width}",
                "Use the encoder that the prompts were learned with.",
            )
        self.encoder = encoder
        contexts = (each.to(encoder.device) for each in (prompts.report, prompts.concept))
        self.prompts = Prompts(*contexts, prompts.metadata)

    @classmethod
    def load(cls, path: str | Path, encoder: Encoder | None = None) -> "RCTPL":
        """Read prompts and, unless one is given, the encoder that the file's metadata names.

        Raises:
            InputError: files that are absent or damaged, an encoder other than the prompts' own.
        """
        prompts = Prompts.load(path)
        needed = {"text_key"} if encoder is not None else {"text_key", "encoder_file"}
        if missing := needed - set(prompts.metadata):
            raise InputError(
                f"the prompts' metadata lack {sorted(missing)}", "Run notebook 04 again.", file=path
            )
        if encoder is None:
            encoder = named_encoder(path, prompts.metadata)
        if prompts.metadata["text_key"] != encoder.text_key:
            raise InputError(
                "these prompts were learned with another text encoder",
                "Give the encoder they name, or run notebook 04 again.",
                file=path,
            )
        return cls(encoder, prompts)

    @torch.no_grad()
    def classify(self, images: Sequence[np.ndarray], concepts: Sequence[str]) -> np.ndarray:
        """Scores of n radiographs, float (H, W) in [0, 1], for L concepts, seen or not: (n, L)."""
        embeddings = self.prompts.embed(self.encoder, list(concepts))
        return fuse(*branch_scores(self._encode(images), embeddings)).cpu().numpy()

    @torch.no_grad()
    def ground(self, images: Sequence[np.ndarray], concept: str) -> np.ndarray:
        """Where a concept is: the concept branch's cosine map on the padded film, (n, h, w)."""
        embedding = self.prompts.embed(self.encoder, [concept]).concept  # (1, d)
        maps = cosine_maps(self._encode(images).dense_features, embedding)[:, 0].cpu()
        return on_squares(maps, [each.shape for each in images], frame_of(self.encoder)).numpy()

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Plain image embeddings of the frozen encoder: (n, d)."""
        return self._encode(images).global_features.cpu().numpy()

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Plain text embeddings of the frozen encoder: (n, d)."""
        return self.encoder.encode_text(texts).cpu().numpy()

    def _encode(self, images: Sequence[np.ndarray]) -> ImageFeatures:
        return self.encoder.encode_image(torch.stack([self.encoder.preprocess(i) for i in images]))
