"""Where a region lies on a frontal film: side and zone, read off a mask or a map of cells.

`check_places` compares what explanations say with drawn lesions.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import can_run, open_split
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.frame import frame_of, on_film, on_square
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.calibration import Calibration
from rctpl_utils.evaluation.grounding_metrics import peak
from rctpl_utils.evaluation.metrics import interval, patient_weights, resampled_means
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.workspace import Workspace

# The region of a concept: what lies this far from the map's median to its maximum. Of 0.5, 0.75
# and 0.9, compared with the boxes of ChestX-ray14's validation films, 0.9 names the side of a
# lesion on one side a little more often, but hardly ever finds both; 0.5 finds both too often.
REGION = 0.75
ONE_SIDE = 0.75  # more than this share of a region on one half of the film: that side alone
# Where the middle and the lower zone begin, as shares of the film's height: on the simulated
# ChestX-ray14 validation films the boxes of upper, middle and lower zone divide there.
ZONES = {"upper": 0.0, "middle": 0.42, "lower": 0.60}
FRAME = 128  # pixels of a film's longer side when a place is read off its map


@dataclass(frozen=True)
class Place:
    """A region on a frontal film: the patient's side ("right", the LEFT half of the film, "left",
    "both") and zone ("upper", "middle", "lower").
    """

    side: str
    zone: str

    def __str__(self) -> str:
        """For example "right, lower zone"."""
        return f"{self.side}{' sides' if self.side == 'both' else ''}, {self.zone} zone"


def place(weights: np.ndarray) -> Place | None:
    """Side and zone of a region, None where nothing belongs to it; `weights` (H, W) tell how much
    each pixel does, not negative; a mask too.
    """
    weights = np.asarray(weights, float)
    total = weights.sum()
    if total == 0:
        return None
    down, across = ((np.arange(count) + 0.5) / count for count in weights.shape)
    half = (across < 0.5) + 0.5 * (across == 0.5)  # a middle column lies on both halves
    on_left_half = float(weights.sum(axis=0) @ half / total)
    center = float(weights.sum(axis=1) @ down / total)
    side = "right" if on_left_half > ONE_SIDE else "left" if on_left_half < 1 - ONE_SIDE else "both"
    return Place(side, [zone for zone, start in ZONES.items() if center >= start][-1])


def region(heat: np.ndarray) -> tuple[np.ndarray, float]:
    """How far each pixel rises above the region's border, (H, W), and the border's level."""
    middle = float(np.median(heat))
    level = middle + REGION * (float(heat.max()) - middle)
    return np.clip(heat - level, 0, None), level


def place_on_film(cells: Tensor, size: tuple[int, int]) -> Place | None:
    """Side and zone of a cell map's region on a film of that size."""
    return place(region(_small(cells, size))[0])


def peak_on_film(cells: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """Where a cell map is highest on a film of that size: (down, across), shares of both."""
    heat = _small(cells, size)
    down, across = peak(heat)
    return (down + 0.5) / heat.shape[0], (across + 0.5) / heat.shape[1]


def _small(cells: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The cell map on the film, its longer side FRAME pixels."""
    height, width = (max(1, round(FRAME * length / max(size))) for length in size)
    return on_film(cells[None], (height, width))[0].numpy()


FEWEST = 10  # lesions of a concept below which it gets no row of its own


def check_places(
    workspace: Workspace, model: RCTPL, calibration: Calibration, name: str
) -> pd.DataFrame:
    """How often side and zone agree with the lesions drawn on test films, for concepts found.

    One row a concept with at least `FEWEST` lesions found, and for all lesions, by aspect: value
    (95 % bootstrap over patients), `guess`, what is most frequent among the validation films'
    lesions, and `gain` over it. None, and the reason is said, where the set is absent or has no
    lesion drawn on its validation films (as ChestX-ray14, whose boxes all belong to test films).
    InputError: no lesion is drawn on its test films.
    """
    if not can_run(workspace, f"Places on {name}", name):
        return pd.DataFrame()
    test, held_out = (open_split(workspace, name, split) for split in ("test", "validation"))
    if test.has_masks and not held_out.has_masks:
        print(f"Places on {name}: not run, no lesion is drawn on its validation films.")
        return pd.DataFrame()
    if not test.has_masks:
        raise InputError(
            f"data set {name!r} has no drawn lesions, so its sides and zones are not known",
            "Choose one with boxes or masks: chestxray14, rsna, siim.",
        )
    films = _found_places(workspace, model, calibration, test)
    usual = _drawn_places(held_out).groupby("concept")[["side", "zone"]].agg(_most_frequent)
    films = films[films["concept"].isin(usual.index)]
    groups = [(concept, of) for concept, of in films.groupby("concept") if len(of) >= FEWEST]
    if films["concept"].nunique() > 1:
        groups.append(("all", films))
    return pd.DataFrame(
        [
            {"dataset": name, "concept": concept, "aspect": aspect,
             **_agreement(workspace, of, aspect, of["concept"].map(usual[aspect])), "n": len(of)}
            for concept, of in groups
            for aspect in ("side", "zone")
        ]
    )  # fmt: skip


def _found_places(
    workspace: Workspace, model: RCTPL, calibration: Calibration, dataset: ChestXrayDataset
) -> pd.DataFrame:
    """The drawn lesions that the model finds, with the place it names: found_side, found_zone."""
    drawn = _drawn_places(dataset)
    concepts = [c for c in drawn["concept"].unique() if c in calibration.concepts]
    embeddings = model.prompts.embed(model.encoder, concepts)
    features = image_features(model.encoder, dataset, workspace.features)
    scores = score_images(features, {"model": embeddings})["model"].both
    rows = []
    for film in drawn[drawn["concept"].isin(concepts)].itertuples():
        k = concepts.index(film.concept)
        if scores[film.row, k] < calibration.concepts[film.concept].threshold:
            continue
        dense = features.batch(slice(film.row, film.row + 1), model.encoder.device).dense_features
        cells = (dense[0] @ embeddings.concept[k]).cpu()
        cells = on_square(cells[None], film.size, frame_of(model.encoder))[0]
        found = place_on_film(cells, film.size)
        rows.append({**film._asdict(), **{f"found_{k}": v for k, v in asdict(found).items()}})
    return pd.DataFrame(rows, columns=[*drawn.columns, "found_side", "found_zone"])


def _drawn_places(dataset: ChestXrayDataset) -> pd.DataFrame:
    """Side and zone of every drawn lesion: row, patient_id, size, concept, side, zone."""
    rows = []
    for concept in tqdm(dataset.concepts, desc=f"reading {dataset.name}", unit="concept"):
        for row in np.flatnonzero(dataset.annotated(concept)):
            mask = dataset.mask(row, concept)
            patient = dataset.records["patient_id"].iloc[row]
            about = {"row": row, "patient_id": patient, "size": mask.shape, "concept": concept}
            rows.append(about | asdict(place(mask)))
    return pd.DataFrame(rows)


def _agreement(
    workspace: Workspace, films: pd.DataFrame, aspect: str, guess: pd.Series
) -> dict[str, float]:
    weights = patient_weights(films["patient_id"], workspace.profile.bootstrap)
    right, guessed = (
        resampled_means((each == films[aspect]).to_numpy(float), weights)
        for each in (films[f"found_{aspect}"], guess)
    )
    share, gain = interval(right), interval(right - guessed)
    names = ("value", "ci_low", "ci_high", "guess", "gain", "gain_low", "gain_high")
    return dict(zip(names, (*share, float(guessed[0]), *gain), strict=True))


def _most_frequent(values: pd.Series) -> str:
    return values.value_counts().index[0]
