"""Which site belongs to which mention: the nearest modifier in the clause.

Order of trust: words inside or right before the mention ("left lower lobe opacity"), a phrase after
it ("opacity in the right base"), a phrase that opens the clause ("in the left lower lobe there is
an opacity"), the sites of the mention it is coordinated with or explains ("... may represent
atelectasis").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rctpl_utils.text.concepts.sites import WEAK, Site, words_of

_AND = words_of("and or and/or")
_JOINING = _AND | {"/", "&", ",", "versus", "vs", "vs.", "with"}
_BEFORE_STOP = words_of(
    "in of at within on over for with from to is are was were has have be there which that no not "
    "without but ; : . ? ( ) as by may represents represent representing suggests than"
)
_SIZES = words_of("tiny trace small minimal mild moderate large loculated layering new stable")
_LINKS = words_of(
    "in within at of over overlying involving along throughout on near affecting through "
    "projecting , ( both bilaterally"
)
_CLAUSE_END = words_of("; : but however although though no not without which")
_REFERRING = words_of("this these which findings finding appearance it")


@dataclass(frozen=True)
class Sentence:
    """A sentence [start, end) of a document, its mentions as token ranges, its sites.

    `words` are the whole document's tokens in lower case; all positions count from its start.
    """

    words: Sequence[str]
    start: int
    end: int
    mentions: Sequence[tuple[int, int]]
    sites: Sequence[Site]


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
    return [_under(_scope(sentence), sites) for sites in found]


def _scope(sentence: Sentence) -> Site | None:
    """The site that stands as heading: "LEFT LUNG: basilar atelectasis"."""
    first = sentence.sites[0] if sentence.sites else None
    heads = first is not None and first.start == sentence.start and first.end < sentence.end
    return first if heads and sentence.words[first.end] == ":" else None


def _under(scope: Site | None, sites: list[Site]) -> list[Site]:
    if scope is None or scope.side is None:
        return sites
    return [each if each.side else replace(each, side=scope.side) for each in sites] or [scope]


def _own_sites(sentence: Sentence, start: int, end: int) -> list[Site]:
    inside = [site for site in sentence.sites if site.start < end and site.end > start]
    near = _before(sentence, start) + inside
    if any(site.complete for site in near):
        return combine(near)
    return combine(near + _after(sentence, end))


def _before(sentence: Sentence, start: int) -> list[Site]:
    """Sites in the noun phrase that ends with the mention at `start`."""
    words, sites = sentence.words, sentence.sites
    first = max((end for _, end in sentence.mentions if end <= start), default=sentence.start)
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
    limit = min((start for start, _ in sentence.mentions if start >= end), default=sentence.end)
    found: list[Site] = []
    linked, i = False, end
    while i < limit and words[i] not in _CLAUSE_END:
        site = _site_at(i, sentence.sites)
        if site is None or site.end > limit or not (linked or site.side):
            linked = linked or words[i] in _LINKS
            i += 1
            continue
        if limit < sentence.end and _modifies(words[site.end : limit]):
            break
        found.append(site)
        i = site.end
    return found


def _site_at(token: int, sites: Sequence[Site]) -> Site | None:
    return next((site for site in sites if site.start <= token < site.end), None)


def _modifies(between: Sequence[str]) -> bool:
    """Whether what stands right before the next mention belongs to that one."""
    return not any(word in _BEFORE_STOP or word in _JOINING for word in between)


def combine(sites: list[Site]) -> list[Site]:
    """A lone side and a lone place are one site; a vague place beside a precise one goes.

    Sides without a place are several: "small right, moderate left effusions".
    """
    places = [site for site in sites if site.place is not None]
    sides = [site for site in sites if site.place is None]
    places = [site for site in places if site.place not in WEAK] or places
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
    start = sentence.mentions[index - 1][1] if index else sentence.start
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
