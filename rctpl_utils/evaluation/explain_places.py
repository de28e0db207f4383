"""Whether the sides and zones that explanations name are those of the lesions drawn on films."""

from dataclasses import asdict

import numpy as np
import pandas as pd
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.availability import can_run
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.frame import frame_of, on_square
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.calibration import Calibration
from rctpl_utils.evaluation.film_places import place, place_on_film
from rctpl_utils.evaluation.metrics import interval, patient_weights, resampled_means
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.workspace import Workspace

FEWEST = 10  # lesions of a concept below which it gets no row of its own


def check_places(
    workspace: Workspace, model: RCTPL, calibration: Calibration, name: str
) -> pd.DataFrame:
    """How often side and zone agree with the lesions drawn on test films, for concepts found.

    The guess beside it is what is most frequent among the validation films' lesions.

    Args:
        name: a data set with drawn lesions.

    Returns:
        one row a concept with at least `FEWEST` lesions found, and for all lesions, by aspect
        ("side", "zone"): dataset, concept, aspect, value, ci_low,
        ci_high (95 % bootstrap over patients), guess, gain, gain_low, gain_high, n. None, and the
        reason is said, where the set is absent or has no lesion drawn on its validation films (as
        ChestX-ray14, whose boxes all belong to test films).

    Raises:
        InputError: no lesion is drawn on its test films, so there is no truth to compare with.
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
