"""What RC-TPL finds on one film, where, what that means, and how sure one may be (paper 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from rctpl_utils import __version__
from rctpl_utils.calibration import GRADES, NOT_CALIBRATED, Calibration, Evidence
from rctpl_utils.errors import InputError
from rctpl_utils.features import image_features
from rctpl_utils.heat_maps import on_film, peak
from rctpl_utils.knowledge import Knowledge
from rctpl_utils.metrics import interval, patient_weights
from rctpl_utils.profiles import PROFILES
from rctpl_utils.scoring import fuse, similarity_maps
from rctpl_utils.table1 import BOOTSTRAP_SEED, open_split
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import Workspace
from rctpl_utils.zero_shot import branch_scores, score_images

if TYPE_CHECKING:  # the model explains by this module
    from rctpl_utils.datasets import ChestXrayDataset
    from rctpl_utils.model import RCTPL

# The region of a concept: what lies this far from the map's median to its maximum. Of 0.5, 0.75
# and 0.9, compared with the boxes of ChestX-ray14's validation films, 0.9 names the side of a
# lesion on one side a little more often, but hardly ever finds both; 0.5 finds both too often.
REGION = 0.75
ONE_SIDE = 0.75  # more than this share of a region on one half of the film: that side alone
# Where the middle and the lower zone begin, as shares of the film's height: on the simulated
# ChestX-ray14 validation films the boxes of upper, middle and lower zone divide there.
ZONES = {"upper": 0.0, "middle": 0.42, "lower": 0.60}
FRAME = 128  # pixels of a film's longer side when a place is read off its map
FEWEST = 10  # lesions of a concept below which it gets no row of its own
ANY_PICTURE = "Any picture gets scores: the model cannot say whether it is a chest radiograph."


@dataclass(frozen=True)
class Place:
    """Where a region lies on a frontal film.

    Attributes:
        side: the patient's: "right" (the LEFT half of the film), "left" or "both".
        zone: "upper", "middle" or "lower".
    """

    side: str
    zone: str

    def __str__(self) -> str:
        """For example "right, lower zone"."""
        return f"{self.side}{' sides' if self.side == 'both' else ''}, {self.zone} zone"


@dataclass(frozen=True)
class Finding:
    """One concept on one film.

    Attributes:
        concept: its name.
        score: the final score, the mean of the branches' cosines; `report_score` and
            `concept_score` are those of the branches.
        evidence: what that score means; None where the concept has no validation films.
        place: side and zone of the region; None for a constant map.
        peak: the map's maximum, (down, across) as shares of the film's height and width.
        heat_map: the concept branch's cosines, (h, w), on the film padded to a square.
        sentence: the knowledge about the concept; `record`: where that comes from.
    """

    concept: str
    score: float
    report_score: float
    concept_score: float
    evidence: Evidence | None
    place: Place | None
    peak: tuple[float, float]
    heat_map: np.ndarray
    sentence: str
    record: Mapping[str, str]

    @property
    def grade(self) -> str:
        """The evidence in words, one of `calibration.GRADES`."""
        return self.evidence.grade if self.evidence else NOT_CALIBRATED

    @property
    def found(self) -> bool:
        """Whether the score reaches the concept's validation threshold; false without one."""
        return self.evidence is not None and self.evidence.found


@dataclass(frozen=True)
class Explanation:
    """All that is said of one film.

    Attributes:
        findings: best first: by grade, the likelihood ratio's lower end, the score.
        size: height and width of the film in pixels.
        warning: what the model may be used for.
        provenance: versions, keys, seed, knowledge source, what the calibration was made on.
    """

    findings: tuple[Finding, ...]
    size: tuple[int, int]
    warning: str
    provenance: Mapping[str, str]

    def as_record(self) -> dict[str, Any]:
        """Everything as JSON-like values, `found` and `grade` included."""
        findings = [
            {
                **asdict(each),
                "heat_map": np.round(each.heat_map.astype(float), 4).tolist(),
                "record": dict(each.record),
                "found": each.found,
                "grade": each.grade,
            }
            for each in self.findings
        ]
        return {
            "warning": self.warning, "note": ANY_PICTURE, "provenance": dict(self.provenance),
            "size": list(self.size), "findings": findings,
        }  # fmt: skip

    def table(self) -> pd.DataFrame:
        """One row a finding, as a person reads it."""
        rows = [
            {
                "concept": each.concept,
                "score": each.score,
                "found": each.found,
                "evidence": each.grade,
                "ratio at least": each.evidence.ratio_low if each.evidence else np.nan,
                "where": str(each.place or ""),
            }
            for each in self.findings
        ]
        return pd.DataFrame(rows).set_index("concept")


