"""Anatomical sites in a sentence, and which mention each belongs to: the nearest modifier.

"The base of the left lung" is one site, (left, base). Order of trust: words inside or right before
the mention ("left lower lobe opacity"), a phrase after it ("opacity in the right base"), a phrase
that opens the clause ("in the left lower lobe there is an opacity"), the sites of the mention it is
coordinated with or explains ("... may represent atelectasis").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spacy.tokens import Doc, Span

from rctpl_utils.text.concepts.pipeline import IGNORED, PLACES
from rctpl_utils.vocabulary import Vocabulary, location_name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AND = _words("and or and/or")
# Words that may stand between the parts of one site, and between two sites that share a side.
_INSIDE = _words(
    "- , ( the lateral medial posterior anterior superior inferior pulmonary side sided mid far "
    "more most posterolateral anterolateral of in on at"
)
_SHARING = _AND | {"/", "&", "to"}
_WEAK = _words("lung diffuse periphery pleura")  # places that give way to a preciser one
_ELLIPTICAL = {"upper": "upper lobe", "middle": "middle lobe", "mid": "middle zone"}
_ELLIPTICAL |= {"lower": "lower lobe"}  # "right middle and lower lobes"
_JOINING = _AND | {"/", "&", ",", "versus", "vs", "vs.", "with"}
_BEFORE_STOP = _words(
    "in of at within on over for with from to is are was were has have be there which that no not "
    "without but ; : . ? ( ) as by may represents represent representing suggests than"
)
_SIZES = _words("tiny trace small minimal mild moderate large loculated layering new stable")
_LINKS = _words(
    "in within at of over overlying involving along throughout on near affecting through "
    "projecting , ( both bilaterally"
)
_CLAUSE_END = _words("; : but however although though no not none neither without which")
_REFERRING = _words("this these which findings finding appearance it")


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
        place = vocabulary.places[site.place] if site.place else None
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
    """The sites of a document (its tokens: `words`), parts joined, shared sides handed on.

    A site never crosses a sentence's end, since no full stop may stand inside one.
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
    if shortened and words[end + 1] in _SHARING | {","}:
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
    if first.place and second.place and not _WEAK & {first.place, second.place}:
        return None
    places = [place for place in (first.place, second.place) if place]
    place = next((p for p in places if p not in _WEAK), places[0] if places else None)
    side, both = first.side or second.side, first.both or second.both
    return Site(first.start, second.end, side, place, both)


def _inherit_side(last: Site | None, part: Site, words: Sequence[str]) -> Site:
    """ "left upper and lower lobes": the second place shares the first one's side."""
    if last is None or part.side or not part.place or not last.complete:
        return part
    between = words[last.end : part.start]
    joined = between and all(word in _SHARING | {",", "the"} for word in between)
    return replace(part, side=last.side) if joined and last.side != "bilateral" else part


def attach(sentence: Sentence, carried: Sequence[Site] = ()) -> list[list[Site]]:
    """The sites of each mention; `carried` are those that an opening "this" would refer to."""
    mentions = sentence.mentions
    found = [_own_sites(sentence, start, end) for start, end in mentions]
    for i in range(len(mentions) - 1, 0, -1):  # "consolidation and atelectasis in the base"
        between = sentence.words[mentions[i - 1][1] : mentions[i][0]]
        if not found[i - 1] and _coordinated(between):
            found[i - 1] = [site for site in found[i] if site.start >= mentions[i][1]]
    for i in range(len(mentions)):
        if not found[i]:
            found[i] = _inherited(sentence, i, found, carried)
    return [_under(_heading(sentence), sites) for sites in found]


def _heading(sentence: Sentence) -> Site | None:
    """The site that stands as heading: "LEFT LUNG: basilar atelectasis"."""
    first = sentence.sites[0] if sentence.sites else None
    heads = first is not None and first.start == 0 and first.end < len(sentence.words)
    return first if heads and sentence.words[first.end] == ":" else None


