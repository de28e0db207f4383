"""Do prompts look where their own concept is? (paper 4.3.3; the numbers behind Figures 5 and 6)

A map that always points at the same place would look convincing too. So the concept branch's maps
are held against two others, in the same box of the same film:

* "map of another concept": of one whose box the film has too ("for the same X-ray image, concept
  prompts with different disease category do reflect different regions"); boxes may overlap, so such
  a map may be right in both;
* "map of another film": of the next film, by image identifier, that shows the concept in another
  patient ("our method can focus on different anatomical locations of the same disease category on
  different images").

Of `prompt_maps_draws` (chestxray14, pointing_game) these belong together, for M "RC-TPL" and
"RC-TPL+": "M, own map (films with two concepts)" and "M, map of another concept"; "M, own map
(films of one concept)" and "M, map of another film".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import can_run, open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import IMAGE_BATCH, image_features
from rctpl_utils.encoders.frame import Frame, cosine_maps, frame_of
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.metrics import (
    named_interval,
    paired_p_value,
    patient_weights,
    resampled_means,
)
from rctpl_utils.evaluation.results import Draws, save_draws, write_csv
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.workspace import Workspace

DATASET = "chestxray14"  # the test set in which films have boxes of several concepts
_COLUMNS = (
    "dataset", "method", "metric", "value", "ci_low", "ci_high", "seeds", "n", "native",
)  # fmt: skip
NAMES = {"rc-tpl": "RC-TPL", "rc-tpl-plus": "RC-TPL+"}
COMPARISONS = {  # the other map -> the own map in the same boxes
    "map of another concept": "own map (films with two concepts)",
    "map of another film": "own map (films of one concept)",
}


class Case(NamedTuple):
    """A box, and another map to look for it in: positions of films and of concepts."""

    film: int
    concept: int
    other_film: int
    other_concept: int


@dataclass(frozen=True)
class Boxed:
    """The films of a split that have boxes: `rows` in it by image identifier, (n,); the L
    `concepts` with boxes; `drawn`, which film has boxes of which concept, bool (n, L).
    """

    dataset: ChestXrayDataset
    rows: np.ndarray
    concepts: tuple[str, ...]
    drawn: np.ndarray

    @classmethod
    def of(cls, dataset: ChestXrayDataset) -> "Boxed":
        """Collect them; InputError: no film has a box."""
        if not dataset.has_masks:
            raise InputError(f"no film of {dataset.name!r} has a box", "Add its table of boxes.")
        drawn = np.stack([dataset.annotated(concept) for concept in dataset.concepts], axis=1)
        order = np.argsort(dataset.records["image_id"].to_numpy(str), kind="stable")
        rows = order[drawn[order].any(axis=1)]
        kept = np.flatnonzero(drawn.any(axis=0))
        return cls(
            dataset, rows, tuple(dataset.concepts[k] for k in kept), drawn[np.ix_(rows, kept)]
        )

    @property
    def patients(self) -> pd.Series:
        """The films' patients."""
        return self.dataset.records["patient_id"].iloc[self.rows].reset_index(drop=True)

    def mask(self, film: int, concept: int) -> np.ndarray:
        """The boxes of one film and concept, by position: bool (H, W)."""
        return self.dataset.mask(int(self.rows[film]), self.concepts[concept])


def concept_pairs(drawn: np.ndarray) -> list[Case]:
    """Every ordered pair of concepts with boxes on one film; `drawn` is bool (n, L)."""
    return [
        Case(film, concept, film, other)
        for film, line in enumerate(drawn)
        for concept in np.flatnonzero(line)
        for other in np.flatnonzero(line)
        if concept != other
    ]


def film_pairs(drawn: np.ndarray, patients: pd.Series) -> list[Case]:
    """Every box with the next film, in order and cyclic, that shows it in another patient."""
    codes, cases = pd.factorize(patients)[0], []
    for concept, column in enumerate(drawn.T):
        films = np.flatnonzero(column)
        for place, film in enumerate(films):
            following = np.roll(films, -place - 1)
            others = following[codes[following] != codes[film]]
            cases += [Case(film, concept, other, concept) for other in others[:1]]
    return cases


