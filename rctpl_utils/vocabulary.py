"""The vocabulary: concepts, their hierarchy, and the anatomical locations of chest radiographs.

The concept set C of the paper (3.1.1) is the 14 names of CheXpert (Irvin et al. 2019, Table 1) and
the 14 of ChestX-ray14 (Wang et al. 2017) merged, without "No Finding". `data/vocabulary.json` has
them, and the phrases that name them in reports; it carries its own version.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA

_DATA = read_json(PACKAGE_DATA / "vocabulary.json")
CHEXPERT_CONCEPTS: tuple[str, ...] = tuple(_DATA["sets"]["CheXpert"])
CHESTXRAY14_CONCEPTS: tuple[str, ...] = tuple(_DATA["sets"]["ChestX-ray14"])
TRAINING_CONCEPTS = tuple(dict.fromkeys(CHEXPERT_CONCEPTS + CHESTXRAY14_CONCEPTS))
UNSEEN_CONCEPTS: tuple[str, ...] = tuple(_DATA["sets"]["unseen"])  # met at test time only
CONCEPTS = (*TRAINING_CONCEPTS, *UNSEEN_CONCEPTS)
NO_FINDING = "No Finding"  # not a concept: the name of a normal film among other kinds of film
PARENTS: Mapping[str, str] = MappingProxyType(_DATA["parents"])  # present where a child is
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
    """The phrases of `data/vocabulary.json`, in lower case, no patterns."""

    # phrase -> its concepts; () for one that only looks like a concept
    named: Mapping[str, tuple[str, ...]]
    unlocated: frozenset[str]  # concepts whose place is never stated apart (the heart)
    frames: tuple[Frame, ...]
    places: Mapping[str, Place]
    ignored_places: tuple[str, ...]  # phrases that only look like a place
    sides: Mapping[str, tuple[str, ...]]
    fused: Mapping[str, tuple[str, str]]  # "bibasilar" is ("bilateral", "base")


@cache
def load_vocabulary() -> Vocabulary:
    """The packaged vocabulary."""
    named: dict[str, tuple[str, ...]] = dict.fromkeys(_DATA["ignored"], ())
    for concept, about in _DATA["concepts"].items():
        named |= {phrase: (*named.get(phrase, ()), concept) for phrase in about["phrases"]}
    return Vocabulary(
        named=MappingProxyType(named),
        unlocated=frozenset(c for c, about in _DATA["concepts"].items() if not about["locatable"]),
        frames=tuple(Frame(**_tuples(frame)) for frame in _DATA["frames"]),
        places={name: Place(name, **_tuples(place)) for name, place in _DATA["places"].items()},
        ignored_places=tuple(_DATA["ignored_places"]),
        sides=MappingProxyType(_tuples(_DATA["sides"])),
        fused=MappingProxyType(_tuples(_DATA["fused"])),
    )


def with_parents(present: Iterable[str]) -> frozenset[str]:
    """Close a set of present concepts upwards: `{"Mass"}` gives Mass, Lung Lesion, Lung Opacity."""
    closed = reached = {_known(concept) for concept in present}
    while reached:
        reached = {PARENTS[concept] for concept in reached if concept in PARENTS}
        closed = closed | reached
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
    found = _locations()
    if location not in found:
        raise InputError(
            f"{location!r} is no canonical location",
            f"Use an optional side ({', '.join(SIDES)}) and a place of the vocabulary.",
        )
    return found[location]


@cache
def _locations() -> Mapping[str | None, tuple[str | None, str | None]]:
    """Every canonical location, in the singular and the plural, with its side and zone."""
    found: dict[str | None, tuple[str | None, str | None]] = {}
    for side in (None, *SIDES):
        found[side] = side, None
        for place in load_vocabulary().places.values():
            for name in (place.name, place.plural):
                found[f"{side} {name}" if side else name] = side, place.zone
    return found


def _known(concept: str) -> str:
    if concept not in CONCEPTS:
        raise InputError(f"{concept!r} is no concept", f"Choose one of: {', '.join(CONCEPTS)}.")
    return concept


def _tuples(record: dict) -> dict:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in record.items()}
