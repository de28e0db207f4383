"""How sure one may be of a score: what films of the validation splits with such scores showed.

A cosine says little to a person. A calibration holds it, concept by concept, against labeled
validation films only; it belongs to one set of prompts and one image encoder.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.features import IMAGE_BATCH, ImageFeatureFile, image_features
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.calibration import (
    ConceptCalibration,
    Domain,
    count_films,
    file_descriptors,
)
from rctpl_utils.evaluation.grounding_metrics import scale_of
from rctpl_utils.evaluation.metrics import (
    BOOTSTRAP_SEED,
    interval,
    patient_weights,
    scorable,
    weighted_auc,
)
from rctpl_utils.evaluation.results import data_note
from rctpl_utils.files import read_json, write_json
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.scoring import similarity_maps
from rctpl_utils.workspace import Workspace

# Data set -> the concepts that its validation films calibrate; None: all that it labels. COVIDx
# is not asked for pneumonia: it counts COVID-19 films, which show one, as films without.
SOURCES: Mapping[str, tuple[str, ...] | None] = {
    "chestxray14": None,
    "chexpert": None,
    "rsna": None,
    "covidx": ("COVID-19",),
}


@dataclass(frozen=True)
class Calibration:
    """The calibrated `concepts` of one set of prompts with one image encoder, by their keys.
    `data`: what the films were, in a sentence; `scale`: the cosines between which heat maps are
    drawn; `domain`: where the films lie; both None without validation films.
    """

    prompts_key: str
    image_key: str
    data: str
    concepts: Mapping[str, ConceptCalibration]
    scale: tuple[float, float] | None = None
    domain: Domain | None = None

    def table(self) -> pd.DataFrame:
        """One row a concept: its films and how well scores tell it apart, best first."""
        rows = {
            name: {
                "sources": ", ".join(one.sources),
                "films": one.present[0] + one.absent[0],
                "with it": one.present[0],
                "AUC": one.auc,
                "low": one.auc_low,
                "high": one.auc_high,
                "can tell": one.auc_low > 0.5,
                "threshold": one.threshold,
            }
            for name, one in self.concepts.items()
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.sort_values("AUC", ascending=False) if rows else table

    def save(self, path: str | Path) -> Path:
        """Write one small JSON file, atomically."""
        domain = self.domain.as_text() if self.domain else None
        return write_json(path, asdict(replace(self, domain=None)) | {"domain": domain})

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Read what `save` wrote; InputError: the file is absent or damaged."""
        if not Path(path).exists():
            raise InputError("no calibration there", "Run notebook 09 first.", file=path)
        try:
            stored = read_json(path)
            concepts = {
                name: ConceptCalibration(
                    **{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}
                )
                for name, one in stored.pop("concepts").items()
            }
            scale, domain = stored.pop("scale"), stored.pop("domain")
            return cls(
                **stored,
                concepts=concepts,
                scale=scale and tuple(scale),
                domain=domain and Domain.from_text(domain),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"not a calibration ({error})", "Delete it and run notebook 09.", file=path
            ) from error

    def check(self, prompts_key: str | None, image_key: str) -> None:
        """Refuse (InputError) scores of other prompts or of another image encoder: their keys
        differ.
        """
        if (self.prompts_key, self.image_key) != (prompts_key, image_key):
            raise InputError(
                "this calibration belongs to other prompts or to another encoder",
                "Run notebook 09 again, or give the calibration made with these prompts.",
            )


def calibration_path(prompts: str | Path) -> Path:
    """Where the calibration of a prompt file lies: beside it."""
    return Path(prompts).with_suffix(".calibration.json")


@torch.no_grad()
def calibrate(workspace: Workspace, model: RCTPL) -> Calibration:
    """Calibrate all concepts that the validation films of `SOURCES` label; films are pooled.

    The same films tell the heat maps' scale, and which pictures are unlike them. Absent data sets
    calibrate nothing. A film counts once; the AUC compares films of the same data set only
    (`stratified_auc`): to tell one hospital's films from another's is no merit.
    """
    parts: dict[str, list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]] = {}
    cosines, films, patients = [], [], []
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    for name in tqdm(present(workspace, SOURCES), desc="calibrating", unit="data set"):
        dataset = open_split(workspace, name, "validation")
        concepts = SOURCES[name] or dataset.concepts
        features = image_features(model.encoder, dataset, workspace.features)
        embeddings = model.prompts.embed(model.encoder, concepts)
        scores = score_images(features, {"model": embeddings})["model"].both
        resamples = workspace.profile.bootstrap
        weights = patient_weights(dataset.records["patient_id"], resamples, generator)
        cosines.append(_cosines(features, embeddings.concept))
        films.append(file_descriptors(features, model.encoder))
        patients += [f"{name} {patient}" for patient in dataset.records["patient_id"]]
        for k, concept in enumerate(concepts):
            labels = dataset.records[concept].to_numpy(float)
            parts.setdefault(concept, []).append((name, labels, scores[:, k], weights))
    concepts = {name: _calibrate_concept(of) for name, of in parts.items()}
    return Calibration(
        model.prompts.metadata["key"], model.encoder.image_key, data_note(workspace),
        {name: found for name, found in concepts.items() if found is not None},
        scale_of(np.concatenate(cosines)) if cosines else None,
        Domain.fit(np.concatenate(films), patients) if films else None,
    )  # fmt: skip


def _cosines(file: ImageFeatureFile, embeddings: Tensor) -> np.ndarray:
    """Of all cells of all films with all concepts, flat, in half precision as the cells are."""
    parts = []
    for start in range(0, len(file), IMAGE_BATCH):
        batch = file.batch(slice(start, start + IMAGE_BATCH), embeddings.device)
        cosines = similarity_maps(batch.dense_features.flatten(1, 2), embeddings)
        parts.append(cosines.half().flatten().cpu().numpy())
    return np.concatenate(parts)


def _calibrate_concept(
    parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
) -> ConceptCalibration | None:
    usable = [part for part in parts if scorable(part[1])]
    if not usable:
        return None
    auc = interval(stratified_auc([part[1:] for part in usable]))
    labels, scores = (np.concatenate([part[k] for part in usable]) for k in (1, 2))
    return count_films(labels, scores, tuple(part[0] for part in usable), auc)


def stratified_auc(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The share of (present, absent) pairs in the right order, within a data set only: (1 + R,). A
    part a data set: labels (n,), scores (n,), weights (1 + R, n).
    """
    right = pairs = 0.0
    for labels, scores, weights in parts:
        present, absent = ((weights * (labels == k)).sum(axis=1, dtype=float) for k in (1, 0))
        right = right + np.nan_to_num(weighted_auc(labels, scores, weights)) * present * absent
        pairs = pairs + present * absent
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
