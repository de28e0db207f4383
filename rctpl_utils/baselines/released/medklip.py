"""MedKLIP (Wu et al., ICCV 2023) and MeDSLIP (Fan et al. 2024) from their released checkpoints.

The texts of 75 entities query the 14 x 14 cells of a ResNet-50's third stage; each answer is
classified as absent or present. Inference of MediaBrain-SJTU/MedKLIP (`test.py` of its two
zero-shot samples): the score is the softmax's probability of "present", the map the attention of
the entity's query, averaged over heads and layers. Here the score is the logit of that probability,
which orders films alike and may be compared between classes.

An entity is asked for by a text that explains it. The texts are the authors'
(`observation explanation.json`) and come with no licence that we found; the file must be provided
beside the checkpoint, which holds no text model either.

The queries attend to each other, so all 75 are asked at once, whatever is wanted. A concept that
is no entity (COVID-19) is asked by its description beside them (`QueryDecoder`): our reading, since
the authors published no code for it. There is no space in which films and sentences meet. For
retrieval, an extension of ours, a film is its 75 logits and a sentence its 75 cosines with the
entities' texts, both about their mean.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from rctpl_utils.baselines.base import CLASSIFY, GROUND
from rctpl_utils.baselines.queries import QueryDecoder
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.checkpoint import (
    FromFiles,
    Layout,
    match_state,
    read_state,
    released_names,
)
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.published import FOLDER, eight_bits
from rctpl_utils.encoders.text_tower import position_ids, untrained_bert
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.text.knowledge import describe
from rctpl_utils.workspace import PACKAGE_DATA

WIDTH, LAYERS, HIDDEN = 256, 4, 1024  # of the decoder; `models/transformer.py`
SIDE = 224  # pixels
CELLS = 14  # along a side
CHANNELS = 1024  # of a ResNet-50's third stage
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's; dataset/dataset.py
TEXTS = "observation explanation.json"
MAX_TOKENS = 64  # Sample_zero-shot_Classification_CXR14/test.py
_DATA = read_json(PACKAGE_DATA / "medklip_entities.json")
ENTITIES = tuple(_DATA["entities"])  # in the order of the checkpoints and of the file of texts
CONCEPT_ENTITIES: Mapping[str, str] = MappingProxyType(_DATA["concepts"])
MISSPELLED = {"eumonia": "pneumonia"}  # as the published file has it


class MedKLIP(FromFiles):
    """Wu et al. (ICCV 2023); the protocol is `ReleasedModel`."""

    name = "MedKLIP"
    published = frozenset({CLASSIFY, GROUND})
    frame = Frame("film")
    weights = released_names("checkpoint_final.pth")

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
        return self.parts_layout(("cl_fc",), "disease_embedding_layer")

    @staticmethod
    def parts_layout(unused: Sequence[str], enter: str, stream: str = "") -> Layout:
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
        return Layout(parts, layers, [rf"{each}\..+" for each in unused])

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """As the authors' `dataset.py` for ChestX-ray14: stretched to 224 x 224, ImageNet's mean.

        (H, W) in [0, 1], else an `InputError`, to (3, 224, 224) float32. For
        RSNA they equalize the histogram first (`dataset_RSNA.py`); here all films are alike.
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
        """Logits (n, Q) and maps (n, Q, 14, 14) of all 75 entities and of concepts beside them.

        A logit is that of "present" less that of "absent".
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
    weights = released_names("MeDSLIP_resnet50.pth")

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds what `EntityTexts` reads."""
        super().__init__(folder)
        self.mask = nn.Linear(CHANNELS, CHANNELS)

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How `MeDSLIP.state_dict` names what the model holds, in whichever of its two ways."""
        ours, other, enter = "pathology", "anatomy", "pathology_embedding_layer"
        if any(name.endswith("disease_embedding_layer.weight") for name in state):
            ours, other, enter = "e", "p", "disease_embedding_layer"
        unused = [  # the other stream, and both projections for the contrast to prototypes
            *(f"{part}_{other}" for part in ("res_l1", "res_l2", "decoder", "classifier")),
            *(f"cl_fc_{stream}" for stream in (ours, other)),
        ]
        return self.parts_layout(unused, enter, f"_{ours}")

    def cells(self, features: Tensor) -> Tensor:
        """The pathologies' share of the cells (n, T, 1024), the same shape."""
        return super().cells(self.mask(features) * features)


