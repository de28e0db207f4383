"""The baselines' released checkpoints, at their published architecture and preprocessing.

Nothing is downloaded: a user puts the files of a model below `<data root>/weights/<folder>/`, and
`load_released` gives the model behind `base.ReleasedModel`. docs/baselines.md says where each file
comes from, what its licence is, and what was and was not proven about each loader.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from rctpl_utils.baselines.released.adapters import ReleasedBioViL, ReleasedMedCLIP
from rctpl_utils.baselines.released.base import ReleasedModel
from rctpl_utils.baselines.released.chexzero import TOKENIZER_FILES, CheXzero
from rctpl_utils.baselines.released.entities import TEXTS
from rctpl_utils.baselines.released.gloria import GLoRIA
from rctpl_utils.baselines.released.medklip import MedKLIP, MeDSLIP
from rctpl_utils.encoders.biovil import IMAGE_WEIGHTS
from rctpl_utils.errors import InputError

__all__ = ["NO_PUBLIC_WEIGHTS", "PUBLIC", "ReleasedModel", "is_provided", "load_released"]

WEIGHTS = "weights"
_BERT = ("bioclinicalbert/config.json", "bioclinicalbert/vocab.txt")
_BERT_WEIGHTS = (*_BERT, "bioclinicalbert/pytorch_model.bin")


@dataclass(frozen=True)
class Public:
    """A released checkpoint and its source.

    `files` are what the user puts into `folder` below `<data root>/weights/`, the checkpoint first
    (safetensors of the same names do, where docs/baselines.md says so); `load` makes the model from
    that folder and a device.
    """

    folder: str
    files: tuple[str, ...]
    load: Callable[..., ReleasedModel]
    source: str


PUBLIC: Mapping[str, Public] = MappingProxyType({
    "GLoRIA": Public(
        "gloria", (GLoRIA.weights, *_BERT), GLoRIA.load,
        "https://stanfordmedicine.box.com/s/j5h7q99f3pfi7enc0dom73m4nsm6yzvh",
    ),
    "MedCLIP-ViT": Public(
        "medclip-vit", ("pytorch_model.bin", *_BERT), ReleasedMedCLIP.load,
        "https://github.com/RyanWangZf/MedCLIP",
    ),
    "BioViL": Public(
        "biovil", (IMAGE_WEIGHTS[0], "pytorch_model.bin", "config.json", "vocab.txt"),
        ReleasedBioViL.load, "https://huggingface.co/microsoft/BiomedVLP-CXR-BERT-specialized",
    ),
    "CheXzero": Public(
        "chexzero", (CheXzero.weights, *TOKENIZER_FILES), CheXzero.load,
        "https://drive.google.com/drive/folders/1makFLiEMbSleYltaRxw81aBhEDMpVwno",
    ),
    "MedKLIP": Public(
        "medklip", (MedKLIP.weights, TEXTS, *_BERT_WEIGHTS), MedKLIP.load,
        "https://drive.google.com/drive/folders/1HBShH7J_pO8onkzuweDgDq2QPqj6zjG_",
    ),
    "MeDSLIP": Public(
        "medslip", (MeDSLIP.weights, TEXTS, *_BERT_WEIGHTS), MeDSLIP.load,
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
    return Path(data_root) / WEIGHTS / PUBLIC[name].folder


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
    folder = weights_folder(name, data_root)
    if not folder.is_dir():
        public = PUBLIC[name]
        raise InputError(
            f"{name}'s weights are not there",
            f"Put {', '.join(public.files)} into this folder; source: {public.source}.",
            file=folder,
        )
    return PUBLIC[name].load(folder, device)
