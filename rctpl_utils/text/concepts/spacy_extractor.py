"""Triplets from the text of the reports themselves (paper 3.1.1), built on spaCy and negspacy.

Concepts by an entity ruler (a token one slip away from a known word is read as that word), sites by
`sites`, assertions by three instances of NegEx (Chapman et al. 2001, package negspacy): what denies
the words after it, as far as the clause goes; what denies the words before it; what marks
uncertainty. Its own clinical terms take "versus" for a negation, so all term sets are ours
(`data/assertions.json`). "Likely" and "probably" leave a finding present: radiologists hedge what
they would report as present, and coders of Open-I took it so.

Radiologists repeat themselves: of the 24,090 sentences of Open-I, 8,674 are distinct. So reports
are split into sentences first, and each distinct sentence is analyzed once and remembered.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice, pairwise

import spacy
from negspacy.negation import Negex  # noqa: F401  registers the factory "negex"
from spacy.attrs import LOWER
from spacy.language import Language
from spacy.tokens import Doc, Span, Token

from rctpl_utils.files import read_json
from rctpl_utils.text.concepts.sites import (
    Sentence,
    Site,
    add_places,
    attach,
    location_names,
    sites_of,
)
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import Assertion, Triplet
from rctpl_utils.vocabulary import Frame, Vocabulary, load_vocabulary
from rctpl_utils.workspace import PACKAGE_DATA

BATCH = 2048  # reports
REMEMBERED = 50_000  # distinct sentences; memory is bounded by them and one batch
_TERMS = read_json(PACKAGE_DATA / "assertions.json")
_RULES = read_json(PACKAGE_DATA / "text_rules.json")["assertions"]
_WORDS = {what: frozenset(words.split()) for what, words in _RULES.items()}
_DEVICES = "Support Devices"  # these are removed, rather than a finding beside them
_SUBJECT = "subject"  # id of a frame's subject, a mention only where a state follows
_IGNORED = "ignored"  # label of what only looks like a concept
_REACH = 8  # tokens
_SHORTEST = 8  # letters of a word that may be misspelled: short ones are near to too many others
_ALIKE = 0.9  # of difflib's ratio: one letter wrong of ten, or one too many of nine
# Names of a lesser degree of the concept, which a denial of its full degree leaves without one.
_LESSER = {"Edema": ("congestion", "engorgement")}
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
        self._nlp = _build_pipeline(self.vocabulary)
        self._frames = {frame.concept: frame for frame in self.vocabulary.frames}
        self._known: dict[str, tuple[_Mention, ...]] = {}

    def extract(self, reports: Iterable[Report]) -> Iterator[Triplet]:
        """Yield each report's triplets in the order of its text."""
        remaining = iter(reports)
        while batch := list(islice(remaining, BATCH)):
            split = [
                [(each.start_char, each.text) for each in _whole_sentences(self._splitter(r.text))]
                for r in batch
            ]
            if len(self._known) > REMEMBERED:
                self._known.clear()
            texts = dict.fromkeys(text for each in split for _, text in each)
            new = [text for text in texts if text not in self._known]
            for text, document in zip(new, self._nlp.pipe(new, batch_size=512), strict=True):
                self._known[text] = tuple(_mentions(document, self._frames))
            for report, sentences in zip(batch, split, strict=True):
                yield from self._triplets(report.report_id, sentences)

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


def build_splitter() -> Language:
    """A pipeline that splits sentences only."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer", config={"punct_chars": sorted(_WORDS["ends a sentence"])})
    return nlp


def _whole_sentences(document: Doc) -> Iterator[Span]:
    """The sentences; a question stays with its answer, a mark with what it asks: "? effusion"."""
    start, sentences = 0, list(document.sents)
    for sentence, following in pairwise([*sentences, document[len(document) :]]):
        asked = sentence[-1].text == "?" and len(following) > 0
        marks = asked and (len(sentence) == 1 or bool(sentence[-2].whitespace_))
        if not marks and not (asked and _answered(following.text)):
            yield document[start : sentence.end]
            start = sentence.end


def _build_pipeline(vocabulary: Vocabulary) -> Language:
    """Its entities are mentions: their label the concepts, joined by "|"."""
    nlp = build_splitter()
    patterns = [
        {"label": "|".join(concepts) or _IGNORED, "pattern": phrase}
        for phrase, concepts in vocabulary.named.items()
    ] + [
        {"label": frame.concept, "pattern": subject, "id": _SUBJECT}
        for frame in vocabulary.frames
        for subject in frame.subjects
    ]
    words = sorted({word for each in patterns for word in each["pattern"].split()})
    nlp.add_pipe("spelling", config={"words": words})
    nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "NORM"}).add_patterns(patterns)
    add_places(nlp, vocabulary)
    for name in ("negation", "denial", "removal", "uncertainty"):
        terms = {kind: _contracted(phrases) for kind, phrases in _TERMS[name].items()}
        nlp.add_pipe("negex", name, config={"neg_termset": terms, "extension_name": name})
    return nlp


def _contracted(phrases: list[str]) -> list[str]:
    """These and, as spaCy's tokens, what stands short for them: "is n't seen", "ca n't exclude"."""
    spelled = (each.replace("cannot", "can not").replace("can not", "ca not") for each in phrases)
    return phrases + [
        " ".join(short if word == "not" else word for word in phrase.split())
        for phrase in spelled
        if "not" in phrase.split()
        for short in ("n't", "n\u2019t")
    ]


