"""The sections of a radiology report: findings and impression (paper 3.1.1).

A file looks like MIMIC-CXR 2.0's (Johnson et al. 2019): "FINAL REPORT", then headings. In many a
view stands as heading ("CHEST, TWO VIEWS:"), or one is misspelled, has no colon, stands inside a
line, or is not there at all. So only known headings are cut out, and only what stands under one
that is no account of the film (indication, technique) is left out, to the end of its paragraph.
All else is kept as findings: "HEART: big" is part of what is said.
"""

import re
from difflib import get_close_matches

from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA

_RULES = read_json(PACKAGE_DATA / "text_rules.json")["headings"]
_WORDS = {what: frozenset(words.split()) for what, words in _RULES.items()}
FINDINGS, IMPRESSION, OTHER = "findings", "impression", "other"
_ORGAN = "organ"  # a heading that is part of what is said
_KNOWN = sorted(_WORDS[FINDINGS] | _WORDS[IMPRESSION] | _WORDS[OTHER])
_MARKS = r"[ \t>*#_•=\[\-]*(?:\d{1,2}[.)][ \t]*)?[*_]*"  # of markdown and of lists
# A colon (a full-width one too), but not that of a time of day, or a dash.
_END = r"(?:(?<!\d):|:(?!\d)|[\uff1a|])[*_]*|[ \t][-\u2013\u2014][ \t]"
_AT_LINE = re.compile(
    rf"^{_MARKS}(?P<name>(?:\d )?[A-Za-z](?:[A-Za-z0-9 ,;&/()'_\-]|\d:\d|[AP]\.M\.?){{1,70}}?)"
    rf"[ \t*_=\-\]]*(?P<end>{_END}|\t|[.;]?$)",
    re.M,
)
_NAMES = (
    "findings?|impressions?|conclusions?|indications?|history|comparisons?|technique|"
    "exam(?:ination)?"
)
_IN_LINE = re.compile(
    rf"(?:(?<=[.;!?\]])|(?<=_))[ \t]+(?P<name>(?:{_NAMES})(?:[ \t]*(?:/|and)[ \t]*(?:{_NAMES}))?)"
    rf"[ \t]*(?P<end>{_END})",
    re.I,
)
_CAPITALS = "FINDINGS?|IMPRESSIONS?|CONCLUSIONS?"
_VIEW_IN_LINE = re.compile(r"(?<=[.;!?])[ \t]+(?P<name>[A-Z][A-Z ,/()&]{3,60})(?P<end>:)")
_IN_CAPITALS = re.compile(
    rf"(?<=\S)[ \t]+(?P<name>{_CAPITALS}|Findings|Impression|Conclusion)[ \t]*(?P<end>{_END})"
)
_NO_COLON = re.compile(rf"^{_MARKS}(?P<name>{_CAPITALS})(?P<end>)(?=[ \t]+(?:[A-Z][a-z]|\d))", re.M)
_SIGNATURE = re.compile(
    r"^\W*(?:final report|preliminary report|radiology report|wet read version|"
    r"electronically signed|(?:report )?(?:dictated|signed|transcribed|approved|verified)"
    r"(?=:| ?(?:by|on|at|and|date|electron|_)|$)|"
    r"(?:this report was|read by|finali[sz]ed by|interpreted by)\b|"
    r"i(?: have|, the)?[^.]{0,40}\breview|attending physician|dr\.? _+|_+,? m\.?d\b)[^\n]*$",
    re.I | re.M,
)
_TAG = re.compile(
    r"(<br ?/?>|</(?:p|div|h\d|li)>)|</?(?:p|div|h\d|li|ul|b|i|u|em|strong|span)\b[^<>]*>", re.I
)
_NOTHING = re.compile(r"\A[\W\d_]*(?:none|n/a)?[\W\d_]*\n", re.I)  # "COMPARISON: ___"
_BLANK = re.compile(r"\n[ \t]*\n")
_NO_WORD = re.compile(r"^[\W\d_]*(?:[AP]M\W*)?$", re.M)  # blanks of de-identification, dates, rules


