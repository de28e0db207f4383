"""Triplets from RadGraph's entities and relations (paper 3.1.1; Jain et al. 2021).

Two formats: `MIMIC-CXR_graphs.json` of RadGraph 1.0, whose keys are report paths, and what the
package radgraph returns (RadGraph-XL, Delbrouck et al. 2024), whose keys count the reports. Labels
are "OBS-DP" in the former, "Observation::definitely present" in the latter. Rules:

- an observation is a concept when its words, with those of its modifiers and of the anatomy it is
  located at, name one in the vocabulary; observations without `located_at` (an only
  `suggestive_of`, say) are kept, unlocated;
- an anatomy with its direct modifiers is a location, given to observations `located_at` any of it;
- definitely present, definitely absent, uncertain become present, absent, uncertain.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from rctpl_utils.concepts import Assertion, Triplet
from rctpl_utils.concepts.json_stream import stream_objects
from rctpl_utils.concepts.naming import Namer
from rctpl_utils.errors import InputError
from rctpl_utils.reports import Report
from rctpl_utils.vocabulary import Vocabulary, load_vocabulary

_ASSERTIONS: Mapping[str, Assertion] = {
    "DP": "present",
    "DA": "absent",
    "U": "uncertain",
    "definitely present": "present",
    "definitely absent": "absent",
    "uncertain": "uncertain",
}
_KINDS = {"OBS": "observation", "ANAT": "anatomy"}
_KINDS |= {"Observation": "observation", "Anatomy": "anatomy"}


@dataclass(frozen=True)
class Entity:
    """An entity over the whitespace tokens [start, end) of its report's text."""

    words: str
    observation: bool
    positive: Assertion
    start: int
    end: int
    relations: tuple[tuple[str, str], ...]  # (type, target's identifier)


class RadGraphExtractor:
    """Reads RadGraph's JSON, a file or the package's returned dictionary; runs no network itself.

    Args:
        graphs: the file, read as a stream, or the mapping.
        vocabulary: the phrase lists; the packaged ones by default.
    """

    name = "radgraph"

    def __init__(
        self, graphs: str | Path | Mapping[str, dict], vocabulary: Vocabulary | None = None
    ) -> None:
        """Nothing is read before `extract`."""
        self.graphs = graphs
        self._namer = Namer(vocabulary or load_vocabulary())

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield the triplets of the given reports in the order of RadGraph's file.

        Character spans refer to RadGraph's own tokenized text, which `sentence` quotes.

        Raises:
            InputError: a damaged file, an unknown label, a relation to nowhere.
        """
        identifiers = [report.report_id for report in reports]
        wanted = set(identifiers)
        mapped = isinstance(self.graphs, Mapping)
        for key, graph in self.graphs.items() if mapped else stream_objects(self.graphs):
            report_id = _report_id(key, identifiers)
            if report_id in wanted:
                yield from self._triplets(report_id, graph)

    def _triplets(self, report_id: str, graph: dict) -> Iterator[Triplet]:
        text, entities = parse_graph(report_id, graph)
        tokens = text.split()
        starts = [0, *accumulate(len(token) + 1 for token in tokens)]
        for entity in entities.values():
            if not entity.observation:
                continue
            anatomies = _anatomies(entity, entities)
            modifiers = [e for e in entities.values() if _modifies(e, entity, entities)]
            named = self._namer.name(
                entity.words, [m.words for m in modifiers], [_phrase(a) for a in anatomies]
            )
            for concept in named.concepts:
                positive = "absent" if named.normal else entity.positive
                for location in self._namer.locations(concept, [_phrase(a) for a in anatomies]):
                    yield Triplet(
                        report_id,
                        _sentence(tokens, entity),
                        concept,
                        location,
                        positive,
                        starts[entity.start],
                        starts[entity.end] - 1,
                        self.name,
                    )


def parse_graph(report_id: str, graph: dict) -> tuple[str, dict[str, Entity]]:
    """A report's text and its entities by identifier.

    Raises:
        InputError: a missing field, an unknown label, a relation to nowhere.
    """
    try:
        text, raw = graph["text"], graph["entities"]
        entities = {key: _entity(report_id, entity) for key, entity in raw.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"this is no RadGraph output ({type(error).__name__}: {error})",
            "Each report needs text and entities with tokens, label, start_ix, end_ix, relations.",
            row=report_id,
        ) from error
    for entity in entities.values():
        if entity.end > len(text.split()) or any(t not in entities for _, t in entity.relations):
            raise InputError(
                f"entity {entity.words!r} points outside its report",
                "Fetch the file again.",
                row=report_id,
            )
    return text, entities


def _entity(report_id: str, raw: dict) -> Entity:
    label = raw["label"]
    parts = label.split("::") if "::" in label else label.split("-")
    kind, positive = _KINDS.get(parts[0]), _ASSERTIONS.get(parts[-1])
    if kind is None or positive is None:
        raise InputError(
            f"unknown RadGraph label {label!r}",
            "Known are OBS-DP, OBS-DA, OBS-U, ANAT-DP and RadGraph-XL's long forms.",
            row=report_id,
        )
    relations = tuple((str(kind_), str(target)) for kind_, target in raw["relations"])
    start, end = int(raw["start_ix"]), int(raw["end_ix"]) + 1  # inclusive ends in the file
    if not 0 <= start < end:
        raise InputError(f"entity {raw['tokens']!r} is empty", "Fetch it again.", row=report_id)
    words = raw["tokens"].lower()
    return Entity(words, kind == "observation", positive, start, end, relations)


def _report_id(key: str, identifiers: list[str]) -> str | None:
    """ "p10/p10000032/s50414267.txt" is s50414267; "3" is the fourth report that was given."""
    if key.isdigit():
        return identifiers[int(key)] if int(key) < len(identifiers) else None
    return Path(key).stem


def _modifies(entity: Entity, target: Entity, entities: Mapping[str, Entity]) -> bool:
    return any(kind == "modify" and entities[t] is target for kind, t in entity.relations)


def _anatomies(entity: Entity, entities: Mapping[str, Entity]) -> list[list[Entity]]:
    """The anatomies an observation is located at, each with its direct modifiers."""
    found: list[list[Entity]] = []
    for kind, target in entity.relations:
        if kind != "located_at":
            continue
        head = entities[target]
        for relation, other in head.relations:  # the target may itself be a modifier
            if relation == "modify" and not entities[other].observation:
                head = entities[other]
        group = [e for e in entities.values() if e is head or _modifies(e, head, entities)]
        group = [e for e in group if not e.observation]
        if group and group not in found:
            found.append(group)
    return found


def _phrase(entities: Iterable[Entity]) -> str:
    return " ".join(entity.words for entity in sorted(entities, key=lambda e: e.start))


def _sentence(tokens: list[str], entity: Entity) -> str:
    stops = [i for i, token in enumerate(tokens) if token in (".", "?", "!")]
    start = max((i + 1 for i in stops if i < entity.start), default=0)
    end = min((i + 1 for i in stops if i >= entity.end), default=len(tokens))
    return " ".join(tokens[start:end])
