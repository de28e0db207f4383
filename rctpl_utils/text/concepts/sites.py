"""Anatomical sites in a sentence, and which mention each belongs to: the nearest modifier.

"The base of the left lung" is one site, (left, base). Order of trust: words inside or right before
the mention ("left lower lobe opacity"), a phrase after it ("opacity in the right base"), a phrase
that opens the clause ("in the left lower lobe there is an opacity"), the sites of the mention it is
coordinated with or explains ("... may represent atelectasis").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spacy.language import Language
from spacy.tokens import Doc

from rctpl_utils.files import read_json
from rctpl_utils.vocabulary import Vocabulary, location_name
from rctpl_utils.workspace import PACKAGE_DATA

_RULES = read_json(PACKAGE_DATA / "text_rules.json")["sites"]
_WORDS = {what: frozenset(words.split()) for what, words in _RULES.items()}
_WEAK = _WORDS["gives way to a preciser place"]
_ELLIPTICAL = {"upper": "upper lobe", "middle": "middle lobe", "mid": "middle zone"}
_ELLIPTICAL |= {"lower": "lower lobe"}  # "right middle and lower lobes"
_PLACES = "places"  # key of the anatomical spans
_IGNORED = "ignored"  # label of what only looks like a place


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


@dataclass(frozen=True)
class Sentence:
    """A sentence's tokens in lower case, its mentions as ranges of them, its sites."""

    words: Sequence[str]
    mentions: Sequence[tuple[int, int]]
    sites: Sequence[Site]

    def site_at(self, token: int) -> Site | None:
        """The site that a token is part of."""
        return next((site for site in self.sites if site.start <= token < site.end), None)


def location_names(concept: str, sites: Sequence[Site], vocabulary: Vocabulary) -> list[str | None]:
    """The distinct canonical locations of a mention, [None] when it has none.

    Only fractures lie in bones: for other concepts a bone gives no more than its side. Places that
    are no home to findings (the diaphragm, a bare "lung") give nothing.
    """
    if concept in vocabulary.unlocated:
        return [None]
    wanted = "bone" if concept == "Fracture" else "lung"
    names = []
    for site in sites:
        place = vocabulary.places[site.place] if site.place else None
        side = site.side or ("bilateral" if site.both else None)
        if place is not None and place.kind == "organ":
            continue
        if place is not None and (place.kind != wanted or (side is None and place.zone is None)):
            place = None
        names.append(location_name(side, place))
    return list(dict.fromkeys(filter(None, names))) or [None]


def add_places(nlp: Language, vocabulary: Vocabulary) -> Language:
    """Let a pipeline find anatomical words, for `sites_of`; returns it.

    Labels are "side|place|", with "both" in the third field where a plural stands for both.
    """
    labeled = {f"{side}||": phrases for side, phrases in vocabulary.sides.items()}
    for place in vocabulary.places.values():
        labeled |= {f"|{place.name}|": place.phrases, f"|{place.name}|both": place.both_sides}
    fused = [(f"{side}|{place}|", [phrase]) for phrase, (side, place) in vocabulary.fused.items()]
    config = {"spans_key": _PLACES, "phrase_matcher_attr": "LOWER"}
    config["spans_filter"] = {"@misc": "spacy.first_longest_spans_filter.v1"}
    patterns = [
        {"label": label, "pattern": phrase}
        for label, phrases in [*labeled.items(), *fused, (_IGNORED, vocabulary.ignored_places)]
        for phrase in phrases
    ]
    nlp.add_pipe("span_ruler", config=config).add_patterns(patterns)
    return nlp


def sites_of(document: Doc, words: Sequence[str]) -> list[Site]:
    """The sites of a document (its tokens: `words`), parts joined, shared sides handed on.

    A site never crosses a sentence's end, since no full stop may stand inside one.
    """
    sites: list[Site] = []
    spans = (span for span in document.spans[_PLACES] if span.label_ != _IGNORED)
    for span in sorted(spans, key=lambda span: span.start):
        side, place, both = span.label_.split("|")
        end = span.end
        shortened = not place and end + 1 < len(words) and words[end] in _ELLIPTICAL
        if shortened and words[end + 1] in _WORDS["shares a side"] | {","}:
            place, end = _ELLIPTICAL[words[end]], end + 1
        part = Site(span.start, end, side or None, place or None, both == "both")
        if sites and (joined := _join(sites[-1], part, words)):
            sites[-1] = joined
        else:
            sites.append(_inherit_side(sites[-1], part, words) if sites else part)
    return sites


def _join(first: Site, second: Site, words: Sequence[str]) -> Site | None:
    """One site of two neighbours, or None where they are two sites."""
    if any(word not in _WORDS["inside a site"] for word in words[first.end : second.start]):
        return None
    if first.side and second.side:
        # "bilateral effusions" style repeats: "bases bilaterally, left greater than right"
        same = second.place is None and "bilateral" in (first.side, second.side)
        return replace(first, end=second.end, side="bilateral") if same else None
    if first.place and second.place and not _WEAK & {first.place, second.place}:
        return None
    places = [place for place in (first.place, second.place) if place]
    place = next((p for p in places if p not in _WEAK), places[0] if places else None)
    side, both = first.side or second.side, first.both or second.both
    return Site(first.start, second.end, side, place, both)