def _about_mean(scores: Tensor) -> Tensor:
    return functional.normalize(scores - scores.mean(dim=-1, keepdim=True), dim=-1)


class EntityTexts:
    """Frozen BioClinicalBERT and the 75 texts; `vectors`: the entities', (75, 768), on the CPU.

    A folder holds `observation explanation.json` and `bioclinicalbert/` (`config.json`,
    `vocab.txt`, `pytorch_model.bin` or safetensors).
    """

    def __init__(self, folder: str | Path) -> None:
        """Read and encode a folder's texts; `InputError` where they are not the 75 entities'."""
        self._bert, self._tokenizer = pretrained_bert(Path(folder) / FOLDER)
        self._asked: dict[str, Tensor] = {}
        self.vectors = self.encode(read_entity_texts(Path(folder) / TEXTS))

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts to the last hidden state of [CLS]: (m, 768).

        The sequence is `[CLS] text`, at most 64 tokens, without the [SEP] that BERT expects: so
        the authors' own tokenizer builds it (`models/tokenization_bert.py`).
        """
        words = self._tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=MAX_TOKENS - 1
        )["input_ids"]
        rows = [torch.tensor([self._tokenizer.cls_token_id, *row]) for row in words]
        ids = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=self._tokenizer.pad_token_id
        )
        lengths = torch.tensor([len(row) for row in rows])
        seen = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        return self._bert(input_ids=ids, attention_mask=seen).last_hidden_state[:, 0]

    def of_concept(self, concept: str) -> Tensor:
        """The vector of a concept that is no entity, from our description of it: (768,)."""
        if concept not in self._asked:
            self._asked[concept] = self.encode([describe(concept)])[0]
        return self._asked[concept]


def read_entity_texts(file: Path) -> list[str]:
    """The 75 texts, in the entities' order; an `InputError` where the file is not theirs."""
    if not file.is_file():
        raise InputError(
            "the entities' texts are missing",
            "Download this file from https://github.com/MediaBrain-SJTU/MedKLIP, folder "
            "Sample_zero-shot_Classification_CXR14.",
            file=file,
        )
    try:
        texts = read_json(file)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})", "Download it again.", file=file) from error
    names = [MISSPELLED.get(name, name) for name in texts] if isinstance(texts, dict) else []
    if tuple(names) != ENTITIES or not all(isinstance(each, str) for each in texts.values()):
        differing = [f"{a} for {b}" for a, b in zip(names, ENTITIES, strict=False) if a != b]
        raise InputError(
            f"expected a text for each of the {len(ENTITIES)} entities in the authors' order, got "
            f"{len(names)}{'; first difference: ' + differing[0] if differing else ''}",
            "Download it again.",
            file=file,
        )
    return list(texts.values())


def pretrained_bert(folder: str | Path) -> tuple[nn.Module, Any]:
    """A published BERT and its tokenizer, frozen, from the hub's files in a folder.

    The names in the file begin with "bert."; the heads of pre-training and the pooler are left out.
    """
    bert, tokenizer = untrained_bert(folder)
    # files converted from TensorFlow's call a normalization's weight gamma and its bias beta
    old = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
    state = read_state(folder)
    for before, after in old.items():
        state = {name.replace(before, after): value for name, value in state.items()}
    layout = Layout(
        {"": "bert."},
        unused=(r"cls\..+", r"bert\.pooler\.dense\.(weight|bias)"),
        constants={r"bert\.embeddings\.position_ids": position_ids(bert)},
    )
    bert.load_state_dict(match_state(bert, state, layout, folder))
    return freeze(bert), tokenizer
