"""The vocabulary: concepts, their hierarchy, and the anatomical locations of chest radiographs.

The concept set C of the paper (3.1.1) is the 14 names of CheXpert (Irvin et al. 2019, Table 1) and
the 14 of ChestX-ray14 (Wang et al. 2017) merged, without "No Finding". The phrases that name them
in reports live in `data/vocabulary.json`, which carries its own version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA

CHEXPERT_CONCEPTS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
TRAINING_CONCEPTS = (
    *CHEXPERT_CONCEPTS,
    "Infiltration",
    "Mass",
    "Nodule",
    "Emphysema",
    "Fibrosis",
    "Pleural Thickening",
    "Hernia",
)
CHESTXRAY14_CONCEPTS = (
    "Atelectasis",
    "Cardiomegaly",
    "Pleural Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural Thickening",
    "Hernia",
)
UNSEEN_CONCEPTS = ("COVID-19",)  # met at test time only
CONCEPTS = (*TRAINING_CONCEPTS, *UNSEEN_CONCEPTS)
NO_FINDING = "No Finding"  # not a concept: the name of a normal film among other kinds of film

# A present child makes its parent present: Irvin et al. 2019, Fig. 1; Infiltration, Pleural
# Thickening and COVID-19 are our reading.
PARENTS: Mapping[str, str] = MappingProxyType(
    {
        "Cardiomegaly": "Enlarged Cardiomediastinum",
        "Mass": "Lung Lesion",
        "Nodule": "Lung Lesion",
        "Lung Lesion": "Lung Opacity",
        "Consolidation": "Lung Opacity",
        "Pneumonia": "Lung Opacity",
        "Atelectasis": "Lung Opacity",
        "Edema": "Lung Opacity",
        "Infiltration": "Lung Opacity",
        "COVID-19": "Lung Opacity",
        "Pleural Thickening": "Pleural Other",
    }
)
SIDES = ("left", "right", "bilateral")


@dataclass(frozen=True)
class Place:
    """An anatomical place without its side."""

    name: str
    plural: str
    zone: str | None  # the coarse zone, or None for the whole lung
    kind: str  # "lung", "bone" or "organ"
    phrases: tuple[str, ...]
    both_sides: tuple[str, ...]  # phrases that name it on both sides unless a side is stated


@dataclass(frozen=True)
class Frame:
    """A statement about an organ: a subject, words that may stand between, a state.

    "The heart is mildly enlarged" makes `concept` present, "heart size is normal" absent.
    """

    concept: str
    subjects: tuple[str, ...]
    between: tuple[str, ...]
    present: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """What `data/vocabulary.json` holds: phrases in lower case, no patterns."""

    concepts: Mapping[str, tuple[str, ...]]
    unlocated: frozenset[str]  # concepts whose place is never stated apart (the heart)
    frames: tuple[Frame, ...]
    ignored: tuple[str, ...]  # phrases that hold a concept's word but name something else
    places: Mapping[str, Place]
    ignored_places: tuple[str, ...]  # phrases that only look like a place
    sides: Mapping[str, tuple[str, ...]]
    fused: Mapping[str, tuple[str, str]]  # "bibasilar" is ("bilateral", "base")


@cache
def load_vocabulary() -> Vocabulary:
    """Read the packaged vocabulary (once a process)."""
    raw = read_json(PACKAGE_DATA / "vocabulary.json")
    concepts = raw["concepts"]
    return Vocabulary(
        concepts=MappingProxyType({name: tuple(c["phrases"]) for name, c in concepts.items()}),
        unlocated=frozenset(name for name, c in concepts.items() if not c["locatable"]),
        frames=tuple(Frame(**_tuples(frame)) for frame in raw["frames"]),
        ignored=tuple(raw["ignored"]),
        places={name: Place(name, **_tuples(place)) for name, place in raw["places"].items()},
        ignored_places=tuple(raw["ignored_places"]),
        sides=MappingProxyType({side: tuple(v) for side, v in raw["sides"].items()}),
        fused=MappingProxyType({phrase: tuple(v) for phrase, v in raw["fused"].items()}),
    )


def with_parents(present: Iterable[str]) -> frozenset[str]:
    """Close a set of present concepts upwards: `{"Mass"}` gives Mass, Lung Lesion, Lung Opacity."""
    closed: set[str] = set()
    for concept in present:
        _known(concept)
        node: str | None = concept
        while node is not None:
            closed.add(node)
            node = PARENTS.get(node)
    return frozenset(closed)


def prompt_name(concept: str) -> str:
    """The class name as prompts spell it: lower case, except for COVID-19; "no finding" too."""
    if concept != NO_FINDING:
        _known(concept)
    return concept if concept in UNSEEN_CONCEPTS else concept.lower()


def location_name(side: str | None, place: Place | None) -> str | None:
    """The canonical location: "left lower lobe", "bilateral bases", "right", or none at all."""
    if place is None:
        return side
    if side is None:
        return place.name
    return f"{side} {place.plural if side == 'bilateral' else place.name}"


def split_location(location: str | None) -> tuple[str | None, str | None]:
    """Split a canonical location into side and zone: "left lower lobe" gives ("left", "lower").

    A location that the vocabulary does not hold is an `InputError`.
    """
    if location is None:
        return None, None
    first, _, rest = location.partition(" ")
    side = first if first in SIDES else None
    name = rest if side else location
    if not name:
        return side, None
    zones = _zones()
    if name not in zones:
        raise InputError(
            f"{location!r} is no canonical location",
            f"Use an optional side ({', '.join(SIDES)}) and a place of the vocabulary.",
        )
    return side, zones[name]


@cache
def _zones() -> Mapping[str, str | None]:
    places = load_vocabulary().places.values()
    return {name: place.zone for place in places for name in (place.name, place.plural)}


def _known(concept: str) -> None:
    if concept not in CONCEPTS:
        raise InputError(f"{concept!r} is no concept", f"Choose one of: {', '.join(CONCEPTS)}.")


def _tuples(record: dict) -> dict:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in record.items()}