def parse_sections(text: str) -> tuple[str, str]:
    """The (findings, impression) of one report's file, white space collapsed; "" where absent.

    Text that stands under no known heading, before the first or after a paragraph that is no
    account of the film, counts as findings; signatures and lines without a word do not count.
    """
    text = (
        re.sub("[\ufeff\u200b-\u200d\u2060]", "", text).replace("\xa0", " ").replace("&nbsp;", " ")
    )
    text = text if "\n" in text else text.replace("\\r", "").replace("\\n", "\n")
    text = re.sub("\r\n|[\r\v\f\x85\u2028\u2029]", "\n", text)
    if "</" in text or "<br" in text:
        text = _TAG.sub(lambda tag: "\n" if tag[1] else "", text)
    headings = [(0, 0, FINDINGS), *_headings(text)]
    parts: dict[str, list[str]] = {FINDINGS: [], IMPRESSION: [], OTHER: []}
    ends = [start for start, _, _ in headings[1:]] + [len(text)]
    for (_, start, kind), end in zip(headings, ends, strict=True):
        body = text[start:end].strip()
        if kind == OTHER:
            body = _NOTHING.sub("\n\n", body)
        for k, paragraph in enumerate(_BLANK.split(body)):
            placed = FINDINGS if kind == OTHER and k else kind
            said = _NO_WORD.sub("", _SIGNATURE.sub("", paragraph))
            parts[placed].append(" ".join(said.split()))
    return tuple(" ".join(filter(None, parts[kind])) for kind in (FINDINGS, IMPRESSION))


def _headings(text: str) -> list[tuple[int, int, str]]:
    """The known headings (start, end, what stands below) in order; of two that overlap the first.

    Without a colon a line of its own is a heading in capitals, or like "Findings".
    """
    found = []
    for pattern in (_AT_LINE, _IN_LINE, _IN_CAPITALS, _NO_COLON, _VIEW_IN_LINE):
        for match in pattern.finditer(text):
            name, kind = match["name"], _kind(match["name"])
            if kind is None or (pattern is _VIEW_IN_LINE and kind == OTHER):
                continue
            alone = name.isupper() or (kind != OTHER and name.istitle() and " " not in name)
            if alone or match["end"].strip(" \t.;"):
                found.append((match.start(), match.end(), kind))
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(found, key=lambda each: each[0]):
        if kind == _ORGAN:
            if not kept or kept[-1][2] != OTHER:
                continue
            end, kind = start, FINDINGS
        if not kept or start >= kept[-1][1]:
            kept.append((start, end, kind))
    return kept


def _kind(name: str) -> str | None:
    """What stands under a heading; None for words that are no known heading."""
    words = re.findall(r"[A-Z]+", name.upper().replace("(S)", "S"))
    if not words:
        return None
    read = [_corrected(word) for word in words]
    named = set(read) - _WORDS["beside findings or impression"]
    if named and named <= _WORDS[FINDINGS] | _WORDS[IMPRESSION]:
        return IMPRESSION if named <= _WORDS[IMPRESSION] else FINDINGS
    # "CHEST", "PORTABLE CHEST EXAMINATION", "CHEST, TWO VIEWS"; not "AP" alone
    views = words[0] in _WORDS["view"] and (words == ["CHEST"] or len(words) > 1)
    views = views and set(words) <= _WORDS["view"] | {"EXAM", "EXAMINATION", "STUDY"}
    if views or (len(words) == 1 and words[0] in _WORDS["findings where the whole heading"]):
        return FINDINGS
    if set(words) <= _WORDS[_ORGAN]:
        return _ORGAN
    return OTHER if {read[0], read[-1]} & _WORDS[OTHER] else None


def _corrected(word: str) -> str:
    """The known heading that a word is a slip of, or the word."""
    if len(word) < 6 or word in _WORDS["view"] | _WORDS["beside findings or impression"]:
        return word
    return next(iter(get_close_matches(word, _KNOWN, n=1, cutoff=0.85)), word)
