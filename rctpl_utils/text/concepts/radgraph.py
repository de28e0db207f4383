"""Triplets from RadGraph's entities and relations (paper 3.1.1; Jain et al. 2021).

Two formats: `MIMIC-CXR_graphs.json` of RadGraph 1.0, whose keys are report paths, and what the
package radgraph returns (RadGraph-XL, Delbrouck et al. 2024), whose keys count the reports. Such a
key is believed only where its text is the report's own: letters and digits alone are compared, in
any case, so that white space and tokenization do not matter, with findings and impression, in this
order or the other, or one of them. Rules:

- an observation is a concept when its words, with those of its modifiers and of the anatomy it is
  located at, name one in the vocabulary; observations without `located_at` (an only
  `suggestive_of`, say) are kept, unlocated;
- an anatomy with its direct modifiers is a location, given to observations `located_at` any of its
  words; a word that modifies two anatomies stands for two locations;
- definitely present, definitely absent, uncertain become present, absent, uncertain.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, product
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.text.concepts.json_stream import stream_objects
from rctpl_utils.text.concepts.pipeline import build_places
from rctpl_utils.text.concepts.sites import combine, location_names, sites_of
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Assertion, Triplet
from rctpl_utils.vocabulary import Vocabulary, load_vocabulary

_log = logging.getLogger(__name__)
# Labels are "OBS-DP" in RadGraph 1.0, "Observation::definitely present" in RadGraph-XL, which also
# knows "Observation::measurement::definitely present".
_ASSERTIONS: Mapping[str, Assertion] = {
    "DP": "present",
    "DA": "absent",
    "U": "uncertain",
    "definitely present": "present",
    "definitely absent": "absent",
    "uncertain": "uncertain",
}
_IS_OBSERVATION = {"OBS": True, "Observation": True, "ANAT": False, "Anatomy": False}


@dataclass(frozen=True)
class _Entity:
    """An entity over the whitespace tokens [start, end) of its report's text."""

    words: str
    observation: bool
    positive: Assertion
    start: int
    end: int
    relations: tuple[tuple[str, str], ...]  # (type, target's identifier)


