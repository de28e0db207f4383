"""What RC-TPL finds on one film, where, what that means, and how sure one may be (paper 3.4).

A place is side and zone of a region on a frontal film, read off a mask or a map of cells;
`check_places` compares what explanations say with drawn lesions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils import __version__
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.splits import can_run, open_split
from rctpl_utils.encoders.features import image_features
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_film, on_square
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import metrics
from rctpl_utils.evaluation.calibration import (
    GRADES,
    KEPT,
    NOT_CALIBRATED,
    Calibration,
    Evidence,
    descriptors,
)
from rctpl_utils.evaluation.grounding_metrics import peak
from rctpl_utils.profiles import PROFILES
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.zero_shot import branch_scores, score_images
from rctpl_utils.scoring import fuse
from rctpl_utils.text.knowledge import Knowledge
from rctpl_utils.vocabulary import CONCEPTS
from rctpl_utils.workspace import Workspace

ANY_PICTURE = (
    "Any picture gets scores. Most pictures that are unlike the validation films are named as out "
    "of domain, but not all: the model cannot say whether one is a chest radiograph."
)
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


@dataclass(frozen=True)
class Place:
    """A region: the patient's side ("right" is the LEFT half of the film; "both") and zone."""

    side: str
    zone: str

    def __str__(self) -> str:
        """For example "right, lower zone"."""
        return f"{self.side}{' sides' if self.side == 'both' else ''}, {self.zone} zone"


def place(weights: np.ndarray) -> Place | None:
    """Side and zone of a region, a mask or weights (H, W) >= 0; None where it is empty."""
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


def place_on_film(cells: Tensor, size: tuple[int, int]) -> tuple[Place | None, tuple[float, float]]:
    """A cell map's region on a film, and where it is highest: (down, across), shares of both."""
    height, width = (max(1, round(FRAME * length / max(size))) for length in size)
    heat = on_film(cells[None], (height, width))[0].numpy()
    down, across = peak(heat)
    return place(region(heat)[0]), ((down + 0.5) / height, (across + 0.5) / width)


@dataclass(frozen=True)
class Finding:
    """One concept on one film."""

    concept: str
    score: float  # the final one, the mean of the branches' cosines
    report_score: float
    concept_score: float
    evidence: Evidence | None  # what that score means; None without validation films
    place: Place | None  # side and zone of the region; None for a constant map
    peak: tuple[float, float]  # the map's maximum, (down, across) as shares of height and width
    heat_map: np.ndarray  # the concept branch's cosines, (h, w), on the film padded to a square
    sentence: str  # the knowledge about the concept
    record: Mapping[str, str]  # where that comes from

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
    """All that is said of one film of `size` (height, width).

    `findings`: best first, by grade, the likelihood ratio's lower end, the score. `distance`: from
    the validation films (`calibration.Domain`), None where not measured. `scale`: the cosines
    between which heat maps are drawn.
    """

    findings: tuple[Finding, ...]
    size: tuple[int, int]
    warning: str
    provenance: Mapping[str, str]
    distance: float | None = None
    scale: tuple[float, float] | None = None

    @property
    def outside(self) -> bool:
        """Whether the picture is out of the model's domain, so that no score says anything."""
        return self.distance is not None and self.distance > 1

    @property
    def domain_note(self) -> str:
        """What `distance` means, in a sentence."""
        if self.distance is None:
            return "Whether the picture is like those of the calibration was not measured."
        where = (
            f"the picture's features lie at {self.distance:.2f} times the distance within which "
            f"{KEPT:.0%} of validation films lie."
        )
        outside = f"OUT OF DOMAIN: {where} Its scores say nothing."
        return outside if self.outside else f"Domain: {where}"

    def as_record(self) -> dict[str, Any]:
        """Everything as JSON-like values, `found` and `grade` included."""
        findings = []
        for each in self.findings:
            cells = np.round(each.heat_map.astype(float), 4).tolist()
            known = {"heat_map": cells, "record": dict(each.record)}
            findings.append(asdict(each) | known | {"found": each.found, "grade": each.grade})
        return {
            "warning": self.warning, "note": ANY_PICTURE, "domain": self.domain_note,
            "distance": self.distance, "outside": self.outside, "provenance": dict(self.provenance),
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
    model: RCTPL,
    image: np.ndarray,
    calibration: Calibration | None = None,
    concepts: Sequence[str] = CONCEPTS,
    source: str = "kb",
) -> Explanation:
    """Explain one radiograph, float (H, W) in [0, 1], for concepts seen in training or not.

    `source` is the knowledge's (`knowledge.SOURCES`). InputError: an unknown concept or source, an
    image of another kind, a calibration of other prompts or of another encoder. Of a picture out of
    its films' domain the calibration tells nothing.
    """
    if calibration is not None:
        calibration.check(model.prompts.metadata.get("key"), model.encoder.image_key)
    knowledge, own = Knowledge.load(source), model.prompts.own_concepts
    embeddings = model.prompts.embed(model.encoder, list(concepts))
    features = model.encoder.encode_image(model.encoder.preprocess(image)[None])
    report, concept = branch_scores(features, embeddings)
    scores = torch.stack([fuse(report, concept), report, concept])[:, 0].T.cpu().double().tolist()
    maps = cosine_maps(features.dense_features, embeddings.concept)[0].cpu()
    maps = on_square(maps, image.shape, frame_of(model.encoder))
    known, scale, distance = {}, None, None
    if calibration is not None:
        known, scale = calibration.concepts, calibration.scale
        if calibration.domain:
            distance = float(calibration.domain.distance(descriptors(features))[0])
            known = known if distance <= 1 else {}  # out of domain a score says nothing
    findings = [
        Finding(
            name,
            *three,
            known[name].judge(three[0]) if name in known else None,
            *place_on_film(cells, image.shape),
            cells.numpy(),
            f"{name} refers to {own[name]['text']}." if name in own else knowledge.describe(name),
            own.get(name) or knowledge.records.get(name, {}),
        )
        for name, three, cells in zip(concepts, scores, maps, strict=True)
    ]

    def rank(finding: Finding) -> tuple[int, float, float]:
        ratio = finding.evidence.ratio_low if finding.evidence else 0.0
        return GRADES.index(finding.grade), -ratio, -finding.score

    metadata = model.prompts.metadata
    noted = ("variant", "seed", "profile", "version", "key", "encoder")
    provenance = {
        "package_version": __version__,
        **{f"prompts_{name}": metadata.get(name, "unknown") for name in noted},
        "image_key": model.encoder.image_key,
        "knowledge": source,
        "calibration": calibration.data if calibration else "none",
    }
    findings = tuple(sorted(findings, key=rank))
    return Explanation(findings, image.shape, warning(metadata), provenance, distance, scale)