@torch.no_grad()
def cell_maps(workspace: Workspace, encoder: Encoder, boxed: Boxed, embeddings: Tensor) -> Tensor:
    """The cosine map of every boxed film for every embedding (L, d): (n, L, h, w) on the CPU."""
    file, parts = image_features(encoder, boxed.dataset, workspace.features), []
    for start in range(0, len(boxed.rows), IMAGE_BATCH):
        batch = file.batch(boxed.rows[start : start + IMAGE_BATCH], encoder.device).dense_features
        parts.append(cosine_maps(batch, embeddings).cpu())
    return torch.cat(parts)


def hits(
    boxed: Boxed, cases: list[Case], runs: Tensor, frame: Frame | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the own map and the other map of each of C cases point into its box: bool (K, C)
    each, from maps of K runs, (K, n, L, h, w).
    """
    found = np.zeros((2, len(runs), len(cases)), bool)
    for k, case in enumerate(tqdm(cases, desc="pointing game", unit="box")):
        mask = boxed.mask(case.film, case.concept)
        pair = (runs[:, case.film, case.concept], runs[:, case.other_film, case.other_concept])
        for which, cells in enumerate(pair):
            found[which, :, k] = points_into(cells, mask, frame)
    return found[0], found[1]


def compare_maps(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    prompts: Mapping[str, Mapping[int, Prompts]],
) -> pd.DataFrame:
    """Measure both comparisons, seed by seed; write `prompt_maps.csv` and the draws. One row a
    series (see the module), none where the data set is absent. InputError: no film has boxes of two
    concepts, or no concept boxes in two patients.
    """
    if not can_run(workspace, "Maps of other concepts and films", DATASET):
        return _save(workspace, [], {})
    boxed = Boxed.of(open_split(workspace, DATASET, "test"))
    weights = patient_weights(boxed.patients, workspace.profile.bootstrap)
    pairs = (concept_pairs(boxed.drawn), film_pairs(boxed.drawn, boxed.patients))
    if not all(pairs):
        raise InputError("too few boxes for a comparison", "Use a larger test split.")
    rows, draws = [], {}
    for variant, name in NAMES.items():
        runs = list(zip(encoders, prompts[variant].values(), strict=True))
        maps = torch.stack([
            cell_maps(workspace, encoder, boxed, each.embed(encoder, boxed.concepts).concept)
            for encoder, each in runs
        ])  # fmt: skip
        for (other, own), cases in zip(COMPARISONS.items(), pairs, strict=True):
            drawn = weights[:, [case.film for case in cases]]  # (1 + R, C)
            measured = hits(boxed, cases, maps, frame_of(encoders[0]))
            for kind, found in zip((own, other), measured, strict=True):
                share = resampled_means(found, drawn)  # (K, 1 + R)
                key = (DATASET, f"{name}, {kind}", "pointing_game")
                draws[key] = share
                about = dict(zip(("dataset", "method", "metric"), key, strict=True))
                count = {"seeds": len(runs), "n": len(cases), "native": kind == own}
                rows.append({**about, **named_interval(share), **count})
    return _save(workspace, rows, draws)


def _save(workspace: Workspace, rows: list[dict], draws: Draws) -> pd.DataFrame:
    save_draws(workspace.results, "prompt_maps", draws)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    write_csv(workspace.figures / "prompt_maps.csv", table)
    return table


def map_differences(draws: Draws) -> pd.DataFrame:
    """Own map minus other map, paired: difference with interval and p-value, one row a pair; none
    where the data set is absent.
    """
    if not draws:
        return pd.DataFrame()
    rows = []
    for name in NAMES.values():
        for other, own in COMPARISONS.items():
            first, second = (draws[DATASET, f"{name}, {k}", "pointing_game"] for k in (own, other))
            about = {"method": name, "own map against": other}
            tested = {"p_value": paired_p_value(first - second)}
            rows.append({**about, **named_interval(first - second, None), **tested})
    return pd.DataFrame(rows)
