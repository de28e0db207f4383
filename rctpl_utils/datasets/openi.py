"""Open-I: the Indiana University chest X-ray reports, whose MeSH codes are a human gold standard.

Source: Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution
and retrieval", JAMIA 2016; reports under CC BY-NC-ND 4.0, read from the archive that the
torchxrayvision package carries. Coders read the whole report and assigned codes such as
"Opacity/lung/base/left/patchy": a heading, then qualifiers. Codes name what is present only.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.workspace import PACKAGE_DATA


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
    reports = [parse_openi(data, member) for member, data in _members(Path(archive))]
    if not reports:
        raise InputError("no Open-I report (*.xml) in it", "Point to NLMCXR_reports.", file=archive)
    return sorted(reports, key=lambda report: (len(report.uid), report.uid))


def parse_openi(data: bytes, member: str) -> OpenIReport:
    """Parse one report's XML; `member` is its name in error messages.

    Raises:
        InputError: XML that is truncated or declares entities, or no report identifier.
    """
    try:
        root = fromstring(data)
    except (ParseError, DefusedXmlException, ValueError) as error:
        problem = f"this is no whole Open-I report ({error})"
        raise InputError(problem, "Fetch the file again.", file=member) from error
    identifier = root.find("uId")
    uid = "" if identifier is None else identifier.get("id", "")
    if not uid:
        raise InputError("the report has no <uId id=...>", "Fetch the file again.", file=member)
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
        side = _side(qualifiers)
        zone = next((places[word] for word in qualifiers if word in places), None)
        severity = next((word for word in severities if word in qualifiers), None)
        found += [
            MeshFinding(rule["concept"], side, zone, severity, code)
            for rule in rules.get(heading, ())
            if _applies(rule, qualifiers)
        ]
    return found


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".xml"):
                    stream = archive.extractfile(member)
                    assert stream is not None  # a regular file always has one
                    yield f"{source}!{member.name}", stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        problem = f"the archive is damaged ({error})"
        raise InputError(problem, "Fetch it again.", file=source) from error


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())


def _side(qualifiers: list[str]) -> str | None:
    sides = {side for side in ("left", "right", "bilateral") if side in qualifiers}
    return "bilateral" if len(sides) > 1 else next(iter(sides), None)


def _applies(rule: dict, qualifiers: list[str]) -> bool:
    wanted, unwanted, found = rule.get("any_of"), rule.get("none_of", ()), set(qualifiers)
    return (wanted is None or not found.isdisjoint(wanted)) and found.isdisjoint(unwanted)


@cache
def _mesh_rules() -> tuple[dict[str, list[dict]], dict[str, str], tuple[str, ...]]:
    raw = read_json(PACKAGE_DATA / "mesh.json")
    rules: dict[str, list[dict]] = {}
    for rule in raw["rules"]:
        rules.setdefault(rule["heading"], []).append(rule)
    return rules, raw["zones"], tuple(raw["severities"])


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