def warning(metadata: Mapping[str, str]) -> str:
    """What a model with these prompts may be used for, and what it was trained on."""
    profile = PROFILES.get(metadata.get("profile", ""))
    trained = "Its training data are unknown."
    if profile is not None:
        trained = f"Trained on {'simulated' if profile.simulated else 'real'} radiographs."
    return f"Research and teaching only. {trained} Not a medical device."


def check_places(
    workspace: Workspace, model: RCTPL, calibration: Calibration, name: str
) -> pd.DataFrame:
    """How often side and zone agree with the lesions drawn on test films, for concepts found.

    One row a concept with at least `FEWEST` lesions found, and for all, by aspect: value, `guess`
    (what is most frequent among the validation films' lesions), `gain` over it; none where the set,
    or its validation films' lesions, are absent. InputError: no lesion is drawn on test films.
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
    places = _drawn_places(held_out).groupby("concept")[["side", "zone"]]
    usual = places.agg(lambda values: values.value_counts().index[0])  # the most frequent
    films = films[films["concept"].isin(usual.index)]
    groups = [(concept, of) for concept, of in films.groupby("concept") if len(of) >= FEWEST]
    if films["concept"].nunique() > 1:
        groups.append(("all", films))
    rows = []
    for concept, of in groups:
        weights = metrics.patient_weights(of["patient_id"], workspace.profile.bootstrap)
        for aspect in ("side", "zone"):
            right, guessed = (
                metrics.resampled_means((each == of[aspect]).to_numpy(float), weights)
                for each in (of[f"found_{aspect}"], of["concept"].map(usual[aspect]))
            )
            gain, low, high = metrics.interval(right - guessed)
            rows.append({
                "dataset": name, "concept": concept, "aspect": aspect,
                **metrics.named_interval(right), "guess": float(guessed[0]),
                "gain": gain, "gain_low": low, "gain_high": high, "n": len(of),
            })  # fmt: skip
    return pd.DataFrame(rows)


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
        found = asdict(place_on_film(cells, film.size)[0])
        rows.append(film._asdict() | {f"found_{k}": v for k, v in found.items()})
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
