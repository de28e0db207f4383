"""What RC-TPL finds on one film, where, what that means, and how sure one may be (paper 3.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from rctpl_utils import __version__
from rctpl_utils.encoders.frame import cosine_maps, frame_of, on_square
from rctpl_utils.evaluation.calibration import GRADES, NOT_CALIBRATED, Calibration, Evidence
from rctpl_utils.evaluation.domain import KEPT, descriptors
from rctpl_utils.evaluation.film_places import Place, place_on_film
from rctpl_utils.profiles import PROFILES
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.zero_shot import branch_scores
from rctpl_utils.scoring import fuse
from rctpl_utils.text.knowledge import Knowledge
from rctpl_utils.vocabulary import CONCEPTS

ANY_PICTURE = (
    "Any picture gets scores. Most pictures that are unlike the validation films are named as out "
    "of domain, but not all: the model cannot say whether one is a chest radiograph."
)


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

    `findings` are best first: by grade, the likelihood ratio's lower end, the score. `distance` is
    from the validation films (`domain.Domain`), None where not measured; heat maps are drawn
    between the cosines of `scale`, None without a calibration; `provenance`: versions, keys, seed,
    knowledge source, what the calibration was made on.
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

    `calibration` tells how sure one may be, and nothing of a picture unlike its films; `source` is
    the knowledge's (`knowledge.SOURCES`). InputError: an unknown concept or source, an image of
    another kind, a calibration of other prompts or of another encoder.
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
