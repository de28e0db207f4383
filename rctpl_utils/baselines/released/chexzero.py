"""CheXzero (Tiu et al. 2022) from a released checkpoint: CLIP's ViT-B/32, tuned on impressions.

Inference of rajpurkarlab/CheXzero, `zero_shot.py`: with f the film's unit vector and t+, t- those
of "{name}" and "no {name}",

    score = exp(f . t+) / (exp(f . t+) + exp(f . t-)),

without CLIP's temperature. The authors average it over ten checkpoints; this is one of them.
Retrieval is by the cosines that pre-training compares. Maps are our extension: cosines of the
patches' tokens, projected as the class token is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from rctpl_utils.baselines.base import CLASSIFY, RETRIEVE
from rctpl_utils.encoders.checkpoint import FromFiles, Layout, released_names
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.published import eight_bits
from rctpl_utils.errors import InputError, naming
from rctpl_utils.given_files import opened

TOKENIZER_FILES = ("vocab.json", "merges.txt")  # of openai/clip-vit-base-patch32
TEMPLATES = ("{}", "no {}")
SQUARE = 320  # pixels; data_process.py
MEAN, DEVIATION = 101.48761, 83.43944  # of gray levels 0 to 255; zero_shot.py
HEAD_WIDTH = 64


@dataclass(frozen=True)
class ClipSize:
    """The sizes of a CLIP with a vision transformer; the defaults are those of ViT-B/32."""

    dimension: int = 512  # d of the joint space
    image_side: int = 224  # pixels
    patch: int = 32  # pixels
    vision_width: int = 768
    vision_layers: int = 12
    text_width: int = 512
    text_layers: int = 12
    tokens: int = 77  # of a text, both marks included
    vocabulary: int = 49408


SIZE = ClipSize()


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


def _transformer(width: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, width // HEAD_WIDTH, 4 * width, 0.0, quick_gelu, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class VisionTransformer(nn.Module):
    """Patches and a class token; every token is projected, though CLIP uses the first alone."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        width, cells = size.vision_width, (size.image_side // size.patch) ** 2
        self.conv1 = nn.Conv2d(3, width, size.patch, size.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(cells + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _transformer(width, size.vision_layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, size.dimension))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, S, S) to (n, 1 + patches, d), the class token first, not normalized."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))) @ self.proj


class CLIP(nn.Module):
    """Both transformers (Radford et al. 2021, 2.4 and 2.5); the values are not set."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.visual = VisionTransformer(size)
        self.transformer = _transformer(size.text_width, size.text_layers)
        self.token_embedding = nn.Embedding(size.vocabulary, size.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(size.tokens, size.text_width))
        self.ln_final = nn.LayerNorm(size.text_width)
        self.text_projection = nn.Parameter(torch.empty(size.text_width, size.dimension))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_text(self, ids: Tensor, ends: Tensor) -> Tensor:
        """Token ids (m, T) to (m, d), not normalized: the state of the end mark, at `ends` (m,).

        A token sees only those before it, so that padding behind the end mark changes nothing.
        """
        count = ids.shape[1]
        hidden = torch.full((count, count), -torch.inf, device=ids.device).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:count]
        x = self.ln_final(self.transformer(x, hidden))
        return x[torch.arange(len(ids), device=ids.device), ends] @ self.text_projection


class CheXzero(FromFiles):
    """See the module; the protocol is `ReleasedModel`."""

    name = "CheXzero"
    published = frozenset({CLASSIFY, RETRIEVE})
    frame = Frame("square")
    weights = released_names("best_64_5e-05_original_22000_0.864.pt")

    def __init__(self, folder: str | Path) -> None:
        """A model without values; `folder` holds CLIP's `vocab.json` and `merges.txt`."""
        super().__init__()
        self.clip = CLIP(SIZE)
        self._tokenizer = _tokenizer(Path(folder))

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """What openai/CLIP's `clip/model.py` calls the tensors, where torch's layer says else."""
        return Layout(
            {"clip.": ""},
            {
                ".layers.": ".resblocks.", ".self_attn.": ".attn.", ".linear1.": ".mlp.c_fc.",
                ".linear2.": ".mlp.c_proj.", ".norm1.": ".ln_1.", ".norm2.": ".ln_2.",
            },
        )  # fmt: skip

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """As `data_process.py` and `zero_shot.py`: 320 pixels, standardized, then 224.

        The longer side becomes 320 (Lanczos, 8 bits), the rest is black; the mean and deviation of
        CheXzero's training films; bicubic to 224 without smoothing, as torchvision 0.11 resized
        tensors (the version that its requirements name). Pixels (H, W), float, in [0, 1], else an
        `InputError`; to (1, 224, 224) float32.
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
        return functional.normalize(self.clip.visual(images), dim=-1)

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
    with naming(folder, "not CLIP's vocabulary and merges", "Download both again."):
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    return tokenizer