def _inherit_side(last: Site, part: Site, words: Sequence[str]) -> Site:
    """ "left upper and lower lobes": the second place shares the first one's side."""
    if part.side or not part.place or not last.complete or last.side == "bilateral":
        return part
    between = set(words[last.end : part.start])
    joined = between and between <= _WORDS["shares a side"] | {",", "the"}
    return replace(part, side=last.side) if joined else part


def attach(sentence: Sentence, carried: Sequence[Site] = ()) -> list[list[Site]]:
    """The sites of each mention; `carried` are those that an opening "this" would refer to."""
    words, mentions = sentence.words, sentence.mentions
    found = [_own_sites(sentence, start, end) for start, end in mentions]
    for i in range(len(mentions) - 1, 0, -1):  # "consolidation and atelectasis in the base"
        between = words[mentions[i - 1][1] : mentions[i][0]]
        coordinated = bool(between) and between[0] in _WORDS["joins mentions"]
        if coordinated and not found[i - 1] and not _WORDS["ends a clause"] & set(between):
            found[i - 1] = [site for site in found[i] if site.start >= mentions[i][1]]
    for i in range(len(mentions)):
        if not found[i]:
            found[i] = _inherited(sentence, i, found, carried)
    heading = sentence.site_at(0)
    heads = heading is not None and heading.side and words[heading.end : heading.end + 1] == [":"]
    if not heads:
        return found
    return [  # "LEFT LUNG: basilar atelectasis"
        [each if each.side else replace(each, side=heading.side) for each in sites] or [heading]
        for sites in found
    ]


def _own_sites(sentence: Sentence, start: int, end: int) -> list[Site]:
    """The sites inside a mention or right beside it."""
    inside = [site for site in sentence.sites if site.start < end and site.end > start]
    near = _before(sentence, start) + inside
    if any(site.complete for site in near):
        return combine(near)
    return combine(near + _after(sentence, end))


def _before(sentence: Sentence, start: int) -> list[Site]:
    """Sites in the noun phrase that ends with the mention at `start`."""
    words = sentence.words
    first = max((end for _, end in sentence.mentions if end <= start), default=0)
    found: list[Site] = []
    i = start - 1
    while i >= first:
        if (site := sentence.site_at(i)) is not None:
            found.insert(0, site)
            i = site.start - 1
            continue
        joins = False  # "left and right", "small right and moderate left"
        if found and (earlier := sentence.site_at(i - 1)) is not None:
            between = set(words[i + 1 : found[0].start])
            joins = not between or (earlier.place is None and between <= _WORDS["size"])
        if words[i] in _WORDS["ends a noun phrase"] or (words[i] in _WORDS["and"] and not joins):
            break
        i -= 1
    return found


def _after(sentence: Sentence, end: int) -> list[Site]:
    """Sites in the phrases that follow the mention, up to the next mention or clause."""
    words = sentence.words
    limit = min((start for start, _ in sentence.mentions if start >= end), default=len(words))
    found: list[Site] = []
    asked = words[end : end + 1] == [":"]  # "effusion: small, right"
    linked, i = asked, end + asked
    while i < limit and words[i] not in _WORDS["ends a clause"]:
        site = sentence.site_at(i)
        if site is None or site.end > limit or not (linked or site.side):
            linked = linked or words[i] in _WORDS["leads to a site"]
            i += 1
            continue
        ends = _WORDS["ends a noun phrase"] | _WORDS["joins mentions"]
        if limit < len(words) and not ends & set(words[site.end : limit]):
            break  # it stands right before the next mention and belongs to that one
        found.append(site)
        i = site.end
    return found


def combine(sites: list[Site]) -> list[Site]:
    """A lone side and a lone place are one site; a vague place beside a precise one goes.

    Sides without a place are several: "small right, moderate left effusions".
    """
    places = [site for site in sites if site.place is not None]
    sides = [site for site in sites if site.place is None]
    places = [site for site in places if site.place not in _WEAK] or places
    if not places or not sides:
        return places or list({site.side: site for site in reversed(sites)}.values())[::-1]
    return [site if site.side else replace(site, side=sides[0].side) for site in places]


def _inherited(
    sentence: Sentence, index: int, found: list[list[Site]], carried: Sequence[Site]
) -> list[Site]:
    """Sites from the opening of the clause, the mention before, or the sentence before."""
    start = sentence.mentions[index - 1][1] if index else 0
    end = sentence.mentions[index][0]
    opening = [site for site in sentence.sites if start <= site.start and site.end <= end]
    between = sentence.words[opening[-1].end if opening else start : end]
    if _WORDS["ends a clause"] & set(between):
        return []
    if index:
        return combine(opening[-1:]) or ([] if _adds(between) else found[index - 1])
    if opening:
        return combine(opening)
    return list(carried) if _WORDS["refers back"] & set(between[:4]) else []


def _adds(between: Sequence[str]) -> bool:
    """Whether "with" adds a finding ("opacity with effusion") rather than explains one."""
    return any(
        word == "with" and (i == 0 or between[i - 1] not in ("consistent", "compatible"))
        for i, word in enumerate(between)
    )
