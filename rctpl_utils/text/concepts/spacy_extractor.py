"""Triplets from the text of the reports themselves (paper 3.1.1), built on spaCy and negspacy.

Radiologists repeat themselves: of the 24,090 sentences of Open-I, 8,674 are distinct. So reports
are split into sentences first, and each distinct sentence is analyzed once and remembered.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from spacy.attrs import LOWER
from spacy.tokens import Doc, Span

from rctpl_utils.text.concepts.pipeline import (
    IGNORED,
    SUBJECT,
    assertion_of,
    build_pipeline,
    build_splitter,
    concepts_of,
    whole_sentences,
)
from rctpl_utils.text.concepts.sites import Sentence, Site, attach, location_names, sites_of
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Assertion, Triplet
from rctpl_utils.vocabulary import Frame, load_vocabulary

BATCH = 2048  # reports
REMEMBERED = 50_000  # distinct sentences; memory is bounded by them and one batch
# Names of a lesser degree of the concept, which a denial of its full degree leaves without one.
_LESSER = {"Edema": ("congestion", "engorgement")}
_DENIALS = frozenset(["not", "n't", "n\u2019t", "nor"])
_CARRIED = Site(-1, -1, None, None)  # stands for the sites of the sentence before


@dataclass(frozen=True)
class _Mention:
    """A concept in a sentence: its characters [start, end) there and the sites it is at."""

    concept: str
    positive: Assertion
    start: int
    end: int
    sites: tuple[Site, ...]


class SpacyExtractor:
    """Concepts by phrase, assertion by NegEx, location by the nearest modifier."""

    name = "spacy"

    def __init__(self) -> None:
        self.vocabulary = load_vocabulary()
        self._splitter = build_splitter()
        self._nlp = build_pipeline(self.vocabulary)
        self._frames = {frame.concept: frame for frame in self.vocabulary.frames}
        self._known: dict[str, tuple[_Mention, ...]] = {}

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield each report's triplets in the order of its text."""
        remaining = iter(reports)
        while batch := list(islice(remaining, BATCH)):
            split = [
                [(each.start_char, each.text) for each in whole_sentences(self._splitter(r.text))]
                for r in batch
            ]
            self._analyze(dict.fromkeys(text for each in split for _, text in each))
            for report, sentences in zip(batch, split, strict=True):
                yield from self._triplets(report.report_id, sentences)

    def _analyze(self, sentences: Iterable[str]) -> None:
        """Make `_known` hold these sentences."""
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = [text for text in sentences if text not in self._known]
        for text, document in zip(new, self._nlp.pipe(new, batch_size=512), strict=True):
            self._known[text] = tuple(_mentions(document, self._frames))

    def _triplets(self, report_id: str, sentences: Sequence[tuple[int, str]]) -> Iterator[Triplet]:
        carried: tuple[Site, ...] = ()
        for start, text in sentences:
            mentions = self._known[text]
            located = [carried if _CARRIED in m.sites else m.sites for m in mentions]
            for mention, sites in zip(mentions, located, strict=True):
                concept, positive = mention.concept, mention.positive
                span = start + mention.start, start + mention.end
                for place in location_names(concept, sites, self.vocabulary):
                    yield Triplet(report_id, text, concept, place, positive, *span, self.name)
            if mentions:
                carried = next((sites for sites in reversed(located) if sites), ())


def read_state(words: Sequence[str], position: int, frame: Frame) -> tuple[int, bool] | None:
    """The state that follows a subject, over words that may stand between: "is mildly enlarged".

    `position` is the first of the `words` (in lower case) after the subject. Returns the end of the
    last state word in reach, and whether it means absence; None without a state.
    """
    found, denied = None, False
    for i in range(position, len(words)):
        word = words[i]
        if word in frame.present or word in frame.absent:
            found = i + 1, denied or word in frame.absent
        denied = denied or word in _DENIALS
        if word not in frame.between and word not in _DENIALS:
            break
    return found


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

    def is_lesser(span: Span) -> bool:
        return span[-1].norm_ in _LESSER.get(span.label_, ())

    full = [span for span, _, _ in found if not is_lesser(span)]
    denied = {span.label_ for span in full if assertion_of(span) == "absent"}
    return [
        (span, *rest)
        for span, *rest in found
        if not is_lesser(span) or span.label_ not in denied or assertion_of(span) == "absent"
    ]


def _mentions(document: Doc, frames: Mapping[str, Frame]) -> Iterator[_Mention]:
    """The mentions of a one-sentence document."""
    strings = document.vocab.strings
    words = [strings[key] for key in document.to_array(LOWER).tolist()]
    found = _without_lesser(list(_named(document, words, frames)))
    said = [(span.start, span.label_) for span, _, _ in found]
    found = [
        (span, end, absent)  # without headings: "Pneumothorax: no pneumothorax"
        for span, end, absent in found
        if words[end : end + 1] != [":"]
        or all(s <= span.start or n != span.label_ for s, n in said)
    ]
    if not found:
        return
    ranges = [(span.start, end) for span, end, _ in found]
    sentence = Sentence(words, ranges, sites_of(document, words))
    for (span, end, absent), sites in zip(found, attach(sentence, [_CARRIED]), strict=True):
        positive = "absent" if absent else assertion_of(span)
        last = document[end - 1]
        for concept in concepts_of(span):
            yield _Mention(concept, positive, span.start_char, last.idx + len(last), tuple(sites))
