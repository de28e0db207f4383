"""Anatomical sites in a sentence: "the base of the left lung" is one site, (left, base)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spacy.tokens import Doc, Span

from rctpl_utils.text.concepts.pipeline import IGNORED, PLACES
from rctpl_utils.vocabulary import Vocabulary, location_name


def words_of(text: str) -> frozenset[str]:
    """A set of words from one string."""
    return frozenset(text.split())


# Words that may stand between the parts of one site.
_INSIDE = words_of(
    "- , ( the lateral medial posterior anterior superior inferior pulmonary side sided mid far "
    "more most posterolateral anterolateral of in on at"
)
WEAK = words_of("lung diffuse periphery pleura")  # places that give way to a preciser one
_JOINING = words_of("and or / & and/or to")
_ELLIPTICAL = {"upper": "upper lobe", "middle": "middle lobe", "mid": "middle zone"}
_ELLIPTICAL |= {"lower": "lower lobe"}  # "right middle and lower lobes"


@dataclass(frozen=True)
class Site:
    """A stretch of tokens [start, end) of a document that names a place, its side, or both.

    `both` marks a plural that stands for both sides unless a side is stated ("the bases").
    """

    start: int
    end: int
    side: str | None
    place: str | None
    both: bool = False

    @property
    def complete(self) -> bool:
        """Whether both the side and the place are stated."""
        return self.side is not None and self.place is not None


def location_names(concept: str, sites: Sequence[Site], vocabulary: Vocabulary) -> list[str | None]:
    """The distinct canonical locations of a mention, [None] when it has none.

    Only fractures lie in bones: for other concepts a bone gives no more than its side. Places that
    are no home to findings (the diaphragm, a bare "lung") give nothing.
    """
    if concept in vocabulary.unlocated:
        return [None]
    wanted = "bone" if concept == "Fracture" else "lung"
    names: dict[str, None] = {}
    for site in sites:
        place = vocabulary.place(site.place) if site.place else None
        side = site.side or ("bilateral" if site.both else None)
        if place is not None and place.kind == "organ":
            continue
        if place is not None and (place.kind != wanted or (side is None and place.zone is None)):
            place = None
        name = location_name(side, place)
        if name is not None:
            names[name] = None
    return list(names) or [None]


def sites_of(document: Doc, words: Sequence[str]) -> list[Site]:
    """The sites of a document in their order, parts joined, shared sides handed on.

    `words` are the document's tokens in lower case. A site never crosses a sentence's end, since
    no full stop may stand inside one.
    """
    parts = (_site(span, words) for span in document.spans[PLACES] if span.label_ != IGNORED)
    sites: list[Site] = []
    for part in sorted(parts, key=lambda site: site.start):
        last = sites[-1] if sites else None
        joined = _join(last, part, words) if last else None
        if joined:
            sites[-1] = joined
        else:
            sites.append(_inherit_side(last, part, words))
    return sites


def _site(span: Span, words: Sequence[str]) -> Site:
    side, place, both = span.label_.split("|")
    end = span.end
    shortened = not place and end + 1 < len(words) and words[end] in _ELLIPTICAL
    if shortened and (words[end + 1] in _JOINING or words[end + 1] == ","):
        place, end = _ELLIPTICAL[words[end]], end + 1
    return Site(span.start, end, side or None, place or None, both == "both")


def _join(first: Site, second: Site, words: Sequence[str]) -> Site | None:
    """One site of two neighbours, or None where they are two sites."""
    if any(word not in _INSIDE for word in words[first.end : second.start]):
        return None
    if first.side and second.side:
        # "bilateral effusions" style repeats: "bases bilaterally, left greater than right"
        same = second.place is None and "bilateral" in (first.side, second.side)
        return replace(first, end=second.end, side="bilateral") if same else None
    if first.place and second.place and not WEAK & {first.place, second.place}:
        return None
    return _merge(first, second)


def _merge(first: Site, second: Site) -> Site:
    places = [place for place in (first.place, second.place) if place]
    place = next((p for p in places if p not in WEAK), places[0] if places else None)
    side = first.side or second.side
    return Site(first.start, second.end, side, place, first.both or second.both)


def _inherit_side(last: Site | None, part: Site, words: Sequence[str]) -> Site:
    """ "left upper and lower lobes": the second place shares the first one's side."""
    if last is None or part.side or not part.place or not last.complete:
        return part
    between = words[last.end : part.start]
    joined = between and all(word in _JOINING or word in (",", "the") for word in between)
    return replace(part, side=last.side) if joined and last.side != "bilateral" else part
