"""What the baselines train: small image and text models on frozen features, the same for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.training_data import Batch, Material, all_cells
from rctpl_utils.encoders.features import Words
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.vocabulary import prompt_name

WIDTH = 192  # of an image model's cells
HEADS = 4
DIMENSION = 128  # d of a joint space, the stand-in's
PHRASES = ("{}", "there is {}", "findings are consistent with {}")  # ours, the same for all
KEPT = 256  # batches of texts that are remembered

_kept: dict[tuple[str, tuple[str, ...]], Words] = {}


class Reader:
    """The frozen text model at test time; all models and seeds share what it has read last."""

    def __init__(self, tower: TextTower) -> None:
        self.tower = tower

    @property
    def vocabulary(self) -> int:
        """How many tokens the text model knows."""
        return self.tower.bert.config.vocab_size

    @torch.no_grad()
    def words(self, texts: Sequence[str]) -> Words:
        """Word states of some texts, in one batch."""
        key = self.tower.bert_key, tuple(texts)
        if key not in _kept:
            if len(_kept) == KEPT:
                _kept.pop(next(iter(_kept)))  # the oldest
            tokens = self.tower.tokenize(texts)
            states = self.tower.bert(**tokens).last_hidden_state
            _kept[key] = Words(states, tokens["attention_mask"].bool(), tokens["input_ids"])
        return _kept[key]


@dataclass(frozen=True)
class Setup:
    """What a baseline is built from."""

    channels: int  # c, of the frozen backbone's maps
    grid: tuple[int, int]  # (h, w), theirs
    mean: Tensor  # (W,), of the training reports' pooled word states
    deviation: Tensor  # (W,), theirs
    reader: Reader  # the frozen text model
    concepts: tuple[str, ...]  # the L names that supervision uses
    places: tuple[str, ...]  # the P names

    @classmethod
    def of(cls, material: Material, reader: Reader) -> "Setup":
        """From the training material."""
        pooled = material.words.batch(material.whole, torch.device("cpu")).pooled()
        mean, deviation = pooled.mean(dim=0), pooled.std(dim=0).clamp_min(1e-3)
        grid, channels = material.maps.shape[1:3], material.maps.shape[3]
        return cls(channels, grid, mean, deviation, reader, material.concepts, material.places)


class ConvTop(nn.Module):
    """Two 1 x 1 convolutions on the backbone's cells: the ResNet kind of image model."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(setup.channels),
            nn.Linear(setup.channels, WIDTH),
            nn.ReLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
        )

    def forward(self, cells: Tensor, places: Tensor) -> Tensor:
        """Cells (B, T, c) to (B, T, WIDTH)."""
        return self.body(cells)


