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

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from io import TextIOWrapper
from itertools import accumulate, product
from pathlib import Path
from typing import Any, NamedTuple

import spacy
from spacy.language import Language

from rctpl_utils.errors import InputError, naming
from rctpl_utils.given_files import opened
from rctpl_utils.text.concepts.sites import add_places, combine, location_names, sites_of
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Assertion, Triplet
from rctpl_utils.vocabulary import load_vocabulary

_BLOCK = 1 << 20  # characters
_NO_SPACE = re.compile(r"\S")
_DECODER = json.JSONDecoder()
_log = logging.getLogger(__name__)
# Labels are "OBS-DP" in RadGraph 1.0, "Observation::definitely present" in RadGraph-XL, which also
# knows "Observation::measurement::definitely present".
_ASSERTIONS: Mapping[str, Assertion] = {"DP": "present", "DA": "absent", "U": "uncertain"}
_ASSERTIONS |= {"definitely present": "present", "definitely absent": "absent"}
_ASSERTIONS |= {"uncertain": "uncertain"}
_IS_OBSERVATION = {"OBS": True, "Observation": True, "ANAT": False, "Anatomy": False}


class _Entity(NamedTuple):
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
            meant, counted = _meant(str(key), ordered, named)
            if not meant:
                continue
            text, entities = parse_graph(meant[0].report_id, graph, file)
            report, row = meant[0], f"of key {str(key)!r}"
            if counted and (report := _same_text(text, meant)) is None:
                raise InputError(
                    f"its text is not that of report {meant[0].report_id}, which its number means",
                    "Run RadGraph on these reports in this order, or name its keys after the "
                    "reports.",
                    file=file,
                    row=row,
                )
            if report.report_id in read:
                problem = f"a second graph of report {report.report_id}"
                raise InputError(problem, "Keep one of them.", file=file, row=row)
            read.add(report.report_id)
            yield from self._triplets(report.report_id, text, entities)
            said, own = _letters(text), (_letters(report.findings), _letters(report.impression))
            odd += not any(part in said or said == "none" for part in own if part)
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
        stops = [i + 1 for i, token in enumerate(tokens) if token in (".", "?", "!")]
        for entity in entities.values():
            if not entity.observation:
                continue
            places = [
                " ".join(each.words for each in sorted(group, key=lambda each: each.start))
                for group in _anatomies(entity, entities)
            ]
            modifiers = [e.words for e in entities.values() if _modifies(e, entity, entities)]
            concepts, normal = _concepts(entity.words, modifiers, places)
            positive = "absent" if normal else entity.positive
            start = max((stop for stop in stops if stop <= entity.start), default=0)
            end = min((stop for stop in stops if stop > entity.end), default=len(tokens))
            said = " ".join(tokens[start:end])
            span = starts[entity.start], starts[entity.end] - 1
            for concept in concepts:
                for place in _locations(concept, places):
                    yield Triplet(report_id, said, concept, place, positive, *span, self.name)


def stream_objects(path: str | Path, block: int = _BLOCK) -> Iterator[tuple[str, dict]]:
    """Stream the (key, object) pairs of a JSON object, or of several in a row (JSON lines).

    RadGraph's file holds more than 200,000 reports: memory holds one pair and one block, of `block`
    characters. The file may be packed (`opened`); one that is absent, or other than whole JSON
    objects of objects, is an `InputError`.
    """
    path, cure = Path(path), "Fetch it again; each of its objects holds reports by their key."
    with naming(path, "no whole JSON object", cure), opened(path) as raw:
        text = _Text(TextIOWrapper(raw, encoding="utf-8-sig").read, block)
        while True:
            separator = text.expect("{")
            if text.next() == "}":
                separator = text.expect("}")
            while separator != "}":
                key = text.value(str)
                text.expect(":")
                yield key, text.value(dict)
                separator = text.expect(",}")
            if not text.next():
                return


class _Text:
    """Decodes JSON values one after another from a text stream."""

    def __init__(self, read: Callable[[int], str], block: int) -> None:
        self._read, self._block = read, block
        self._buffer, self._position = "", 0

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while (found := _NO_SPACE.search(self._buffer, self._position)) is None:
            self._position = len(self._buffer)
            if not self._more():
                return ""
        self._position = found.start()
        return found[0]

    def expect(self, characters: str) -> str:
        """Step over one of the characters and return it."""
        if not (found := self.next()):
            raise ValueError("it ends too early")
        if found not in characters:
            raise ValueError(f"expected one of {characters!r}, found {found!r}")
        self._position += 1
        return found

    def value(self, kind: type) -> Any:
        """The next value, whole; strings and objects end themselves, numbers would not."""
        if not self.next():
            raise ValueError("it ends too early")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._position)
                break
            except json.JSONDecodeError:
                if not self._more():
                    raise
        if not isinstance(value, kind):
            raise ValueError(f"expected a {kind.__name__}, found {value!r:.40}")
        self._position = end
        return value

    def _more(self) -> bool:
        block = self._read(max(self._block, len(self._buffer) - self._position))
        self._buffer = self._buffer[self._position :] + block
        self._position = 0
        return bool(block)


def _concepts(
    words: str, modifiers: Sequence[str], anatomies: Sequence[str]
) -> tuple[tuple[str, ...], bool]:
    """The concepts of an observation, the most specific phrase first; whether it denies them.

    "effusion" located at "pericardial" names nothing; "enlarged" at "heart" Cardiomegaly.
    """
    vocabulary = load_vocabulary()
    for frame in vocabulary.frames:
        stated = words in frame.present or words in frame.absent
        if stated and any(anatomy in frame.subjects for anatomy in anatomies):
            return (frame.concept,), words in frame.absent
    for before, middle in product([*anatomies, ""], [*modifiers, ""]):
        whole = f"{before} {middle} {words}".split()
        for start in range(len(whole) - len(words.split()) + 1):
            phrase = " ".join(whole[start:])  # "right pleural effusion", then without "right"
            if phrase in vocabulary.named:
                return vocabulary.named[phrase], False
    return (), False


def _locations(concept: str, anatomies: Sequence[str]) -> list[str | None]:
    """The canonical locations of anatomy phrases such as "left lower lobe"."""
    documents = [_finder()(anatomy) for anatomy in anatomies]
    sites = [site for each in documents for site in sites_of(each, [t.lower_ for t in each])]
    return location_names(concept, combine(sites), load_vocabulary())


@cache
def _finder() -> Language:
    return add_places(spacy.blank("en"), load_vocabulary())


def _meant(
    key: str, ordered: Sequence[Report], named: Mapping[str, Report]
) -> tuple[list[Report], bool]:
    """The reports that a key may mean, and whether it counts: then its text decides.

    "p10/p10000032/s50414267.txt", with backslashes too, is s50414267; "3" is the fourth report
    that was given, or the one called "3" or "s3".
    """
    stem = re.sub(r"^.*[/\\]|\.(?i:txt)$", "", key)
    if stem.isdecimal():
        counted = ordered[int(stem) :][:1] if len(stem) < 10 else []
        return counted + [named[name] for name in (stem, f"s{stem}") if name in named], True
    names = (key, stem, stem.lower(), stem.rsplit("_")[-1])
    return [named[name] for name in names if name in named][:1], False


def _same_text(text: str, meant: Sequence[Report]) -> Report | None:
    """The report of this text: its sections in either order, or one of them."""
    said = _letters(text)
    for report in meant:
        parts = (report.findings, report.impression)
        own = map(_letters, (*parts, "".join(parts), "".join(parts[::-1])))
        if said in (each or "none" for each in own):  # the package reads "None" where nothing is
            return report
    return None


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


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
