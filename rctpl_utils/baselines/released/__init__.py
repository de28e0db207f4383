"""The baselines' released checkpoints, at their published architecture and preprocessing.

Nothing is downloaded: a user puts the files of a model below `<data root>/weights/<name>/`, and
`load_released` gives the model behind `ReleasedModel`. docs/baselines.md says where each file comes
from, what its licence is, and what was and was not proven about each loader.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from rctpl_utils.baselines.released.adapters import (
    ReleasedBioViL,
    ReleasedMedCLIP,
    ReleasedModel,
)
from rctpl_utils.baselines.released.chexzero import TOKENIZER_FILES, CheXzero
from rctpl_utils.baselines.released.gloria import GLoRIA
from rctpl_utils.baselines.released.medklip import TEXTS, MedKLIP, MeDSLIP
from rctpl_utils.encoders.published import IMAGE_WEIGHTS
from rctpl_utils.errors import InputError

__all__ = ["NO_PUBLIC_WEIGHTS", "PUBLIC", "ReleasedModel", "is_provided", "load_released"]

_BERT = ("bioclinicalbert/config.json", "bioclinicalbert/vocab.txt")
_BERT_WEIGHTS = (*_BERT, "bioclinicalbert/pytorch_model.bin")


class Public(NamedTuple):
    """A released checkpoint: what reads it, its files (the checkpoint first), their source.

    Safetensors of the same names do, where docs/baselines.md says so.
    """

    model: type
    files: tuple[str, ...]
    source: str


PUBLIC: Mapping[str, Public] = MappingProxyType({
    "GLoRIA": Public(
        GLoRIA, (GLoRIA.weights[0], *_BERT),
        "https://stanfordmedicine.box.com/s/j5h7q99f3pfi7enc0dom73m4nsm6yzvh",
    ),
    "MedCLIP-ViT": Public(
        ReleasedMedCLIP, ("pytorch_model.bin", *_BERT), "https://github.com/RyanWangZf/MedCLIP"
    ),
    "BioViL": Public(
        ReleasedBioViL, (IMAGE_WEIGHTS[0], "pytorch_model.bin", "config.json", "vocab.txt"),
        "https://huggingface.co/microsoft/BiomedVLP-CXR-BERT-specialized",
    ),
    "CheXzero": Public(
        CheXzero, (CheXzero.weights[0], *TOKENIZER_FILES),
        "https://drive.google.com/drive/folders/1makFLiEMbSleYltaRxw81aBhEDMpVwno",
    ),
    "MedKLIP": Public(
        MedKLIP, (MedKLIP.weights[0], TEXTS, *_BERT_WEIGHTS),
        "https://drive.google.com/drive/folders/1HBShH7J_pO8onkzuweDgDq2QPqj6zjG_",
    ),
    "MeDSLIP": Public(
        MeDSLIP, (MeDSLIP.weights[0], TEXTS, *_BERT_WEIGHTS),
        "https://huggingface.co/pykale/MeDSLIP",
    ),
})  # fmt: skip
NO_PUBLIC_WEIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "ConVIRT": "no public weights: its authors released none",
        "MedPrompt-ViT": "no public weights: neither code nor weights were released",
    }
)


def weights_folder(name: str, data_root: str | Path) -> Path:
    """Where a model's files are looked for; an `InputError` tells why a model has none."""
    if name not in PUBLIC:
        why = NO_PUBLIC_WEIGHTS.get(name)
        problem = f"{name}: {why}" if why else f"there is no released model {name!r}"
        raise InputError(problem, f"Choose one of: {', '.join(PUBLIC)}.")
    return Path(data_root) / "weights" / name.lower()


def is_provided(name: str, data_root: str | Path) -> bool:
    """Whether the user has put a folder for this model there: its row is then to be filled."""
    return weights_folder(name, data_root).is_dir()


def load_released(
    name: str, data_root: str | Path, device: str | torch.device = "cpu"
) -> ReleasedModel:
    """A released model, one of `PUBLIC`, frozen and ready.

    An `InputError` tells of no such model or no public weights; of no folder (it lists the files
    and their source); of files that are absent, damaged, or of another model.
    """
    folder, public = weights_folder(name, data_root), PUBLIC[name]
    if not folder.is_dir():
        raise InputError(
            f"{name}'s weights are not there",
            f"Put {', '.join(public.files)} into this folder; source: {public.source}.",
            file=folder,
        )
    return public.model.load(folder, device)
