"""MedCLIP's text tower: BioClinicalBERT, three hidden states averaged, a linear projection.

MedCLIP averages the hidden states 1, 2 and last over all tokens of the padded batch, so that a
text's vector there depends on the longest text beside it (`MedCLIPTextModel.forward` of the package
`medclip`, 0.0.3). Here padding takes no part: the vector is MedCLIP's own for a text alone or among
texts of its length, and does not depend on the batch.
"""

from pathlib import Path

from torch import nn
from transformers.utils import cached_file

from rctpl_utils.encoders.text_tower import TEXT_FILES, TextTower, untrained_bert
from rctpl_utils.errors import InputError

BASE = "emilyalsentzer/Bio_ClinicalBERT"  # Alsentzer et al. 2019; `BERT_TYPE` in medclip/constants
FOLDER = "bioclinicalbert"
LAYERS = (1, 2, -1)


def medclip_text_tower(folder: str | Path, dimension: int) -> TextTower:
    """The tower with random weights, from the base model's configuration and vocabulary.

    Raises:
        InputError: a file of the base model that is absent or damaged.
    """
    bert, tokenizer = untrained_bert(folder)
    projection = nn.Linear(bert.config.hidden_size, dimension, bias=False)
    return TextTower(bert, tokenizer, projection, layers=LAYERS)


def find_base_model(checkpoint: str | Path) -> Path:
    """The folder of the base model's `config.json` and `vocab.txt`; nothing is downloaded.

    It is `bioclinicalbert/` beside the checkpoint (inside it, if that is a folder), or else the
    copy in the cache that transformers keeps of the hub.

    Raises:
        InputError: neither is there; the message says what to download and where to put it.
    """
    checkpoint = Path(checkpoint)
    beside = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / FOLDER
    if beside.is_dir():
        return beside
    cached = [_cached(name) for name in TEXT_FILES]
    if None not in cached:
        return cached[0].parent
    raise InputError(
        "MedCLIP's checkpoint does not hold its text model's configuration and vocabulary",
        f"Download {' and '.join(TEXT_FILES)} from https://huggingface.co/{BASE} into this folder.",
        file=beside,
    )


def _cached(name: str) -> Path | None:
    try:
        return Path(cached_file(BASE, name, local_files_only=True))
    except OSError:  # what transformers raises for a file that is not in its cache
        return None
