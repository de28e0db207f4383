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
from rctpl_utils.evaluation.ablations import pointing_of_runs
from rctpl_utils.evaluation.calibration import Domain, file_descriptors
from rctpl_utils.evaluation.grounding import lung_centers
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.metrics import (
    macro_aucs,
    named_interval,
    patient_weights,
    resampled_means,
)
from rctpl_utils.evaluation.results import write_csv
from rctpl_utils.evaluation.table1 import film_features, score_runs
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.workspace import PROJECT, Workspace

SAMPLES = PROJECT.parent / "shared" / "data"
OPENERS = {
    "chestxray14-mini": open_chestxray14,
    "rsna-mini": open_rsna,
    "covidx-mini": open_covidx,
}
GROUNDED = ("rsna-mini", "Pneumonia")
FEWEST = 10  # films with and without a class, below which its AUC would say nothing


def open_samples(folder: Path = SAMPLES) -> dict[str, ChestXrayDataset]:
    """The test films of each real sample that is there; empty where there is none."""
    present = {name: opener for name, opener in OPENERS.items() if (folder / name).is_dir()}
    return {
        name: opener(folder / name, "test", allow_partial=True) for name, opener in present.items()
    }


def scored_concepts(dataset: ChestXrayDataset) -> tuple[str, ...]:
    """The concepts with at least `FEWEST` films of either kind."""
    labels = dataset.records[list(_shown(dataset))]
    enough = [c for c in labels if min((labels[c] == 1).sum(), (labels[c] == 0).sum()) >= FEWEST]
    return tuple(enough)


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
        films = film_features(workspace, dataset)
        shown = _shown(dataset)
        labels = dataset.records[list(shown)].to_numpy(float)
        columns = [shown.index(concept) for concept in scored_concepts(dataset)]
        patients = dataset.records["patient_id"]
        weights = patient_weights(patients, workspace.profile.bootstrap)
        scored = score_runs(encoders, films, methods, lambda each, shown=shown: each(shown))
        for method in methods:
            by_seed = (getattr(scored[each], method.branch) for each in method.embedders)
            runs = np.stack([macro_aucs(labels, of, columns, weights) for of in by_seed])
            rows.append(_row(name, method.name, "auc", runs, len(dataset)))
    return pd.DataFrame(rows)


def sample_pointing(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    methods: Sequence[Method],
    samples: Mapping[str, ChestXrayDataset],
) -> pd.DataFrame:
    """The pointing game on the real films with boxes, beside two floors that see no film. A random
    point hits with the share of the film that boxes cover.
    """
    name, concept = GROUNDED
    if name not in samples:
        return pd.DataFrame()
    dataset = samples[name]
    rows = np.flatnonzero(dataset.annotated(concept))
    hits, cover = {}, []
    for row in rows:
        mask = dataset.mask(row, concept)
        cover.append(mask.mean())
        centers = torch.from_numpy(lung_centers())[None]
        hits.setdefault("lung-center prior", []).extend(points_into(centers, mask, None))
    hits = {"random point": np.array([cover]), **{k: np.array([v]) for k, v in hits.items()}}
    films = film_features(workspace, dataset)
    pointed = pointing_of_runs(encoders, dataset, films, concept, methods)
    hits |= {method.name: each for method, each in zip(methods, pointed, strict=True)}
    patients = dataset.records["patient_id"].iloc[rows]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    found = {method: resampled_means(of, weights) for method, of in hits.items()}
    return pd.DataFrame(
        [_row(name, method, "pointing_game", runs, len(rows)) for method, runs in found.items()]
    )


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
        patients = dataset.records["patient_id"]
        weights = patient_weights(patients, workspace.profile.bootstrap)
        share = resampled_means(outside[None], weights)
        rows.append(_row(name, "the films themselves", "out_of_domain", share, len(dataset)))
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


def _row(
    dataset: str,
    method: str,
    metric: str,
    runs: np.ndarray,
    count: int,
) -> dict[str, object]:
    about = {"dataset": dataset, "method": method, "metric": metric}
    return {**about, **named_interval(runs), "seeds": len(runs), "n": count}
