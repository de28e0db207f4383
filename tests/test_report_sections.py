"""Reports as people file them: nothing that is said of the film is lost, no heading is a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils.text.sections import parse_sections

SAID, LAST = "Small left effusion.", "Stable."
BOTH = (SAID, LAST)

# kind -> text -> (findings, impression)
REPORTS = {
    "MIMIC-CXR's own layout": {
        f"           FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___F with "
        f"cough.\n \n COMPARISON:  ___\n \n FINDINGS:  {SAID}\n \n IMPRESSION:  {LAST}\n": BOTH,
        f"FINDINGS:\n\n {SAID}\n\nIMPRESSION:\n\n {LAST}": BOTH,
        f"Findings: {SAID}\nImpression: {LAST}": BOTH,
        f"CONCLUSION: {LAST}": ("", LAST),
        "IMPRESSION: A.\nIMPRESSION: B.": ("", "A. B."),
        f"WET READ: ___ ___ 5:30 PM\n FINDINGS: {SAID}\n IMPRESSION: {LAST}": BOTH,
    },
    "view headings": {
        f" INDICATION: cough\n \n CHEST, TWO VIEWS:  {SAID}\n": (SAID, ""),
        f"PA AND LATERAL VIEWS OF THE CHEST:  {SAID}\n": (SAID, ""),
        f"PORTABLE AP CHEST RADIOGRAPH: {SAID}\nIMPRESSION: {LAST}": BOTH,
        f"CHEST: {SAID}\nIMPRESSION: {LAST}": BOTH,
        f"SINGLE FRONTAL VIEW OF THE CHEST\n{SAID}\n\nIMPRESSION: {LAST}": BOTH,
        f"PORTABLE CHEST EXAMINATION: {SAID}": (SAID, ""),
        f"HISTORY: fall.\n\nAP CHEST, UPRIGHT: {SAID}": (SAID, ""),
        f"CHEST RADIOGRAPH PERFORMED ON ___:  {SAID}": (SAID, ""),
        f"CHEST; TWO VIEWS: {SAID}": (SAID, ""),
        f"CHEST, TWO VIEWS ON ___ AT 14:30: {SAID}\nIMPRESSION: {LAST}": BOTH,
        f"PA AND LATERAL CHEST RADIOGRAPH ___ AT 10:41 A.M.:  {SAID}": (SAID, ""),
        f"UPRIGHT CHEST RADIOGRAPHS OBTAINED ___\n\n{SAID}": (SAID, ""),
    },
    "slips": {
        f" HISTORY: fall\n \n IMPRESION:  {LAST}\n": ("", LAST),
        f"FINDNGS: {SAID}\nIMPRESSSION: {LAST}": BOTH,
        f"FINDIGNS: {SAID}\nIMPRESSIONS: {LAST}": BOTH,
        f"INDICATON: cough\nFINDING: {SAID}\nCONCLUSION: {LAST}": BOTH,
    },
    "reversed and joined": {
        f"IMPRESSION: {LAST}\n\nFINDINGS: {SAID}": BOTH,
        f"FINDINGS AND IMPRESSION: {SAID}": (SAID, ""),
        f"FINDINGS/IMPRESSION: {SAID}": (SAID, ""),
        f"IMPRESSION/FINDINGS: {SAID}": (SAID, ""),
        f"FINDINGS: {SAID}\nIMPRESSION AND PLAN: {LAST}": BOTH,
    },
    "organ headings": {
        f"FINDINGS:\nLUNGS: Clear.\nPLEURA: {SAID}\n\nIMPRESSION:\n{LAST}": (
            f"LUNGS: Clear. PLEURA: {SAID}", LAST,
        ),
        "HEART: Enlarged.\nPNEUMOTHORAX: None.": ("HEART: Enlarged. PNEUMOTHORAX: None.", ""),
    },
    "no colon": {
        f"FINDINGS\n{SAID}\n\nIMPRESSION\n{LAST}": BOTH,
        f"Findings\n{SAID}\nImpression\n{LAST}": BOTH,
        "FINDINGS: Clear, similar to the prior\nstudy\nof the chest.": (
            "Clear, similar to the prior study of the chest.", "",
        ),
    },
    "one line": {
        f"FINDINGS: {SAID} IMPRESSION: {LAST}": BOTH,
        f"Indication: cough. Comparison: None. Findings: {SAID} Impression: {LAST}": BOTH,
        f"EXAM: chest ___ FINDINGS: {SAID} IMPRESSION: {LAST}": BOTH,
    },
    "one line without stops": {
        f"INDICATION: cough FINDINGS: {SAID} IMPRESSION: {LAST}": BOTH,
        f"FINDINGS: Small left effusion IMPRESSION: {LAST}": ("Small left effusion", LAST),
        f"FINDINGS - {SAID}\nIMPRESSION - {LAST}": BOTH,
        f"FINDINGS\uff1a{SAID}\nIMPRESSION\uff1a{LAST}": BOTH,
        f"FINDINGS: {SAID}\n\nIMPRESSION: {LAST}\n____________": BOTH,
    },
    "markdown": {
        f"## Findings\n{SAID}\n## Impression\n{LAST}": BOTH,
        f"**FINDINGS:** {SAID}\n**IMPRESSION:** {LAST}": BOTH,
        f"**Findings**: {SAID}\n\n**Impression**: {LAST}": BOTH,
        f"1. FINDINGS: {SAID}\n2. IMPRESSION: {LAST}": BOTH,
    },
    "marks of files": {
        f"\ufeffFINDINGS: {SAID}\nIMPRESSION: {LAST}": BOTH,
        f"FINDINGS:\xa0{SAID}\r\n\r\nIMPRESSION:\xa0{LAST}\r\n": BOTH,
        f"FINDINGS: {SAID}\rIMPRESSION: {LAST}": BOTH,
    },
    "nothing stands above it": {
        SAID: (SAID, ""),
        f"{SAID}\n\n{LAST}": (f"{SAID} {LAST}", ""),
        f"{SAID}\nIMPRESSION: {LAST}": BOTH,
        f"INDICATION: cough\n\n{SAID}\n\nIMPRESSION: {LAST}": BOTH,
        f"INDICATION: cough\n\nCOMPARISON: None.\n\n{SAID}": (SAID, ""),
        f"FINAL REPORT\n HISTORY: Cough.\n\n {SAID}": (SAID, ""),
    },
    "signatures, addenda, blanks": {
        f"INDICATION: cough\n\n {SAID}\n\n Electronically signed by Dr. ___": (SAID, ""),
        f"FINDINGS: {SAID}\nIMPRESSION: {LAST}\n\nDictated by: ___, MD": BOTH,
        f"FINDINGS: {SAID}\n\nI have personally reviewed the images.\nIMPRESSION: {LAST}": BOTH,
        f"FINDINGS: {SAID}\n\n___\n\n___-___-___\n\nIMPRESSION: {LAST}": BOTH,
        f"FINDINGS: Clear.\n\nADDENDUM: {SAID}": (f"Clear. {SAID}", ""),
        f"FINDINGS: {SAID}\nIMPRESSION: {LAST}\nNOTIFICATION: Discussed with Dr. ___.": BOTH,
    },
    "nothing is said": {
        "": ("", ""),
        "INDICATION: cough": ("", ""),
        "FINAL REPORT\n": ("", ""),
        "FINAL REPORT\n INDICATION: Cough": ("", ""),
        "FINDINGS:\n\nIMPRESSION:\n": ("", ""),
    },
}  # fmt: skip
CASES = [(kind, text, found) for kind, each in REPORTS.items() for text, found in each.items()]


@pytest.mark.parametrize(("kind", "text", "expected"), CASES)
def test_sections(kind, text, expected):
    assert parse_sections(text) == expected, kind


HEADINGS = st.sampled_from(["FINDINGS:", "IMPRESSION:", "CHEST, TWO VIEWS:", "FINDINGS", "LUNGS:"])


@given(st.lists(st.tuples(HEADINGS, st.sampled_from(["Clear.", "Small effusion.", "Nodule?"]))))
def test_no_sentence_is_lost_and_no_heading_becomes_a_word(parts):
    findings, impression = parse_sections("\n".join(f"{name}\n{said}" for name, said in parts))
    whole = f"{findings} {impression}"
    assert all(said in whole for _, said in parts)
    assert not any(word in whole for word in ("FINDINGS", "IMPRESSION", "VIEWS"))


@given(st.text(alphabet="abN: \n*_#.FINDGS/-\xa0") | st.text(max_size=300))
def test_any_text_gives_sections_that_are_part_of_it(text):
    for section in parse_sections(text):
        assert section == " ".join(section.split())
        assert set(section.split()) <= set(text.replace(":", ": ").split()) | set(text.split())


WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=8).map(" ".join)


@given(WORDS, WORDS, WORDS)
def test_a_written_report_is_read_back(indication, findings, impression):
    text = (
        f"FINAL REPORT\n INDICATION:  {indication}\n\n FINDINGS:\n\n {findings}\n\n"
        f" IMPRESSION:\n\n {impression}\n"
    )
    assert parse_sections(text) == (findings, impression)
