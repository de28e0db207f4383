"""How far simulation carries: the same evaluation on small samples of real radiographs. A folder
beside the project, `../shared/data`, may hold them in the official layouts. They are looked at,
never tuned on. Nothing else of the project needs them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.covid import open_covidx
from rctpl_utils.datasets.nih import open_chestxray14, open_rsna
from rctpl_utils.datasets.questions import COVID
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.evaluation.calibration import Domain, file_descriptors
from rctpl_utils.evaluation.grounding import lung_centers, pointing_of_runs
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.metrics import (
    macro_aucs,
    patient_weights,
    resampled_means,
    tidy_row,
)
from rctpl_utils.evaluation.results import write_csv
from rctpl_utils.evaluation.table1 import by_method, film_features, score_runs
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.workspace import PROJECT, Workspace

SAMPLES = PROJECT.parent / "shared" / "data"
OPENERS = {"chestxray14": open_chestxray14, "rsna": open_rsna, "covidx": open_covidx}
GROUNDED = ("rsna-mini", "Pneumonia")
FEWEST = 10  # films with and without a class, below which its AUC would say nothing


def open_samples(folder: Path = SAMPLES) -> dict[str, ChestXrayDataset]:
    """The test films of each real sample that is there; empty where there is none."""
    return {
        f"{name}-mini": opener(folder / f"{name}-mini", "test", allow_partial=True)
        for name, opener in OPENERS.items()
        if (folder / f"{name}-mini").is_dir()
    }


def scored_concepts(dataset: ChestXrayDataset) -> tuple[str, ...]:
    """The concepts with at least `FEWEST` films of either kind."""
    labels = dataset.records[list(_shown(dataset))]
    enough = ((labels == 1).sum() >= FEWEST) & ((labels == 0).sum() >= FEWEST)
    return tuple(labels.columns[enough])


def _shown(dataset: ChestXrayDataset) -> tuple[str, ...]:
    """The classes asked for: COVID-19 alone, by its own score, where it is among them."""
    return (COVID,) if COVID in dataset.concepts else dataset.concepts


def sample_auc(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    methods: Sequence[Method],
    samples: Mapping[str, ChestXrayDataset],
) -> pd.DataFrame:
    """Macro AUC of each method on each real sample, with 95 % intervals."""
    rows = []
    for name, dataset in samples.items():
        shown = _shown(dataset)
        labels = dataset.records[list(shown)].to_numpy(float)
        columns = [shown.index(concept) for concept in scored_concepts(dataset)]
        weights = patient_weights(dataset.records["patient_id"], workspace.profile.bootstrap)
        films = film_features(workspace, dataset)
        scored = score_runs(encoders, films, methods, lambda each, shown=shown: each(shown))
        for method, scores in by_method(methods, scored).items():
            runs = np.stack([macro_aucs(labels, of, columns, weights) for of in scores])
            rows.append(tidy_row((name, method, "auc"), runs, n=len(dataset)))
    return pd.DataFrame(rows)


def sample_pointing(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    methods: Sequence[Method],
    samples: Mapping[str, ChestXrayDataset],
) -> pd.DataFrame:
    """The pointing game on the real films with boxes, beside two floors that see no film."""
    name, concept = GROUNDED
    if name not in samples:
        return pd.DataFrame()
    dataset = samples[name]
    rows = np.flatnonzero(dataset.annotated(concept))
    masks = [dataset.mask(row, concept) for row in rows]
    centers = torch.from_numpy(lung_centers())[None]
    hits = {
        "random point": np.array([[mask.mean() for mask in masks]]),
        "lung-center prior": np.array([[points_into(centers, mask, None)[0] for mask in masks]]),
    }
    films = film_features(workspace, dataset)
    pointed = pointing_of_runs(encoders, dataset, films, concept, methods)
    hits |= {method.name: each for method, each in zip(methods, pointed, strict=True)}
    patients = dataset.records["patient_id"].iloc[rows]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    return pd.DataFrame([
        tidy_row((name, method, "pointing_game"), resampled_means(of, weights), n=len(rows))
        for method, of in hits.items()
    ])  # fmt: skip


def sample_domain(
    workspace: Workspace,
    encoder: Encoder,
    domain: Domain | None,
    samples: Mapping[str, ChestXrayDataset],
) -> pd.DataFrame:
    """The share of each real sample that is out of the model's domain."""
    rows = []
    for name, dataset in samples.items() if domain is not None else ():
        file = film_features(workspace, dataset)(encoder)
        outside = domain.distance(file_descriptors(file, encoder)) > 1
        weights = patient_weights(dataset.records["patient_id"], workspace.profile.bootstrap)
        key = (name, "the films themselves", "out_of_domain")
        rows.append(tidy_row(key, resampled_means(outside[None], weights), n=len(dataset)))
    return pd.DataFrame(rows)


def save_samples(workspace: Workspace, rows: Sequence[pd.DataFrame]) -> None:
    """Write real_samples.csv; without a sample remove what an earlier run left, and say so."""
    path = workspace.figures / "real_samples.csv"
    found = [each for each in rows if len(each)]
    if found:
        write_csv(path, pd.concat(found))
    elif path.exists():
        path.unlink()
        print(f"{path.name}: removed, an earlier run made it and this one has no real samples.")
