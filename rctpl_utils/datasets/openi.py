"""Open-I: the Indiana University chest X-ray reports, whose MeSH codes are a human gold standard.

Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and
retrieval", JAMIA 2016; the reports (CC BY-NC-ND 4.0) are read from what torchxrayvision carries.
Codes, as "Opacity/lung/base/left/patchy", a heading and qualifiers, name what is present only. What
reads the films stands in `openi_films`: whoever needs reports needs none of it.
"""

import tarfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from defusedxml.ElementTree import fromstring

from rctpl_utils.errors import InputError, naming
from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA

NOT_CODED = "No Indexing"


@dataclass(frozen=True)
class OpenIReport:
    """One report; empty strings for absent sections; `mesh` holds the human ("major") codes."""

    uid: str
    findings: str
    impression: str
    indication: str
    comparison: str
    mesh: tuple[str, ...]


@dataclass(frozen=True)
class MeshFinding:
    """A MeSH code in our vocabulary: what, on which side, in which zone, how severe."""

    concept: str
    side: str | None
    zone: str | None
    severity: str | None
    code: str


def openi_archive() -> Path:
    """The archive of all 3,955 reports inside the torchxrayvision package."""
    return xrv_file("NLMCXR_reports.tgz")


def read_openi(archive: str | Path) -> list[OpenIReport]:
    """Read all reports (*.xml) of a .tgz archive, ordered by number; nothing is unpacked to disk.

    Raises:
        InputError: no report in it, a damaged archive or a damaged report (named).
    """
    reports = []
    with (
        naming(archive, "the archive is damaged", "Fetch it again."),
        tarfile.open(archive) as members,
    ):
        for member in members:
            if member.isfile() and member.name.endswith(".xml"):
                data = members.extractfile(member).read()
                reports.append(parse_openi(data, f"{archive}!{member.name}"))
    if not reports:
        raise InputError("no Open-I report (*.xml) in it", "Point to NLMCXR_reports.", file=archive)
    return sorted(reports, key=lambda report: (len(report.uid), report.uid))


def parse_openi(data: bytes, member: str) -> OpenIReport:
    """Parse one report's XML; `member` is its name in error messages.

    Raises:
        InputError: XML that is truncated or declares entities, or no report identifier.
    """
    again = "Fetch the file again."
    with naming(member, "this is no whole Open-I report", again):
        root = fromstring(data)
    identifier = root.find("uId")
    uid = "" if identifier is None else identifier.get("id", "")
    if not uid:
        raise InputError("the report has no <uId id=...>", again, file=member)
    texts = root.iter("AbstractText")
    sections = {text.get("Label", "").upper(): _clean("".join(text.itertext())) for text in texts}
    return OpenIReport(
        uid=uid,
        findings=sections.get("FINDINGS", ""),
        impression=sections.get("IMPRESSION", ""),
        indication=sections.get("INDICATION", ""),
        comparison=sections.get("COMPARISON", ""),
        mesh=tuple(text for major in root.iter("major") if (text := _clean(major.text))),
    )


def mesh_findings(report: OpenIReport) -> list[MeshFinding]:
    """The report's codes in our vocabulary, in order; codes of other things are left out.

    `data/mesh.json` holds the mapping, chosen on the development half of the reports.
    """
    rules, places, severities = _mesh_rules()
    found = []
    for code in report.mesh:
        heading, *qualifiers = (part.strip() for part in code.split("/"))
        sides = {side for side in ("left", "right", "bilateral") if side in qualifiers}
        side = "bilateral" if len(sides) > 1 else next(iter(sides), None)
        zone = next((places[word] for word in qualifiers if word in places), None)
        severity = next((word for word in severities if word in qualifiers), None)
        found += [
            MeshFinding(rule["concept"], side, zone, severity, code)
            for rule in rules.get(heading, ())
            if ("any_of" not in rule or not set(rule["any_of"]).isdisjoint(qualifiers))
            and set(rule.get("none_of", ())).isdisjoint(qualifiers)
        ]
    return found


@cache
def _mesh_rules() -> tuple[dict[str, list[dict]], dict[str, str], tuple[str, ...]]:
    raw = read_json(PACKAGE_DATA / "mesh.json")
    rules: dict[str, list[dict]] = {}
    for rule in raw["rules"]:
        rules.setdefault(rule["heading"], []).append(rule)
    return rules, raw["zones"], raw["severities"]


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())


def xrv_file(name: str) -> Path:
    """Path of one packaged table or archive of torchxrayvision, by file name."""
    spec = find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise InputError("torchxrayvision is not installed", "Run ./run_all.sh, which installs it.")
    path = Path(spec.origin).parent / "data" / name
    if not path.is_file():
        problem, cure = "torchxrayvision does not carry this file", "Install torchxrayvision 1.5.7."
        raise InputError(problem, cure, file=path)
    return path
