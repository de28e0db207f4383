"""The sections of a radiology report: findings and impression (paper 3.1.1).

A file looks like MIMIC-CXR 2.0's (Johnson et al. 2019): "FINAL REPORT", then headings. In many a
view stands as heading ("CHEST, TWO VIEWS:"), or one is misspelled, has no colon, stands inside a
line, or is not there at all. So only known headings are cut out, and only what stands under one
that is no account of the film (indication, technique) is left out, to the end of its paragraph.
All else is kept as findings: "HEART: big" is part of what is said.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FINDINGS, IMPRESSION, OTHER = "findings", "impression", "other"
_ORGAN = "organ"  # a heading that is part of what is said
_ORGANS = _words(
    "LUNG LUNGS HEART PLEURA MEDIASTINUM BONES HILA LINES TUBES DEVICES CARDIAC AIRWAYS AND"
)
_IMPRESSION = _words(
    "IMPRESSION IMPRESSIONS IMP IMPR CONCLUSION CONCLUSIONS OPINION SUMMARY RECOMMENDATION "
    "RECOMMENDATIONS"
)
_FINDINGS = _words("FINDINGS FINDING")
_OTHER = _words(
    "INDICATION INDICATIONS HISTORY COMPARISON COMPARISONS TECHNIQUE EXAM EXAMINATION EXAMINATIONS "
    "STUDY PROCEDURE REASON NOTIFICATION NOTIFICATIONS CLINICAL PATIENT NAME MRN DATE ACCESSION "
    "REFERRING PHYSICIAN DICTATED SIGNED ATTENDING RADIOLOGIST TECHNOLOGIST"
)
_WHOLE = _words(
    "ADDENDUM CXR REPORT BODY OBSERVATIONS INTERPRETATION RESULT RESULTS DESCRIPTION NARRATIVE"
)  # findings where they are the whole heading
# Words of a heading that says which views were taken, or how.
_VIEWS = _words(
    "CHEST THE OF A AN AND WITH VIEW VIEWS ONE TWO THREE SINGLE PA AP LAT LATERAL FRONTAL PORTABLE "
    "UPRIGHT SUPINE SEMI SEMIUPRIGHT ERECT RADIOGRAPH RADIOGRAPHS XRAY X RAY FILM FILMS DECUBITUS "
    "LORDOTIC INSPIRATION EXPIRATION IMAGE IMAGES PORT BEDSIDE PERFORMED OBTAINED TAKEN ON AT "
    "P M AM PM HOURS WET READ"
)
# What may stand beside "findings" or "impression" in a heading.
_BESIDE = _words(
    "AND OR CHEST FINAL PRELIMINARY PROVISIONAL OVERALL RADIOGRAPHIC RADIOLOGICAL OTHER ADDITIONAL "
    "ADDENDUM PERTINENT CXR THE LUNG PLAN END OF"
)
_KNOWN = sorted(_FINDINGS | _IMPRESSION | _OTHER)
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


class _Heading(NamedTuple):
    start: int
    end: int
    kind: str


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
    headings = _headings(text)
    opening = _Heading(0, 0, FINDINGS)
    parts: dict[str, list[str]] = {FINDINGS: [], IMPRESSION: [], OTHER: []}
    ends = [each.start for each in headings] + [len(text)]
    for heading, end in zip([opening, *headings], ends, strict=True):
        body = text[heading.end : end].strip()
        if heading.kind == OTHER:
            body = _NOTHING.sub("\n\n", body)
        for k, paragraph in enumerate(_BLANK.split(body)):
            placed = FINDINGS if heading.kind == OTHER and k else heading.kind
            said = _NO_WORD.sub("", _SIGNATURE.sub("", paragraph))
            parts[placed].append(" ".join(said.split()))
    return tuple(" ".join(filter(None, parts[kind])) for kind in (FINDINGS, IMPRESSION))


def _headings(text: str) -> list[_Heading]:
    """The known headings in their order; of two that overlap the first."""
    found = sorted(_candidates(text), key=lambda each: each.start)
    kept: list[_Heading] = []
    for heading in found:
        if heading.kind == _ORGAN:
            if not kept or kept[-1].kind != OTHER:
                continue
            heading = _Heading(heading.start, heading.start, FINDINGS)
        if not kept or heading.start >= kept[-1].end:
            kept.append(heading)
    return kept


def _candidates(text: str) -> Iterator[_Heading]:
    for pattern in (_AT_LINE, _IN_LINE, _IN_CAPITALS, _NO_COLON, _VIEW_IN_LINE):
        for match in pattern.finditer(text):
            name, kind = match["name"], _kind(match["name"])
            if pattern is _VIEW_IN_LINE and kind == OTHER:
                continue
            if kind is not None and (match["end"].strip(" \t.;") or _alone(name, kind)):
                yield _Heading(match.start(), match.end(), kind)


def _alone(name: str, kind: str) -> bool:
    """Whether a heading without a colon, a line of its own, is one: in capitals, or "Findings"."""
    return name.isupper() or (kind != OTHER and name.istitle() and " " not in name)


def _kind(name: str) -> str | None:
    """What stands under a heading; None for words that are no known heading."""
    words = re.findall(r"[A-Z]+", name.upper().replace("(S)", "S"))
    if not words:
        return None
    read = [_corrected(word) for word in words]
    named = set(read) - _BESIDE
    if named & (_FINDINGS | _IMPRESSION) and named <= _FINDINGS | _IMPRESSION:
        return IMPRESSION if named <= _IMPRESSION else FINDINGS
    if (len(words) == 1 and words[0] in _WHOLE) or _names_a_view(words):
        return FINDINGS
    if set(words) <= _ORGANS:
        return _ORGAN
    return OTHER if read[0] in _OTHER or read[-1] in _OTHER else None


def _names_a_view(words: list[str]) -> bool:
    """ "CHEST", "PORTABLE CHEST EXAMINATION", "CHEST, TWO VIEWS"; not "AP" alone."""
    plain = [word for word in words if word not in ("EXAM", "EXAMINATION", "STUDY")]
    known = words[0] in _VIEWS and set(plain) <= _VIEWS
    return known and (words == ["CHEST"] or len(words) > 1)


def _corrected(word: str) -> str:
    """The known heading that a word is a slip of, or the word."""
    if len(word) < 6 or word in _VIEWS | _BESIDE:
        return word
    return next(iter(get_close_matches(word, _KNOWN, n=1, cutoff=0.85)), word)
