"""The data of the book's explorable page: some simulated films with what four methods see on them.

`films.webp` has the films side by side, `films.json` the rest. The page computes Eq. 8, Dice and
the pointing game itself; `tests/test_explorer.py` holds its functions against this package's.
"""

import json
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.features import image_features, text_features
from rctpl_utils.encoders.frame import cosine_maps
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.prompt_maps import DATASET, Boxed
from rctpl_utils.files import atomic_path, write_text
from rctpl_utils.prompts.zero_shot import Method, branch_scores
from rctpl_utils.reporting.map_figures import first_films
from rctpl_utils.scoring import IMAGE_TEMPERATURE, ClassEmbeddings
from rctpl_utils.workspace import Workspace

METHODS = ("RC-TPL", "RC-TPL+", "class names", "prompt ensemble")
DRAWN = "siim"  # the set whose lesions are outlines; those of `DATASET` are boxes
FILMS = 12
STEP = 1 / 32767  # cosines are kept as whole numbers of it, in 16 bits
NEAREST = 3  # sentences

Film = tuple[ChestXrayDataset, int]  # a split and a row of it


def choose_films(workspace: Workspace) -> tuple[tuple[str, ...], list[Film]]:
    """The concepts with boxes; the first film of each, by image identifier, that is not chosen yet,
    whatever its maps look like, then the first of `DRAWN` with a lesion, until there are `FILMS`.
    """
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    chosen: list[int] = []
    for concept in range(len(boxed.concepts)):
        candidates = first_films(boxed, concept, len(boxed.concepts))
        chosen += [film for film in candidates if film not in chosen][:1]
    outlined = Boxed.of(open_split(workspace, DRAWN, "test"))
    more = first_films(outlined, 0, FILMS - len(chosen))
    films = [(boxed, film) for film in chosen] + [(outlined, film) for film in more]
    return boxed.concepts, [(of.dataset, int(of.rows[film])) for of, film in films]


@torch.no_grad()
def save_explorable(
    workspace: Workspace, encoder: Encoder, methods: Sequence[Method]
) -> pd.DataFrame:
    """Write both files into the profile's figures, folder `explorable`; return a list of the films.

    Shown are `METHODS`, with the `encoder` and the runs of the first seed. An `InputError` for real
    films, which are not ours to publish.
    """
    if not workspace.profile.simulated:
        raise InputError("the page shows simulated films only", "Use a profile that makes its own.")
    concepts, films = choose_films(workspace)
    by_name = {each.name: each for each in methods}
    runs = {name: by_name[name].embedders[0](concepts) for name in METHODS}
    lists = pd.read_parquet(workspace.descriptions)["sentences"]
    texts = list(dict.fromkeys(text for each in lists for text in each))
    knowledge = torch.tensor(text_features(encoder, texts, workspace.features))
    used: dict[str, int] = {}  # the sentences that are named, and their places

    def nearest(vectors: Tensor) -> list[list[tuple[int, float]]]:
        """The nearest sentences of what training reads, by cosine, for unit vectors (n, d)."""
        found = (vectors.cpu() @ knowledge.T).topk(NEAREST)
        places = [[used.setdefault(texts[k], len(used)) for k in line] for line in found.indices]
        cosines = [[round(cosine, 3) for cosine in line] for line in found.values.tolist()]
        return [list(zip(*pair, strict=True)) for pair in zip(places, cosines, strict=True)]

    said, records = {name: nearest(run.concept) for name, run in runs.items()}, []
    for dataset, row in films:
        file = image_features(encoder, dataset, workspace.features)
        features = file.batch(np.array([row]), encoder.device)
        own = _record(dataset, row, features, concepts, runs)
        records.append(own | {"nearest": nearest(features.global_features)[0]})
    content = {
        "simulated": True,
        "profile": workspace.profile.name,
        "seed": workspace.profile.seeds[0],
        "step": STEP,
        "inverse_temperature": round(1 / IMAGE_TEMPERATURE),
        "concepts": concepts,
        "methods": list(runs),
        "said": said,
        "films": records,
        "sentences": list(used),
    }
    stem = workspace.figures / "explorable" / "films"
    write_text(stem.with_suffix(".json"), json.dumps(content, separators=(",", ":")) + "\n")
    with atomic_path(stem.with_suffix(".webp")) as temporary:
        pixels = np.hstack([dataset.pixels(row) for dataset, row in films])
        Image.fromarray((255 * pixels).round().astype(np.uint8)).save(temporary, quality=80)
    shown = []
    for film in records:
        labels = ", ".join(name for name, label in film["labels"].items() if label)
        shown.append((film["dataset"], film["image"], labels, ", ".join(film["lesions"])))
    return pd.DataFrame(shown, columns=["data set", "image", "labeled with", "drawn"])


def _record(
    dataset: ChestXrayDataset,
    row: int,
    features: ImageFeatures,
    concepts: tuple[str, ...],
    runs: dict[str, ClassEmbeddings],
) -> dict:
    """What the page knows of one film; `report` and `concept` are p and p' of each method."""
    record = dataset.records.iloc[row]
    labeled = [concept for concept in concepts if concept in dataset.concepts]
    drawn = [concept for concept in labeled if dataset.annotated(concept)[row]]
    told = {
        "dataset": dataset.name,
        "image": record["image_id"],
        "size": dataset.pixels(row).shape,
        "grid": features.dense_features.shape[1:3],
        "labels": {concept: int(record[concept]) for concept in labeled if record[concept] >= 0},
        "lesions": {concept: run_lengths(dataset.mask(row, concept)) for concept in drawn},
        **{key: {} for key in ("cells", "report", "concept")},
    }
    for name, run in runs.items():
        told["cells"][name] = packed(cosine_maps(features.dense_features, run.concept)[0])
        for key, scores in zip(("report", "concept"), branch_scores(features, run), strict=True):
            told[key][name] = [round(value, 6) for value in scores[0].tolist()]
    return told


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of runs in reading order, false and true in turn, false first (maybe 0 long)."""
    flat = mask.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return [0] * bool(flat[0]) + np.diff([0, *ends, flat.size]).tolist()


def packed(cosines: Tensor) -> str:
    """Cosines (L, h, w) as 16-bit whole numbers of `STEP`, little-endian, in base64."""
    whole = (cosines.cpu().numpy() / STEP).round().clip(-32767, 32767).astype("<i2")
    return b64encode(whole.tobytes()).decode()
