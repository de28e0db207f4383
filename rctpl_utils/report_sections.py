"""The sections of a radiology report: findings and impression (paper 3.1.1).

A file looks like MIMIC-CXR 2.0's (Johnson et al. 2019): a line "FINAL REPORT", then headings in
capitals with a colon: EXAMINATION, INDICATION, COMPARISON, FINDINGS, IMPRESSION.
"""

import re

_FINDINGS = frozenset({"FINDINGS", "FINDING", "CHEST FINDINGS", "CHEST"})
_IMPRESSION = frozenset({"IMPRESSION", "IMPRESSIONS", "CONCLUSION", "CONCLUSIONS", "OPINION"})
_BOTH = frozenset({"FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS / IMPRESSION"})
# A heading opens a line in capitals; the two that matter are also met in other cases, and inside
# a line when they are in capitals.
_HEADING = re.compile(
    r"^[ \t]*([A-Z][A-Z0-9 ,&/()'\-]{2,60}):"
    r"|^[ \t]*((?i:findings?(?: ?(?:and|/) ?impression)?|impressions?|conclusions?)):"
    r"|(?<=\.)[ \t]+(FINDINGS|IMPRESSION):",
    re.MULTILINE,
)


def parse_sections(text: str) -> tuple[str, str]:
    """The (findings, impression) of one report's file, white space collapsed; "" where absent.

    Where a report has neither heading, its last paragraph counts as findings, as MIMIC-CXR's own
    section reader does; text under other headings (indication, comparison) never does.
    """
    findings, impression = [], []
    headings = list(_HEADING.finditer(text))
    ends = [heading.start() for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=False):
        name = " ".join(next(filter(None, heading.groups())).upper().split())
        body = " ".join(text[heading.end() : end].split())
        if name in _FINDINGS or name in _BOTH:
            findings.append(body)
        elif name in _IMPRESSION:
            impression.append(body)
    if not any(findings) and not any(impression):
        findings = [_last_paragraph(text)]
    return " ".join(filter(None, findings)), " ".join(filter(None, impression))


def _last_paragraph(text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    plain = [p for p in paragraphs if p and not _HEADING.match(p) and p != "FINAL REPORT"]
    return plain[-1].removeprefix("FINAL REPORT ") if plain else ""
