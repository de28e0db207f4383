"""MedKLIP's 75 entities: their names, what of ours they stand for, their texts as vectors.

An entity is asked for by a text that explains it. The texts are the authors'
(`observation explanation.json` of MediaBrain-SJTU/MedKLIP and of MeDSLIP) and come with no licence
that we found; the file must be provided beside the checkpoint, which holds no text model either.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from rctpl_utils.baselines.released.base import pretrained_bert
from rctpl_utils.encoders.medclip import FOLDER
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.text.knowledge import describe

TEXTS = "observation explanation.json"
MAX_TOKENS = 64  # Sample_zero-shot_Classification_CXR14/test.py

# In the checkpoints' order; the file of texts has the same.
ENTITIES = (
    "normal", "clear", "sharp", "sharply", "unremarkable", "intact", "stable", "free", "effusion",
    "opacity", "pneumothorax", "edema", "atelectasis", "tube", "consolidation", "process",
    "abnormality", "enlarge", "tip", "low", "pneumonia", "line", "congestion", "catheter",
    "cardiomegaly", "fracture", "air", "tortuous", "lead", "disease", "calcification",
    "prominence", "device", "engorgement", "picc", "clip", "elevation", "expand", "nodule",
    "wire", "fluid", "degenerative", "pacemaker", "thicken", "marking", "scar", "hyperinflate",
    "blunt", "loss", "widen", "collapse", "density", "emphysema", "aerate", "mass", "crowd",
    "infiltrate", "obscure", "deformity", "hernia", "drainage", "distention", "shift", "stent",
    "pressure", "lesion", "finding", "borderline", "hardware", "dilation", "chf",
    "redistribution", "aspiration", "tail_abnorm_obs", "excluded_obs",
)  # fmt: skip
MISSPELLED = {"eumonia": "pneumonia"}  # as the published file has it

# Which entity scores a concept. The fourteen of ChestX-ray14 are the authors' (test.py, as above;
# fibrosis is so rare in MIMIC-CXR that they ask for "rare diseases"); those for enlarged
# cardiomediastinum, opacity, lesion, fracture, devices and no finding are ours.
CONCEPT_ENTITIES: Mapping[str, str] = MappingProxyType(
    {
        name: name.lower()
        for name in (
            "Atelectasis", "Cardiomegaly", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
            "Consolidation", "Edema", "Emphysema", "Hernia", "Fracture",
        )
    }
    | {
        "Pleural Effusion": "effusion", "Infiltration": "infiltrate",
        "Fibrosis": "tail_abnorm_obs", "Pleural Thickening": "thicken",
        "Enlarged Cardiomediastinum": "enlarge", "Lung Opacity": "opacity",
        "Lung Lesion": "lesion", "Support Devices": "device", "No Finding": "normal",
    }
)  # fmt: skip


class EntityTexts:
    """Frozen BioClinicalBERT and the 75 texts; `vectors`: the entities', (75, 768), on the CPU."""

    def __init__(self, folder: str | Path) -> None:
        """Read and encode the texts.

        The folder holds `observation explanation.json` and `bioclinicalbert/` (`config.json`,
        `vocab.txt`, `pytorch_model.bin`); an `InputError` tells of files that are absent, damaged
        or not these 75 entities'.
        """
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
