"""MedKLIP (Wu et al., ICCV 2023) from its released checkpoint.

The texts of 75 entities query the 14 x 14 cells of a ResNet-50's third stage; each answer is
classified as absent or present. Inference of MediaBrain-SJTU/MedKLIP (`test.py` of its two
zero-shot samples): the score is the softmax's probability of "present", the map the attention of
the entity's query, averaged over heads and layers. Here the score is the logit of that probability,
which orders films alike (AUC and every threshold chosen on them stay as they are) and may be
compared between classes.

The queries attend to each other, so all 75 are asked at once, whatever is wanted. A concept that
is no entity (COVID-19) is asked by its description beside them (`QueryDecoder`). The authors
published no code for such a concept: this is our reading.

The method has no space in which films and sentences meet. For retrieval, an extension of ours, a
film is its 75 logits and a sentence its 75 cosines with the entities' texts, both about their mean.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from rctpl_utils.baselines.base import CLASSIFY, GROUND
from rctpl_utils.baselines.released.base import eight_bits
from rctpl_utils.baselines.released.checkpoints import load_matched, released_names
from rctpl_utils.baselines.released.entities import CONCEPT_ENTITIES, ENTITIES, EntityTexts
from rctpl_utils.baselines.released.query_decoder import WIDTH, QueryDecoder
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import Layout
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.weight_files import read_state

WEIGHTS = "checkpoint_final.pth"
SIDE = 224  # pixels
CELLS = 14  # along a side
CHANNELS = 1024  # of a ResNet-50's third stage
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's; dataset/dataset.py


class MedKLIP(nn.Module):
    """See the module; the protocol is `released.base.ReleasedModel`."""

    name = "MedKLIP"
    native = frozenset({CLASSIFY, GROUND})
    frame = Frame("film")
    sharpness = 1.0  # scores are logits
    weights = WEIGHTS

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds what `EntityTexts` reads."""
        super().__init__()
        self.trunk = nn.Sequential(*list(resnet50(weights=None).children())[:-3])
        self.wide = nn.Linear(CHANNELS, CHANNELS)
        self.narrow = nn.Linear(CHANNELS, WIDTH)
        self.enter = nn.Linear(768, WIDTH)
        self.decoder = QueryDecoder()
        self.exist = nn.Linear(WIDTH, 2)  # absent, present
        self.texts = EntityTexts(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "MedKLIP":
        """Read the checkpoint (`weights`) in a folder that also holds what `EntityTexts` reads.

        Raises:
            InputError: absent or damaged files, missing or unexpected names (listed).
        """
        model = cls(folder)
        state = read_state(folder, released_names(cls.weights))
        load_matched(model, state, cls.layout(state), folder)
        return freeze(model).to(device)

    @classmethod
    def layout(cls, state: dict[str, Tensor]) -> Layout:
        """How `MedKLIP.state_dict` names what the model holds (`models/model_MedKLIP.py`)."""
        names = {
            "trunk": "res_features",
            "wide": "res_l1",
            "narrow": "res_l2",
            "enter": "disease_embedding_layer",
            "decoder": "decoder",
            "exist": "classifier",
        }
        # the projection of answers to the texts of places: for the loss only
        return renamed(names, (r"cl_fc\.(weight|bias)",))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.exist.weight.device

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """As the authors' `dataset.py` for ChestX-ray14: stretched to 224 x 224, ImageNet's mean.

        For RSNA they equalize the histogram first (`dataset_RSNA.py`); here all films are alike.
        Pixels (H, W), float, in [0, 1], else an `InputError`; to (3, 224, 224) float32.
        """
        gray = Image.fromarray(eight_bits(pixels))
        small = gray.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        levels = torch.from_numpy(np.array(small)).float() / 255
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, DEVIATION))
        return (levels - mean) / deviation

    def cells(self, features: Tensor) -> Tensor:
        """The trunk's cells (n, T, 1024) as the decoder sees them (n, T, 256)."""
        return self.narrow(functional.relu(self.wide(features)))

    def look(self, films: Tensor) -> Tensor:
        """Films (n, 3, 224, 224) as cells for the decoder: (n, 196, 256)."""
        return self.cells(self.trunk(films.to(self.device)).flatten(2).transpose(1, 2))

    def ask(self, films: Tensor, unseen: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
        """All 75 entities, and concepts beside them: logits (n, Q) and maps (n, Q, 14, 14).

        A logit is that of "present" minus that of "absent".
        """
        added = [self.texts.of_concept(concept)[None] for concept in unseen]
        vectors = torch.cat([self.texts.vectors, *added]).to(self.device)
        features = self.trunk(films.to(self.device)).flatten(2).transpose(1, 2)
        queries = self.enter(vectors).expand(len(films), -1, -1)
        answers, attention = self.decoder(queries, self.cells(features), len(ENTITIES))
        absent, present = self.exist(answers).unbind(dim=-1)
        return present - absent, attention.unflatten(2, (CELLS, CELLS))

    def _ask_for(self, films: Tensor, concepts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Logits (n, L) and maps (n, L, 14, 14) of concepts."""
        unseen = [each for each in dict.fromkeys(concepts) if each not in CONCEPT_ENTITIES]
        names = (*ENTITIES, *unseen)
        rows = [names.index(CONCEPT_ENTITIES.get(concept, concept)) for concept in concepts]
        logits, maps = self.ask(films, unseen)
        return logits[:, rows], maps[:, rows]

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """The logit of each concept's presence: (n, L)."""
        return self._ask_for(films, concepts)[0]

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The attention of the concept's query: (n, 14, 14), each summing to one."""
        return self._ask_for(films, [concept])[1][:, 0]

    @torch.no_grad()
    def embed_images(self, films: Tensor) -> Tensor:
        """The 75 logits about their mean: (n, 75) unit vectors. An extension."""
        return _about_mean(self.ask(films)[0])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Cosines with the entities' texts about their mean: (m, 75) unit vectors. An extension.

        BioClinicalBERT's vectors all point one way; the entities' mean is taken off first.
        """
        middle = self.texts.vectors.mean(dim=0)
        entities, given = (
            functional.normalize(each - middle, dim=-1)
            for each in (self.texts.vectors, self.texts.encode(texts))
        )
        return _about_mean(given @ entities.T).to(self.device)


def renamed(names: dict[str, str], unused: Sequence[str]) -> Layout:
    """A layout that renames the first part of each name."""

    def released(name: str) -> str:
        own, rest = name.split(".", 1)
        return f"{names[own]}.{rest}"

    return Layout(released, unused=tuple(unused))


def _about_mean(scores: Tensor) -> Tensor:
    return functional.normalize(scores - scores.mean(dim=-1, keepdim=True), dim=-1)
