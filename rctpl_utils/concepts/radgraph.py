"""Triplets from RadGraph's entities and relations (paper 3.1.1; Jain et al. 2021).

Two formats: `MIMIC-CXR_graphs.json` of RadGraph 1.0, whose keys are report paths, and what the
package radgraph returns (RadGraph-XL, Delbrouck et al. 2024), whose keys count the reports. Labels
are "OBS-DP" in the former, "Observation::definitely present" in the latter, which also knows
"Observation::measurement::definitely present". Rules:

- an observation is a concept when its words, with those of its modifiers and of the anatomy it is
  located at, name one in the vocabulary; observations without `located_at` (an only
  `suggestive_of`, say) are kept, unlocated;
- an anatomy with its direct modifiers is a location, given to observations `located_at` any of its
  words; a word that modifies two anatomies stands for two locations;
- definitely present, definitely absent, uncertain become present, absent, uncertain.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path

from rctpl_utils.concepts import Triplet
from rctpl_utils.concepts.graph import Entity, anatomies, modifies, parse_graph, phrase
from rctpl_utils.concepts.json_stream import stream_objects
from rctpl_utils.concepts.naming import Namer
from rctpl_utils.reports import Report
from rctpl_utils.vocabulary import Vocabulary, load_vocabulary

_log = logging.getLogger(__name__)


class RadGraphExtractor:
    """Reads RadGraph's JSON, a file or the package's returned dictionary; runs no network itself.

    Args:
        graphs: the file, read as a stream, or the mapping.
        vocabulary: the phrase lists; the packaged ones by default.

    Attributes:
        read: the reports that were found in it, known when `extract` has ended.
    """

    name = "radgraph"

    def __init__(
        self, graphs: str | Path | Mapping[str, dict], vocabulary: Vocabulary | None = None
    ) -> None:
        """Nothing is read before `extract`."""
        self.graphs = graphs
        self.read: frozenset[str] = frozenset()
        self._namer = Namer(vocabulary or load_vocabulary())

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield the triplets of the given reports in the order of RadGraph's file.

        Character spans refer to RadGraph's own tokenized text, which `sentence` quotes. Reports
        that RadGraph's file lacks give no triplet; their number is logged as a warning.

        Raises:
            InputError: a damaged file, an unknown label, a relation to nowhere.
        """
        identifiers = [report.report_id for report in reports]
        wanted, read = set(identifiers), set()
        mapped = isinstance(self.graphs, Mapping)
        for key, graph in self.graphs.items() if mapped else stream_objects(self.graphs):
            report_id = _report_id(key, identifiers)
            if report_id in wanted:
                read.add(report_id)
                yield from self._triplets(report_id, graph)
        self.read = frozenset(read)
        if len(read) < len(wanted):
            _log.warning(
                "%d of %d reports are not in RadGraph's file and give no triplet",
                len(wanted) - len(read),
                len(wanted),
            )

    def _triplets(self, report_id: str, graph: dict) -> Iterator[Triplet]:
        text, entities = parse_graph(report_id, graph)
        tokens = text.split()
        starts = [0, *accumulate(len(token) + 1 for token in tokens)]
        for entity in entities.values():
            if not entity.observation:
                continue
            places = [phrase(group) for group in anatomies(entity, entities)]
            modifiers = [e for e in entities.values() if modifies(e, entity, entities)]
            named = self._namer.name(entity.words, [m.words for m in modifiers], places)
            for concept in named.concepts:
                positive = "absent" if named.normal else entity.positive
                for location in self._namer.locations(concept, places):
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


def _report_id(key: str, identifiers: list[str]) -> str | None:
    """ "p10/p10000032/s50414267.txt" is s50414267; "3" is the fourth report that was given."""
    if key.isdigit():
        return identifiers[int(key)] if int(key) < len(identifiers) else None
    return Path(key).stem


def _sentence(tokens: list[str], entity: Entity) -> str:
    stops = [i for i, token in enumerate(tokens) if token in (".", "?", "!")]
    start = max((i + 1 for i in stops if i < entity.start), default=0)
    end = min((i + 1 for i in stops if i >= entity.end), default=len(tokens))
    return " ".join(tokens[start:end])
