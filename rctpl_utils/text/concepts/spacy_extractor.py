"""Triplets from the text of the reports themselves (paper 3.1.1), built on spaCy and negspacy.

Radiologists repeat themselves: of the 24,090 sentences of Open-I, 8,674 are distinct. So reports
are split into sentences first, and each distinct sentence is analyzed once and remembered.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from spacy.attrs import LOWER
from spacy.tokens import Doc, Span

from rctpl_utils.text.concepts.attachment import Sentence, attach
from rctpl_utils.text.concepts.frames import read_state
from rctpl_utils.text.concepts.pipeline import (
    IGNORED,
    SUBJECT,
    assertion_of,
    build_pipeline,
    build_splitter,
    concepts_of,
    whole_sentences,
)
from rctpl_utils.text.concepts.sites import Site, location_names, sites_of
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Assertion, Triplet
from rctpl_utils.vocabulary import Frame, load_vocabulary

# Names of a lesser degree of the concept, which a denial of its full degree leaves without one.
LESSER = {"Edema": ("congestion", "engorgement")}
_CARRIED = Site(-1, -1, None, None)  # stands for the sites of the sentence before


@dataclass(frozen=True)
class Mention:
    """A concept in a sentence: its characters [start, end) there and the sites it is at."""

    concept: str
    positive: Assertion
    start: int
    end: int
    sites: tuple[Site, ...]


class SpacyExtractor:
    """Concepts by phrase, assertion by NegEx, location by the nearest modifier.

    Args:
        processes: worker processes of `nlp.pipe`, started for each batch: take large ones.
        batch_size: reports a batch.
        remember: distinct sentences kept; memory is bounded by them and one batch.
    """

    name = "spacy"

    def __init__(
        self,
        *,
        processes: int = 1,
        batch_size: int = 2048,
        remember: int = 50_000,
    ) -> None:
        """Build the pipeline (a second or so)."""
        self.vocabulary = load_vocabulary()
        self.processes, self.batch_size, self.remember = processes, batch_size, remember
        self._splitter = build_splitter()
        self._nlp = build_pipeline(self.vocabulary)
        self._frames = {frame.concept: frame for frame in self.vocabulary.frames}
        self._known: dict[str, tuple[Mention, ...]] = {}

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield each report's triplets in the order of its text."""
        remaining = iter(reports)
        while batch := list(islice(remaining, self.batch_size)):
            split = [self._split(report.text) for report in batch]
            self._analyze(dict.fromkeys(text for each in split for _, text in each))
            for report, sentences in zip(batch, split, strict=True):
                yield from self._triplets(report.report_id, sentences)

    def _split(self, text: str) -> list[tuple[int, str]]:
        """The sentences of a report, each with its first character's position."""
        return [(part.start_char, part.text) for part in whole_sentences(self._splitter(text))]

    def _analyze(self, sentences: Iterable[str]) -> None:
        """Make `_known` hold these sentences."""
        if len(self._known) > self.remember:
            self._known.clear()
        new = [text for text in sentences if text not in self._known]
        for text, document in zip(
            new, self._nlp.pipe(new, batch_size=512, n_process=self.processes), strict=True
        ):
            self._known[text] = tuple(_mentions(document, self._frames))

    def _triplets(self, report_id: str, sentences: Sequence[tuple[int, str]]) -> Iterator[Triplet]:
        carried: tuple[Site, ...] = ()
        for start, text in sentences:
            mentions = self._known[text]
            located = [carried if _CARRIED in m.sites else m.sites for m in mentions]
            for mention, sites in zip(mentions, located, strict=True):
                span = start + mention.start, start + mention.end
                for location in location_names(mention.concept, sites, self.vocabulary):
                    yield Triplet(
                        report_id,
                        text,
                        mention.concept,
                        location,
                        mention.positive,
                        *span,
                        self.name,
                    )
            if mentions:
                carried = next((sites for sites in reversed(located) if sites), ())


def _named(
    document: Doc, words: Sequence[str], frames: Mapping[str, Frame]
) -> Iterator[tuple[Span, int, bool]]:
    """The spans that name concepts, where each ends, and whether its own words mean absence."""
    for span in document.ents:
        if span.ent_id_ == SUBJECT:
            state = read_state(words, span.end, frames[span.label_])
            if state is not None:
                yield span, *state
        elif span.label_ != IGNORED:
            yield span, span.end, False


def _without_lesser(found: list[tuple[Span, int, bool]]) -> list[tuple[Span, int, bool]]:
    """Without congestion where the same sentence denies edema: "congestion without frank edema"."""
    lesser = [span[-1].norm_ in LESSER.get(span.label_, ()) for span, _, _ in found]
    absent = [assertion_of(span) == "absent" for span, _, _ in found]
    denied = {
        each[0].label_ for each, a, low in zip(found, absent, lesser, strict=True) if a and not low
    }
    return [
        each
        for each, a, low in zip(found, absent, lesser, strict=True)
        if a or not low or each[0].label_ not in denied
    ]


def _mentions(document: Doc, frames: Mapping[str, Frame]) -> Iterator[Mention]:
    """The mentions of a one-sentence document."""
    strings = document.vocab.strings
    words = [strings[key] for key in document.to_array(LOWER).tolist()]
    found = list(_named(document, words, frames))
    if not found:
        return
    found = _without_lesser(found)
    ranges = [(span.start, end) for span, end, _ in found]
    sentence = Sentence(words, 0, len(words), ranges, sites_of(document, words))
    for (span, end, absent), sites in zip(found, attach(sentence, [_CARRIED]), strict=True):
        positive = "absent" if absent else assertion_of(span)
        last = document[end - 1]
        for concept in concepts_of(span):
            yield Mention(concept, positive, span.start_char, last.idx + len(last), tuple(sites))