def _under(heading: Site | None, sites: list[Site]) -> list[Site]:
    if heading is None or heading.side is None:
        return sites
    return [each if each.side else replace(each, side=heading.side) for each in sites] or [heading]


def _own_sites(sentence: Sentence, start: int, end: int) -> list[Site]:
    inside = [site for site in sentence.sites if site.start < end and site.end > start]
    near = _before(sentence, start) + inside
    if any(site.complete for site in near):
        return combine(near)
    return combine(near + _after(sentence, end))


def _before(sentence: Sentence, start: int) -> list[Site]:
    """Sites in the noun phrase that ends with the mention at `start`."""
    words, sites = sentence.words, sentence.sites
    first = max((end for _, end in sentence.mentions if end <= start), default=0)
    found: list[Site] = []
    i = start - 1
    while i >= first:
        site = _site_at(i, sites)
        joins = bool(found) and _joins(words[i + 1 : found[0].start], _site_at(i - 1, sites))
        if site is not None:
            found.insert(0, site)
            i = site.start - 1
        elif words[i] in _BEFORE_STOP or (words[i] in _AND and not joins):
            break
        else:
            i -= 1
    return found


def _joins(between: Sequence[str], earlier: Site | None) -> bool:
    """Whether "and" joins two sites: "left and right", "small right and moderate left"."""
    if earlier is None:
        return False
    return not between or (earlier.place is None and all(word in _SIZES for word in between))


def _after(sentence: Sentence, end: int) -> list[Site]:
    """Sites in the phrases that follow the mention, up to the next mention or clause."""
    words = sentence.words
    limit = min((start for start, _ in sentence.mentions if start >= end), default=len(words))
    found: list[Site] = []
    asked = words[end : end + 1] == [":"]  # "effusion: small, right"
    linked, i = asked, end + asked
    while i < limit and words[i] not in _CLAUSE_END:
        site = _site_at(i, sentence.sites)
        if site is None or site.end > limit or not (linked or site.side):
            linked = linked or words[i] in _LINKS
            i += 1
            continue
        ahead = words[site.end : limit]
        if limit < len(words) and not any(w in _BEFORE_STOP or w in _JOINING for w in ahead):
            break  # it stands right before the next mention and belongs to that one
        found.append(site)
        i = site.end
    return found


def _site_at(token: int, sites: Sequence[Site]) -> Site | None:
    return next((site for site in sites if site.start <= token < site.end), None)


def combine(sites: list[Site]) -> list[Site]:
    """A lone side and a lone place are one site; a vague place beside a precise one goes.

    Sides without a place are several: "small right, moderate left effusions".
    """
    places = [site for site in sites if site.place is not None]
    sides = [site for site in sites if site.place is None]
    places = [site for site in places if site.place not in _WEAK] or places
    if not places or not sides:
        return places or list({site.side: site for site in reversed(sites)}.values())[::-1]
    side = sides[0].side
    return [site if site.side else replace(site, side=side) for site in places]


def _coordinated(between: Sequence[str]) -> bool:
    return bool(between) and between[0] in _JOINING and not _CLAUSE_END & set(between)


def _inherited(
    sentence: Sentence, index: int, found: list[list[Site]], carried: Sequence[Site]
) -> list[Site]:
    """Sites from the opening of the clause, the mention before, or the sentence before."""
    start = sentence.mentions[index - 1][1] if index else 0
    end = sentence.mentions[index][0]
    opening = [site for site in sentence.sites if start <= site.start and site.end <= end]
    between = sentence.words[opening[-1].end if opening else start : end]
    if _CLAUSE_END & set(between):
        return []
    if index:
        return combine(opening[-1:]) or ([] if _apart(between) else found[index - 1])
    if opening:
        return combine(opening)
    return list(carried) if _REFERRING & set(between[:4]) else []


def _apart(between: Sequence[str]) -> bool:
    """Whether "with" adds a finding ("opacity with effusion") rather than explains one."""
    return any(
        word == "with" and (i == 0 or between[i - 1] not in ("consistent", "compatible"))
        for i, word in enumerate(between)
    )
