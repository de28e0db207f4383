"""CLIP's two transformers (Radford et al. 2021, 2.4 and 2.5), named as in its released files.

The names and the few facts that the paper leaves open (the sigmoid form of GELU, normalization
before each part, a patch convolution without bias) are those of openai/CLIP, `clip/model.py`.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Self-attention and two linear layers, each after a normalization and beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        wide = OrderedDict(
            c_fc=nn.Linear(width, 4 * width),
            gelu=QuickGELU(),
            c_proj=nn.Linear(4 * width, width),
        )
        self.mlp = nn.Sequential(wide)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(n, T, width) to the same; `mask` (T, T) is added to the attention's logits."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Blocks in a row."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(n, T, width) to the same."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    """Patches and a class token; every token is projected, though CLIP uses the first alone."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        width, cells = size.vision_width, (size.image_side // size.patch) ** 2
        self.conv1 = nn.Conv2d(3, width, size.patch, size.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(cells + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, size.vision_layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, size.dimension))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, S, S) to (n, 1 + patches, d), the class token first."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(images), 1, -1)
        x = torch.cat([first, patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))) @ self.proj


class CLIP(nn.Module):
    """Both towers, with the names of `CLIP.state_dict`; the values are not set."""

    def __init__(self, size: ClipSize) -> None:
        super().__init__()
        self.visual = VisionTransformer(size)
        self.transformer = Transformer(size.text_width, size.text_layers)
        self.token_embedding = nn.Embedding(size.vocabulary, size.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(size.tokens, size.text_width))
        self.ln_final = nn.LayerNorm(size.text_width)
        self.text_projection = nn.Parameter(torch.empty(size.text_width, size.dimension))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, images: Tensor) -> Tensor:
        """(n, 3, S, S) to (n, 1 + patches, d), not normalized."""
        return self.visual(images)

    def encode_text(self, ids: Tensor, ends: Tensor) -> Tensor:
        """Token ids (m, T) to (m, d), not normalized: the state of the end mark, at `ends` (m,).

        A token sees only those before it, so that padding behind the end mark changes nothing.
        """
        count = ids.shape[1]
        hidden = torch.full((count, count), -torch.inf, device=ids.device).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[:count]
        x = self.ln_final(self.transformer(x, hidden))
        return x[torch.arange(len(ids), device=ids.device), ends] @ self.text_projection