@torch.no_grad()
def explain(
    model: "RCTPL",
    image: np.ndarray,
    concepts: Sequence[str] = CONCEPTS,
    source: str = "kb",
) -> Explanation:
    """Explain one radiograph.

    Args:
        model: its calibration, where it has one, tells how sure one may be.
        image: float (H, W) in [0, 1].
        concepts: canonical names, seen in training or not.
        source: of the knowledge (`knowledge.SOURCES`).

    Raises:
        InputError: an unknown concept or source, an image of another kind.
    """
    knowledge = Knowledge.load(source)
    embeddings = model.prompts.embed(model.encoder, list(concepts))
    features = model.encoder.encode_image(model.encoder.preprocess(image)[None])
    report, concept = branch_scores(features, embeddings)
    scores = torch.stack([fuse(report, concept), report, concept])[:, 0].T.cpu().double().tolist()
    maps = similarity_maps(features.dense_features.flatten(1, 2), embeddings.concept)[0].T
    maps = maps.reshape(len(concepts), *features.dense_features.shape[1:3]).cpu()
    known = model.calibration.concepts if model.calibration else {}
    findings = [
        Finding(
            name,
            *three,
            known[name].judge(three[0]) if name in known else None,
            place_on_film(cells, image.shape),
            _peak(cells, image.shape),
            cells.numpy(),
            knowledge.describe(name),
            knowledge.records.get(name, {}),
        )
        for name, three, cells in zip(concepts, scores, maps, strict=True)
    ]
    return Explanation(
        tuple(sorted(findings, key=_rank)),
        image.shape,
        warning(model.prompts.metadata),
        _provenance(model, source),
    )


def warning(metadata: Mapping[str, str]) -> str:
    """What a model with these prompts may be used for, and what it was trained on."""
    profile = PROFILES.get(metadata.get("profile", ""))
    trained = "Its training data are unknown."
    if profile is not None:
        trained = f"Trained on {'simulated' if profile.simulated else 'real'} radiographs."
    return f"Research and teaching only. {trained} Not a medical device."


def place(weights: np.ndarray) -> Place | None:
    """Side and zone of a region.

    Args:
        weights: how much each pixel of the film belongs to it, (H, W), not negative; a mask too.

    Returns:
        None where nothing belongs to it.
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


def place_on_film(cells: torch.Tensor, size: tuple[int, int]) -> Place | None:
    """Side and zone of a cell map's region on a film of that size."""
    return place(region(_small(cells, size))[0])


def check_places(
    workspace: Workspace, model: "RCTPL", calibration: Calibration, name: str
) -> pd.DataFrame:
    """How often side and zone agree with the lesions drawn on test films, for concepts found.

    The guess beside it is what is most frequent among the validation films' lesions.

    Args:
        name: a data set with drawn lesions.

    Returns:
        one row a concept with at least `FEWEST` lesions found, and for all lesions, by aspect
        ("side", "zone"): dataset, concept, aspect, value, ci_low,
        ci_high (95 % bootstrap over patients), guess, gain, gain_low, gain_high, n.

    Raises:
        InputError: no lesion is drawn on its films, so there is no truth to compare with.
    """
    test, held_out = (open_split(workspace, name, split) for split in ("test", "validation"))
    if not (test.has_masks and held_out.has_masks):
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
    workspace: Workspace, model: "RCTPL", calibration: Calibration, dataset: "ChestXrayDataset"
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
        found = place_on_film(cells, film.size)
        rows.append({**film._asdict(), **{f"found_{k}": v for k, v in asdict(found).items()}})
    return pd.DataFrame(rows, columns=[*drawn.columns, "found_side", "found_zone"])


def _drawn_places(dataset: "ChestXrayDataset") -> pd.DataFrame:
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
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    weights = patient_weights(films["patient_id"], workspace.profile.bootstrap, generator)
    right, guessed = (
        weights @ (each == films[aspect]).to_numpy(float) / weights.sum(axis=1)
        for each in (films[f"found_{aspect}"], guess)
    )
    share, gain = interval(right), interval(right - guessed)
    names = ("value", "ci_low", "ci_high", "guess", "gain", "gain_low", "gain_high")
    return dict(zip(names, (*share, float(guessed[0]), *gain), strict=True))


def _most_frequent(values: pd.Series) -> str:
    return values.value_counts().index[0]


def _rank(finding: Finding) -> tuple[int, float, float]:
    ratio = finding.evidence.ratio_low if finding.evidence else 0.0
    return GRADES.index(finding.grade), -ratio, -finding.score


def _small(cells: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The cell map on the film, its longer side FRAME pixels."""
    height, width = (max(1, round(FRAME * length / max(size))) for length in size)
    return on_film(cells[None], (height, width))[0].numpy()


def _peak(cells: torch.Tensor, size: tuple[int, int]) -> tuple[float, float]:
    heat = _small(cells, size)
    down, across = peak(heat)
    return (down + 0.5) / heat.shape[0], (across + 0.5) / heat.shape[1]


def _provenance(model: "RCTPL", source: str) -> dict[str, str]:
    metadata = model.prompts.metadata
    names = ("variant", "seed", "profile", "version", "key", "encoder")
    made_on = model.calibration.data if model.calibration else "none"
    return {
        "package_version": __version__,
        **{f"prompts_{name}": metadata.get(name, "unknown") for name in names},
        "image_key": model.encoder.image_key,
        "knowledge": source,
        "calibration": made_on,
    }