class RadGraphExtractor:
    """Reads RadGraph's JSON, a file or the package's returned dictionary; runs no network itself.

    Attributes:
        read: the reports that were found in it, known when `extract` has ended.
    """

    name = "radgraph"

    def __init__(self, graphs: str | Path | Mapping[str, dict]) -> None:
        self.graphs = graphs
        self.read: frozenset[str] = frozenset()
        self._namer = _namer()

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield the triplets of the given reports in the order of RadGraph's file.

        Character spans refer to RadGraph's own tokenized text, which `sentence` quotes. Logged as
        warnings: the number of reports that the file lacks, and that of texts under a report's name
        in which neither its findings nor its impression stands.

        Raises:
            InputError: a damaged file, an unknown label, a relation to nowhere, a report twice, a
                counting key whose text is another report's.
        """
        ordered = list(reports)
        named, read, odd = {report.report_id: report for report in ordered}, set(), 0
        mapped = isinstance(self.graphs, Mapping)
        file = None if mapped else Path(self.graphs)
        for key, graph in self.graphs.items() if mapped else stream_objects(file):
            meant = _meant(str(key), ordered, named)
            if not meant:
                continue
            text, entities = parse_graph(meant[0].report_id, graph, file)
            report_id = _same_text(str(key), text, meant, file)
            if report_id in read:
                problem, cure = f"a second graph of report {report_id}", "Keep one of them."
                raise InputError(problem, cure, file=file, row=f"of key {str(key)!r}")
            read.add(report_id)
            yield from self._triplets(report_id, text, entities)
            odd += not _holds(text, named[report_id])
        self.read = frozenset(read)
        if odd:
            why = "do not hold their report's findings or impression: check that they are its own"
            _log.warning("%d of %d of RadGraph's graphs %s", odd, len(read), why)
        if len(read) < len(named):
            why = "are not in RadGraph's file and give no triplet"
            _log.warning("%d of %d reports %s", len(named) - len(read), len(named), why)

    def _triplets(
        self, report_id: str, text: str, entities: Mapping[str, _Entity]
    ) -> Iterator[Triplet]:
        tokens = text.split()
        starts = [0, *accumulate(len(token) + 1 for token in tokens)]
        for entity in entities.values():
            if not entity.observation:
                continue
            places = [_phrase(group) for group in _anatomies(entity, entities)]
            modifiers = [e.words for e in entities.values() if _modifies(e, entity, entities)]
            concepts, normal = self._namer.name(entity.words, modifiers, places)
            positive = "absent" if normal else entity.positive
            span = starts[entity.start], starts[entity.end] - 1
            for concept in concepts:
                said = _sentence(tokens, entity)
                for place in self._namer.locations(concept, places):
                    yield Triplet(report_id, said, concept, place, positive, *span, self.name)


class _Namer:
    """Looks observations and anatomies up in the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._nlp = build_places(vocabulary)
        self._phrases: dict[str, tuple[str, ...]] = {}
        for concept, phrases in vocabulary.concepts.items():
            for each in phrases:
                self._phrases[each] = (*self._phrases.get(each, ()), concept)
        self._phrases |= dict.fromkeys(vocabulary.ignored, ())

    def name(
        self, words: str, modifiers: Sequence[str], anatomies: Sequence[str]
    ) -> tuple[tuple[str, ...], bool]:
        """The concepts of an observation, the most specific phrase first; whether it denies them.

        "effusion" located at "pericardial" names nothing; "enlarged" at "heart" Cardiomegaly.
        """
        for frame in self.vocabulary.frames:
            stated = words in frame.present or words in frame.absent
            if stated and any(anatomy in frame.subjects for anatomy in anatomies):
                return (frame.concept,), words in frame.absent
        for before, middle in product([*anatomies, ""], [*modifiers, ""]):
            whole = f"{before} {middle} {words}".split()
            for start in range(len(whole) - len(words.split()) + 1):
                candidate = " ".join(
                    whole[start:]
                )  # "right pleural effusion", then without "right"
                if candidate in self._phrases:
                    return self._phrases[candidate], False
        return (), False

    def locations(self, concept: str, anatomies: Sequence[str]) -> list[str | None]:
        """The canonical locations of anatomy phrases such as "left lower lobe"."""
        sites = []
        for anatomy in anatomies:
            document = self._nlp(anatomy)
            sites += sites_of(document, [token.lower_ for token in document])
        return location_names(concept, combine(sites), self.vocabulary)


@cache
def _namer() -> _Namer:
    return _Namer(load_vocabulary())


def _meant(key: str, ordered: Sequence[Report], named: Mapping[str, Report]) -> list[Report]:
    """The reports that a key may mean; a number means several, and its text decides.

    "p10/p10000032/s50414267.txt", with backslashes too, is s50414267; "3" is the fourth report
    that was given, or the one called "3" or "s3".
    """
    stem = re.sub(r"^.*[/\\]|\.(?i:txt)$", "", key)
    if stem.isdecimal():
        counted = ordered[int(stem) :][:1] if len(stem) < 10 else []
        return counted + [named[name] for name in (stem, f"s{stem}") if name in named]
    names = (key, stem, stem.lower(), stem.rsplit("_")[-1])
    return next(([named[name]] for name in names if name in named), [])


def _same_text(key: str, text: str, meant: Sequence[Report], file: Path | None) -> str:
    """The identifier of the report that is meant; the text of a number's must be the report's."""
    if not re.search(r"(?:^|[/\\])\d+(?:\.(?i:txt))?$", key):
        return meant[0].report_id
    said = _letters(text)
    for report in meant:
        parts = (report.findings, report.impression)
        own = map(_letters, (*parts, "".join(parts), "".join(parts[::-1])))
        if said in (each or "none" for each in own):  # the package reads "None" where nothing is
            return report.report_id
    raise InputError(
        f"its text is not that of report {meant[0].report_id}, which its number means",
        "Run RadGraph on these reports in this order, or name its keys after the reports.",
        file=file,
        row=f"of key {key!r}",
    )


