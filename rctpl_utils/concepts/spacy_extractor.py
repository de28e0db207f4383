"""Triplets from the text of the reports themselves (paper 3.1.1), built on spaCy and negspacy."""

from collections.abc import Iterable, Iterator

from spacy.tokens import Doc, Span

from rctpl_utils.concepts import Triplet
from rctpl_utils.concepts.attachment import Sentence, attach
from rctpl_utils.concepts.pipeline import IGNORED, assertion_of, build_pipeline, concepts_of
from rctpl_utils.concepts.sites import Site, location_names, sites_of
from rctpl_utils.reports import Report
from rctpl_utils.vocabulary import Vocabulary, load_vocabulary


class SpacyExtractor:
    """Concepts by phrase, assertion by NegEx, location by the nearest modifier.

    Args:
        vocabulary: the phrase lists; the packaged ones by default.
        processes: worker processes of `nlp.pipe`.
        batch_size: reports a batch.
    """

    name = "spacy"

    def __init__(
        self,
        vocabulary: Vocabulary | None = None,
        *,
        processes: int = 1,
        batch_size: int = 256,
    ) -> None:
        """Build the pipeline (a second or so)."""
        self.vocabulary = vocabulary or load_vocabulary()
        self.processes, self.batch_size = processes, batch_size
        self._nlp = build_pipeline(self.vocabulary)

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield each report's triplets in the order of its text; memory does not grow."""
        texts = ((report.text, report.report_id) for report in reports)
        documents = self._nlp.pipe(
            texts, as_tuples=True, batch_size=self.batch_size, n_process=self.processes
        )
        for document, report_id in documents:
            yield from self._triplets(document, report_id)

    def _triplets(self, document: Doc, report_id: str) -> Iterator[Triplet]:
        mentions = [mention for mention in document.ents if mention.label_ != IGNORED]
        if not mentions:
            return
        words = [token.lower_ for token in document]
        sites = sites_of(document, words)
        carried: list[Site] = []
        for start, end, text in _sentences(document):
            inside = [mention for mention in mentions if start <= mention.start < end]
            if not inside:
                continue
            ranges = [(mention.start, mention.end) for mention in inside]
            near = [site for site in sites if start <= site.start < end]
            attached = attach(Sentence(words, start, end, ranges, near), carried)
            carried = next((each for each in reversed(attached) if each), [])
            for mention, own in zip(inside, attached, strict=True):
                yield from self._of_mention(mention, own, text, report_id)

    def _of_mention(
        self, mention: Span, sites: list[Site], sentence: str, report_id: str
    ) -> Iterator[Triplet]:
        positive = assertion_of(mention)
        span = mention.start_char, mention.end_char
        for concept in concepts_of(mention):
            for location in location_names(concept, sites, self.vocabulary):
                yield Triplet(report_id, sentence, concept, location, positive, *span, self.name)


def _sentences(document: Doc) -> Iterator[tuple[int, int, str]]:
    for sentence in document.sents:
        yield sentence.start, sentence.end, sentence.text
