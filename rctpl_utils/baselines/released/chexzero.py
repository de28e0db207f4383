"""CheXzero (Tiu et al. 2022) from a released checkpoint: CLIP's ViT-B/32, tuned on impressions.

Inference of rajpurkarlab/CheXzero, `zero_shot.py`: with f the film's unit vector and t+, t- those
of "{name}" and "no {name}",

    score = exp(f . t+) / (exp(f . t+) + exp(f . t-)),

without CLIP's temperature. The authors average it over ten checkpoints; this is one of them.
Retrieval is by the cosines that pre-training compares. Maps are our extension: cosines of the
patches' tokens, projected as the class token is.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from rctpl_utils.baselines.base import CLASSIFY, RETRIEVE
from rctpl_utils.baselines.released.base import eight_bits
from rctpl_utils.baselines.released.checkpoints import load_matched, released_names
from rctpl_utils.baselines.released.clip_towers import CLIP, ClipSize
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.weight_files import read_state
from rctpl_utils.errors import InputError
from rctpl_utils.given_files import opened

WEIGHTS = "best_64_5e-05_original_22000_0.864.pt"
TOKENIZER_FILES = ("vocab.json", "merges.txt")  # of openai/clip-vit-base-patch32
SIZE = ClipSize()
TEMPLATES = ("{}", "no {}")
SQUARE = 320  # pixels; data_process.py
MEAN, DEVIATION = 101.48761, 83.43944  # of gray levels 0 to 255; zero_shot.py


class CheXzero(nn.Module):
    """See the module; the protocol is `released.base.ReleasedModel`."""

    name = "CheXzero"
    native = frozenset({CLASSIFY, RETRIEVE})
    frame = Frame("square")

    def __init__(self, folder: str | Path) -> None:
        """A model without values; `folder` holds CLIP's `vocab.json` and `merges.txt`."""
        super().__init__()
        self.clip = CLIP(SIZE)
        self._tokenizer = _tokenizer(Path(folder))

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "CheXzero":
        """Read a checkpoint (float16 or float32) and the tokenizer's files; frozen and ready.

        Args:
            folder: with `WEIGHTS` (or its name with `.safetensors`) and `TOKENIZER_FILES`.
            device: where the model goes.

        Raises:
            InputError: absent or damaged files, missing or unexpected names (listed).
        """
        model = cls(folder)
        state = read_state(folder, released_names(WEIGHTS))
        load_matched(model.clip, state, Layout(lambda name: name), folder)
        return freeze(model).to(device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.clip.logit_scale.device

    @property
    def sharpness(self) -> float:
        """Four times CLIP's inverse temperature: a quarter is the slope of a pair's softmax."""
        return 4 * float(self.clip.logit_scale.exp())

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """As `data_process.py` and `zero_shot.py`: 320 pixels, standardized, then 224.

        The longer side becomes 320 (Lanczos, 8 bits), the rest is black; the mean and deviation of
        CheXzero's training films; bicubic to 224 without smoothing, as torchvision 0.11 resized
        tensors (the version that its requirements name).

        Args:
            pixels: (H, W), float, in [0, 1].

        Returns:
            (1, 224, 224) float32.

        Raises:
            InputError: another shape, or values outside [0, 1].
        """
        gray = Image.fromarray(eight_bits(pixels))
        ratio = SQUARE / max(gray.size)
        small = tuple(max(1, int(side * ratio)) for side in gray.size)  # width, height
        square = Image.new("L", (SQUARE, SQUARE))
        place = ((SQUARE - small[0]) // 2, (SQUARE - small[1]) // 2)
        square.paste(gray.resize(small, Image.Resampling.LANCZOS), place)
        levels = (torch.from_numpy(np.array(square)).float() - MEAN) / DEVIATION
        size = (SIZE.image_side,) * 2
        return functional.interpolate(
            levels[None, None], size=size, mode="bicubic", align_corners=False
        )[0]

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """The softmax over "{name}" and "no {name}": (n, L)."""
        present, absent = (
            self.embed_texts([template.format(concept) for concept in concepts])
            for template in TEMPLATES
        )
        images = self.embed_images(films)
        return torch.sigmoid(images @ present.T - images @ absent.T)

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """Cosines of patches and the concept's name: (n, 7, 7). An extension."""
        patches = self._tokens(films)[:, 1:]
        side = SIZE.image_side // SIZE.patch
        return (patches @ self.embed_texts([concept])[0]).unflatten(1, (side, side))

    @torch.no_grad()
    def embed_images(self, films: Tensor) -> Tensor:
        """(n, 1, 224, 224) to (n, 512) unit vectors."""
        return self._tokens(films)[:, 0]

    def _tokens(self, films: Tensor) -> Tensor:
        """(n, 1, S, S) to (n, 1 + patches, d) unit vectors, the class token's first."""
        images = films.to(self.device).expand(-1, 3, -1, -1)
        return functional.normalize(self.clip.encode_image(images), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to (m, 512) unit vectors; what goes beyond 77 tokens is cut."""
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=SIZE.tokens, return_tensors="pt"
        )
        ids = tokens["input_ids"].to(self.device)
        ends = tokens["attention_mask"].sum(dim=1).to(self.device) - 1
        return functional.normalize(self.clip.encode_text(ids, ends), dim=-1)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte pairs, from the two files that transformers keeps them in."""
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            raise InputError(
                "CLIP's tokenizer is missing",
                "Download vocab.json and merges.txt from "
                "https://huggingface.co/openai/clip-vit-base-patch32.",
                file=folder / name,
            )
        with opened(folder / name):  # no page or pointer in its place
            pass
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # its Rust part raises bare `Exception`
        raise InputError(
            f"not CLIP's vocabulary and merges ({error})", "Download both again.", file=folder
        ) from error
    tokenizer.padding_side = "right"
    return tokenizer