def _holds(text: str, report: Report) -> bool:
    """Whether the findings or the impression stand in a text, by letters and digits."""
    own = [_letters(part) for part in (report.findings, report.impression)]
    said = _letters(text)
    return any(part in said or said == "none" for part in own if part)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def _sentence(tokens: list[str], entity: _Entity) -> str:
    stops = [i for i, token in enumerate(tokens) if token in (".", "?", "!")]
    start = max((i + 1 for i in stops if i < entity.start), default=0)
    end = min((i + 1 for i in stops if i >= entity.end), default=len(tokens))
    return " ".join(tokens[start:end])


def parse_graph(
    report_id: str, graph: dict, file: Path | None = None
) -> tuple[str, dict[str, _Entity]]:
    """A report's text and its entities by identifier; `file` is for errors only."""
    where = {"file": file, "row": report_id}
    try:
        text, raw = graph["text"], graph["entities"]
        tokens = [_letters(token) for token in text.split()]
        entities = {key: _entity(entity, where) for key, entity in raw.items()}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"this is no RadGraph output ({type(error).__name__}: {error})",
            "Each report needs text and entities with tokens, label, start_ix, end_ix, relations.",
            **where,
        ) from error
    for entity in entities.values():
        odd = "".join(tokens[entity.start : entity.end]) != _letters(entity.words)
        odd = odd or entity.end > len(tokens)
        if odd or any(t not in entities for _, t in entity.relations):
            problem = f"entity {entity.words!r} is not where it says in its report"
            raise InputError(problem, "Fetch the file again.", **where)
    return text, entities


def _entity(raw: dict, where: dict) -> _Entity:
    label = " ".join(raw["label"].split())
    parts = label.split("::") if "::" in label else label.split("-")
    observation, positive = _IS_OBSERVATION.get(parts[0]), _ASSERTIONS.get(parts[-1])
    if observation is None or positive is None:
        known = "Known are OBS-DP, OBS-DA, OBS-U, ANAT-DP and RadGraph-XL's long forms."
        raise InputError(f"unknown RadGraph label {label!r}", known, **where)
    relations = tuple((str(kind), str(target)) for kind, target in raw["relations"])
    start, end = int(raw["start_ix"]), int(raw["end_ix"]) + 1  # inclusive in the file
    if not 0 <= start < end:
        raise InputError(f"entity {raw['tokens']!r} is empty", "Fetch it again.", **where)
    return _Entity(raw["tokens"].lower(), observation, positive, start, end, relations)


def _modifies(entity: _Entity, target: _Entity, entities: Mapping[str, _Entity]) -> bool:
    """Whether one entity modifies another one directly."""
    return any(kind == "modify" and entities[t] is target for kind, t in entity.relations)


def _anatomies(entity: _Entity, entities: Mapping[str, _Entity]) -> list[list[_Entity]]:
    """The anatomies an observation is located at, each with its direct modifiers."""
    found: list[list[_Entity]] = []
    for kind, target in entity.relations:
        if kind != "located_at" or entities[target].observation:
            continue
        for path in _paths(entities[target], entities):
            group = [
                each
                for each in entities.values()
                if not each.observation and (each in path or _modifies(each, path[-1], entities))
            ]
            if group not in found:
                found.append(group)
    return found


def _paths(
    anatomy: _Entity, entities: Mapping[str, _Entity], below: tuple[_Entity, ...] = ()
) -> list[tuple[_Entity, ...]]:
    """From an anatomy over what it modifies up to what modifies no other: one path a head.

    The target of `located_at` may be any word of "left lower lobe", not its head only.
    """
    path = (*below, anatomy)
    above = [entities[target] for kind, target in anatomy.relations if kind == "modify"]
    above = [each for each in above if not each.observation and each not in path]
    return [longer for each in above for longer in _paths(each, entities, path)] or [path]


def _phrase(entities: Iterable[_Entity]) -> str:
    """The words of some entities in the order of the text."""
    return " ".join(entity.words for entity in sorted(entities, key=lambda e: e.start))
