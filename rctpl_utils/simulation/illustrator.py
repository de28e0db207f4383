"""From concepts to lesions: places from real annotations and codes, severities drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rctpl_utils.simulation.cases import Lesion
from rctpl_utils.simulation.geometry import Geometry
from rctpl_utils.simulation.severity import draw_severity

Place = tuple[str | None, str | None]  # side, zone

# What most films of COVID-19 pneumonia show: both lungs, the periphery (468 patients, PMC7243792);
# the renderer favors the lower zones.
_COVID_PLACE: Place = ("bilateral", "peripheral")


@dataclass(frozen=True)
class ReportedFinding:
    """What a report says is present: concept, side, zone, severity word (each None if unsaid)."""

    concept: str
    side: str | None = None
    zone: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class Illustrator:
    """Draws lesions for label sets and for reported findings.

    Attributes:
        geometry: real boxes.
        places: concept -> (side, zone) of the human codes of real reports, for concepts whose
            boxes nobody drew.
    """

    geometry: Geometry
    places: Mapping[str, Sequence[Place]]

    def lesions(
        self, concepts: Iterable[str], split: str, rng: np.random.Generator
    ) -> tuple[Lesion, ...]:
        """Lesions for the drawn concepts of one image, with boxes of that split's pool."""
        return tuple(
            lesion for name in sorted(concepts) for lesion in self._of_concept(name, split, rng)
        )

    def reported(
        self, findings: Iterable[ReportedFinding], split: str, rng: np.random.Generator
    ) -> tuple[Lesion, ...]:
        """Lesions that show what a report says where it says it.

        A finding on one side in one zone takes a real box from there where there is one;
        otherwise the renderer places it by side and zone.
        """
        return tuple(
            Lesion(
                finding.concept,
                finding.side,
                finding.zone,
                draw_severity(finding.concept, finding.severity, rng),
                self.geometry.matching(finding.concept, split, finding.side, finding.zone, rng),
            )
            for finding in findings
        )

    def _of_concept(self, concept: str, split: str, rng: np.random.Generator) -> list[Lesion]:
        severity = draw_severity(concept, None, rng)
        if concept == "COVID-19":
            return [Lesion(concept, *_COVID_PLACE, severity)]
        sites = self.geometry.draw(concept, split, rng)
        if sites:
            return [Lesion(concept, s.side, s.zone, severity, s.box) for s in sites]
        known = self.places.get(concept, ())
        side, zone = known[rng.integers(len(known))] if known else (None, None)
        return [Lesion(concept, side, zone, severity)]