@Language.factory("spelling", default_config={"words": []})
class Spelling:
    """Sets the norm of misspelled tokens, by which the entity ruler matches."""

    def __init__(self, nlp: Language, name: str, words: Iterable[str]) -> None:
        self._known = frozenset(words)
        self._long = [word for word in sorted(self._known) if len(word) >= _SHORTEST]
        self._meant = lru_cache(maxsize=100_000)(self._read)

    def __call__(self, doc: Doc) -> Doc:
        """Look at every long token."""
        for token in doc:
            if len(token) >= _SHORTEST - 1 and (meant := self._meant(token.lower_)) is not None:
                token.norm_ = meant
        return doc

    def _read(self, word: str) -> str | None:
        known = self._known | _WORDS["no slip of a name"]
        if {word, word.removesuffix("s")} & known or not word.isalpha():
            return None
        # slips spare the first letter
        near = [w for w in self._long if w[0] == word[0] and abs(len(w) - len(word)) <= 1]
        return next(iter(get_close_matches(word, near, n=1, cutoff=_ALIKE)), None)


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
        positive = "absent" if absent else _assertion_of(span)
        last = document[end - 1]
        for concept in span.label_.split("|"):
            yield _Mention(concept, positive, span.start_char, last.idx + len(last), tuple(sites))


def _named(
    document: Doc, words: Sequence[str], frames: Mapping[str, Frame]
) -> Iterator[tuple[Span, int, bool]]:
    """The spans that name concepts, where each ends, and whether its own words mean absence."""
    for span in document.ents:
        if span.ent_id_ == _SUBJECT:
            state = read_state(words, span.end, frames[span.label_])
            if state is not None:
                yield span, *state
        elif span.label_ != _IGNORED:
            yield span, span.end, False


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
        denied = denied or word in _WORDS["denies a state"]
        if word not in frame.between and word not in _WORDS["denies a state"]:
            break
    return found


def _without_lesser(found: list[tuple[Span, int, bool]]) -> list[tuple[Span, int, bool]]:
    """Without congestion where the same sentence denies edema: "congestion without frank edema"."""
    lesser = [span[-1].norm_ in _LESSER.get(span.label_, ()) for span, _, _ in found]
    absent = [_assertion_of(span) == "absent" for span, _, _ in found]
    rows = list(zip(found, lesser, absent, strict=True))
    denied = {each[0].label_ for each, less, gone in rows if gone and not less}
    return [each for each, less, gone in rows if gone or not less or each[0].label_ not in denied]


def _assertion_of(mention: Span) -> Assertion:
    """Absent where it is denied, uncertain where it is hedged, present otherwise."""
    answer = _answer(mention)
    before = mention._.negation and answer is None and not _own_clause(mention)
    devices = [each for each in mention.doc.ents if _DEVICES in each.label_.split("|")]
    removed = mention._.removal and (not devices or mention in devices)
    if before or mention._.denial or removed or answer == "absent":
        return "absent"
    hedged = mention._.uncertainty or answer == "uncertain" or _alternative(mention)
    earlier = reversed(mention.doc[: mention.start])  # a mark after any other mention: "base ?mass"
    marked = next((t.text == "?" for t in earlier if t.text == "?" or t.ent_type_), False)
    return "uncertain" if hedged or marked else "present"


def _answer(mention: Span) -> Assertion | None:
    """What a form answers: "Pneumothorax: none", "effusion or edema - no", "pneumonia, possibly".

    The answer must be all that follows: "effusion: no change" is none.
    """
    mark = next((token for token in mention.doc[mention.end :] if not _listed(token)), None)
    if mark is None:
        return None
    asked = mark.lower_ in _WORDS["asks"]
    said = _answered(" ".join(token.text for token in mention.doc[mark.i + asked :]))
    if not asked:  # "effusion none"
        return "absent" if said == "absent" and mark.i == mention.end else None
    return said or ("uncertain" if mark.lower_ == "?" else None)


def _answered(text: str) -> Assertion | None:
    """What an answer says, where a text is one or opens with one: "none", "yes, small"."""
    whole = text.lower().strip(" .;!)")
    said = {whole, re.split("[,;(]", whole)[0].strip()}
    return next((kind for kind, words in _TERMS["answers"].items() if said & set(words)), None)


def _listed(token: Token) -> bool:
    """Whether a form lists on: further findings, and what joins them."""
    if token.lower_ == "," and token.i + 1 < len(token.doc):
        return bool(token.nbor().ent_type_)
    return bool(token.ent_type_) or token.lower_ in _WORDS["lists"]


def _own_clause(mention: Span) -> bool:
    """Whether a denial before it ends: "no edema and small effusions persist", "..., heart is big".

    What is said of the mention presupposes it, and "and" or a comma joins it to a mention before.
    """
    before = list(mention.doc[: mention.start])
    last = next((token.i for token in reversed(before) if token.ent_type_), None)
    if last is None:
        return False
    between = [token.lower_ for token in mention.doc[last + 1 : mention.start]]
    if not {"and", ","} & set(between) or "or" in between:
        return False
    after = [token.lower_ for token in mention.doc[mention.end :]]
    if not _WORDS["lists on"] & set(after):  # "no consolidation, large effusion or pneumothorax"
        sized = _WORDS["size"] & set(between) or _DEVICES in mention.label_.split("|")
        if between[0] == "," and sized:
            return True
        if between[0] == "and" and _WORDS["small size"] & set(between):
            return True
    if mention.ent_id_ == _SUBJECT:
        return True
    said = (word for word in after[:4] if word not in _WORDS["auxiliary"])
    return next(said, None) in _WORDS["presupposes the finding"]


def _alternative(mention: Span) -> bool:
    """Whether "versus" follows before any other mention: "atelectasis versus scarring".

    The second alternative is NegEx's, which reaches too far back for the first.
    """
    for token in mention.doc[mention.end : mention.end + _REACH]:
        versus = token.lower_ in _WORDS["alternative"]
        if token.ent_type or token.is_sent_start or versus:
            return versus
    return False
