"""MedKLIP (Wu et al., ICCV 2023) and MeDSLIP (Fan et al. 2024) from their released checkpoints.

The texts of 75 entities query the 14 x 14 cells of a ResNet-50's third stage; each answer is
classified as absent or present. Inference of MediaBrain-SJTU/MedKLIP (`test.py` of its two
zero-shot samples): the score is the softmax's probability of "present", the map the attention of
the entity's query, averaged over heads and layers. Here the score is the logit of that probability,
which orders films alike and may be compared between classes.

The queries attend to each other, so all 75 are asked at once, whatever is wanted. A concept that
is no entity (COVID-19) is asked by its description beside them (`QueryDecoder`): our reading, since
the authors published no code for it. There is no space in which films and sentences meet. For
retrieval, an extension of ours, a film is its 75 logits and a sentence its 75 cosines with the
entities' texts, both about their mean.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from rctpl_utils.baselines.base import CLASSIFY, GROUND
from rctpl_utils.baselines.queries import QueryDecoder
from rctpl_utils.baselines.released.base import FromCheckpoint, eight_bits, renamed
from rctpl_utils.baselines.released.entities import CONCEPT_ENTITIES, ENTITIES, EntityTexts
from rctpl_utils.encoders.checkpoint import Layout
from rctpl_utils.encoders.frame import Frame

WIDTH, LAYERS, HIDDEN = 256, 4, 1024  # of the decoder; `models/transformer.py`
SIDE = 224  # pixels
CELLS = 14  # along a side
CHANNELS = 1024  # of a ResNet-50's third stage
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's; dataset/dataset.py


class MedKLIP(FromCheckpoint):
    """Wu et al. (ICCV 2023); the protocol is `ReleasedModel`."""

    name = "MedKLIP"
    published = frozenset({CLASSIFY, GROUND})
    frame = Frame("film")
    weights = "checkpoint_final.pth"

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds what `EntityTexts` reads."""
        super().__init__()
        self.trunk = nn.Sequential(*list(resnet50(weights=None).children())[:-3])
        self.wide = nn.Linear(CHANNELS, CHANNELS)
        self.enter = nn.Linear(768, WIDTH)
        self.decoder = QueryDecoder(CHANNELS, WIDTH, LAYERS, HIDDEN)
        self.exist = nn.Linear(WIDTH, 2)  # absent, present
        self.texts = EntityTexts(folder)

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How `MedKLIP.state_dict` names what the model holds (`models/model_MedKLIP.py`)."""
        # the projection of answers to the texts of places: for the loss only
        return _layout(("cl_fc",), "disease_embedding_layer")

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
        """The backbone's cells (n, T, 1024) before the decoder narrows them, the same shape."""
        return functional.relu(self.wide(features))

    def ask(self, films: Tensor, unseen: Sequence[str] = ()) -> tuple[Tensor, Tensor]:
        """All 75 entities, and concepts beside them: logits (n, Q) and maps (n, Q, 14, 14).

        A logit is that of "present" minus that of "absent".
        """
        added = [self.texts.of_concept(concept)[None] for concept in unseen]
        vectors = torch.cat([self.texts.vectors, *added]).to(self.device)
        features = self.trunk(films.to(self.device)).flatten(2).transpose(1, 2)
        answers, attention = self.decoder(self.enter(vectors), self.cells(features), len(ENTITIES))
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


def _layout(unused: Sequence[str], enter: str, stream: str = "") -> Layout:
    """Names of a file whose parts have the suffix `stream`; `enter` is where texts come in."""
    parts = {
        "trunk": "res_features",
        "mask": "mask_generator",
        "wide": f"res_l1{stream}",
        "enter": enter,
        "decoder.narrow": f"res_l2{stream}",
        "decoder": f"decoder{stream}",
        "exist": f"classifier{stream}",
    }
    layers = {
        ".among.": ".self_attn.", ".across.": ".multihead_attn.", ".forth.0.": ".linear1.",
        ".forth.2.": ".linear2.", ".norms.0.": ".norm1.", ".norms.1.": ".norm2.",
        ".norms.2.": ".norm3.",
    }  # fmt: skip
    return renamed(parts, layers, unused=[rf"{each}\..+" for each in unused])


def _about_mean(scores: Tensor) -> Tensor:
    return functional.normalize(scores - scores.mean(dim=-1, keepdim=True), dim=-1)


# stream of pathologies, that of anatomy, the layer that texts enter by
NEWER = ("pathology", "anatomy", "pathology_embedding_layer")
OLDER = ("e", "p", "disease_embedding_layer")


class MeDSLIP(MedKLIP):
    """MedKLIP with two streams (`models/model_MeDSLIP.py` of Shef-AIRE/MeDSLIP).

    A learned mask m, linear in the cell x and not bounded, divides it: m x goes to the stream of
    pathologies, (1 - m) x to that of anatomy. Scores and maps are those of the pathologies' stream;
    the other, which only pre-training uses, is not built. The authors' sample of grounding leaves
    the mask out; their classification and pre-training are followed here. The streams are called
    "e" and "p" in older files, "pathology" and "anatomy" in newer ones; both are read, since the
    released file was not at hand.
    """

    name = "MeDSLIP"
    weights = "MeDSLIP_resnet50.pth"

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds what `EntityTexts` reads."""
        super().__init__(folder)
        self.mask = nn.Linear(CHANNELS, CHANNELS)

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How `MeDSLIP.state_dict` names what the model holds, in whichever of its two ways."""
        older = any(name.endswith(f"{OLDER[2]}.weight") for name in state)
        pathology, anatomy, enter = OLDER if older else NEWER
        unused = [  # the other stream, and both projections for the contrast to prototypes
            *(f"{part}_{anatomy}" for part in ("res_l1", "res_l2", "decoder", "classifier")),
            *(f"cl_fc_{stream}" for stream in (pathology, anatomy)),
        ]
        return _layout(unused, enter, f"_{pathology}")

    def cells(self, features: Tensor) -> Tensor:
        """The pathologies' share of the cells (n, T, 1024), the same shape."""
        return super().cells(self.mask(features) * features)