class PatchTransformer(nn.Module):
    """Two transformer layers over the cells and a class token: the ViT kind (a hybrid)."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        (height, width), channels, half = setup.grid, setup.channels, WIDTH // 2
        self.enter = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, half))
        self.position = nn.Parameter(0.02 * torch.randn(height * width, half))
        self.first = nn.Parameter(0.02 * torch.randn(half))
        how = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(half, HEADS, WIDTH, **how)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.leave = nn.Sequential(nn.LayerNorm(half), nn.Linear(half, WIDTH))

    def forward(self, cells: Tensor, places: Tensor) -> Tensor:
        """Cells (B, T, c) to (B, 1 + T, WIDTH), the class token first."""
        tokens = self.enter(cells) + self.position[places]
        first = self.first.expand(len(tokens), 1, -1)
        return self.leave(self.layers(torch.cat([first, tokens], dim=1)))


class TextTop(nn.Module):
    """A residual layer on standardized states of the frozen text model, then a projection."""

    def __init__(self, setup: Setup, dimension: int = DIMENSION) -> None:
        super().__init__()
        self.register_buffer("mean", setup.mean)
        self.register_buffer("deviation", setup.deviation)
        width, half = len(setup.mean), len(setup.mean) // 2
        self.adapter = nn.Sequential(nn.Linear(width, half), nn.GELU(), nn.Linear(half, width))
        self.projection = nn.Linear(width, dimension, bias=False)

    def adapt(self, states: Tensor) -> Tensor:
        """States (..., W) to (..., W)."""
        states = (states - self.mean) / self.deviation
        return states + self.adapter(states)

    def forward(self, states: Tensor) -> Tensor:
        """Pooled states or words (..., W) to (..., d)."""
        return self.projection(self.adapt(states))


class Baseline(nn.Module):
    """A method: what it trains, its loss, its inference (`base.ZeroShotModel` over maps).

    Subclasses define `loss` and what differs from a dual encoder with cosine scores.
    """

    name: str
    published: frozenset[str]
    training_only: tuple[str, ...] = ()  # how names of layers begin that inference does not need

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())  # CLIP's start

    @property
    def scale(self) -> Tensor:
        """The learned inverse temperature, at most 100 (CLIP; Radford et al. 2021, 2.5)."""
        return self.logit_scale.exp().clamp(max=100)

    def loss(self, batch: Batch) -> Tensor:
        """The method's objective on a batch of views, a scalar."""
        raise NotImplementedError

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, T, c) to unit vectors: global (B, d), local (B, T, d)."""
        raise NotImplementedError

    def text_vectors(self, words: Words) -> Tensor:
        """Texts to unit vectors, here of the projected mean word: (B, d)."""
        return unit(self.text(words.pooled()))

    def film_vectors(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Whole films, as maps (n, h, w, c), to unit vectors: (n, d), (n, h * w, d)."""
        return self.image_vectors(*all_cells(films))

    def class_vectors(self, concepts: Sequence[str]) -> Tensor:
        """One unit vector a class: the mean over `PHRASES` (Radford et al. 2021, 3.1.4): (L, d)."""
        each = [self.text_vectors(self.read_names(concepts, phrase)) for phrase in PHRASES]
        return unit(torch.stack(each).mean(dim=0))

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Cosines of films, as maps (n, h, w, c), and classes: (n, L)."""
        return self.film_vectors(films)[0] @ self.class_vectors(concepts).T

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The cosine of each cell and the class: (n, h, w)."""
        local = self.film_vectors(films)[1]
        return (local @ self.class_vectors([concept])[0]).reshape(films.shape[:3])

    @torch.no_grad()
    def embed_images(self, films: Tensor) -> Tensor:
        """Global vectors: (n, d)."""
        return self.film_vectors(films)[0]

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Text vectors: (m, d)."""
        return self.text_vectors(self.read(texts))

    def read(self, texts: Sequence[str]) -> Words:
        """Word states of the frozen text model, on this model's device."""
        words = self.setup.reader.words(texts)
        return Words(*(each.to(self.logit_scale.device) for each in words))

    def read_names(self, concepts: Sequence[str], phrase: str = "{}") -> Words:
        """`read` of the concepts' prompt names in a phrase."""
        return self.read([phrase.format(prompt_name(each)) for each in concepts])


class TransformerBaseline(Baseline):
    """A method whose image model is a `PatchTransformer`; its vector is the class token's."""

    head = "projection"  # the image head's name in files of weights

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = PatchTransformer(setup)
        setattr(self, self.head, nn.Linear(WIDTH, DIMENSION, bias=False))
        self.text = TextTop(setup)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The projected class token (B, d) and patches (B, T, d)."""
        tokens = unit(getattr(self, self.head)(self.image(cells, places)))
        return tokens[:, 0], tokens[:, 1:]

    def film_vectors(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """A whole film as four views of a quarter of its cells, each like those of `draw_batch`.

        Attention was learned among so many cells; among four times as many it would be another
        function, and a dearer one. The film's vector is the mean of its views'.
        """
        count, height, width, _ = films.shape
        numbers = torch.arange(height * width, device=films.device)
        numbers = numbers.reshape(height // 2, 2, width // 2, 2).permute(1, 3, 0, 2).reshape(4, -1)
        cells = films.flatten(1, 2).float()[:, numbers].flatten(0, 1)
        whole, local = self.image_vectors(cells, numbers.repeat(count, 1))
        whole = unit(whole.unflatten(0, (-1, 4)).mean(dim=1))
        order = numbers.flatten().argsort()
        return whole, local.unflatten(0, (-1, 4)).flatten(1, 2)[:, order]


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., d) of length one."""
    return functional.normalize(vectors, dim=-1)


def symmetric_loss(logits: Tensor, by_image: float = 0.5) -> Tensor:
    """InfoNCE in both directions, weighted, for B matching pairs on the diagonal of (B, B)."""
    target = torch.arange(len(logits), device=logits.device)
    forth = functional.cross_entropy(logits, target)
    back = functional.cross_entropy(logits.T, target)
    return by_image * forth + (1 - by_image) * back
