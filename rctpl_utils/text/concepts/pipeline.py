"""The spaCy pipeline: concepts, their assertion, and anatomical words, all from kept components.

Concepts by an entity ruler (a token one slip away from a known word is read as that word), sides
and places by a span ruler, assertions by three instances of NegEx (Chapman et al. 2001, package
negspacy): what denies the words after it, as far as the clause goes; what denies the words before
it; what marks uncertainty. Its own clinical terms take "versus" for a negation, so all term sets
are ours (`data/assertions.json`). "Likely" and "probably" leave a finding present: radiologists
hedge what they would report as present, and coders of Open-I took it so.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import pairwise

import spacy
from negspacy.negation import Negex  # noqa: F401  registers the factory "negex"
from spacy.language import Language
from spacy.tokens import Doc, Span, Token

from rctpl_utils.files import read_json
from rctpl_utils.text.triplets import Assertion
from rctpl_utils.vocabulary import Vocabulary
from rctpl_utils.workspace import PACKAGE_DATA

IGNORED = "ignored"
DEVICES = "Support Devices"  # these are removed, rather than a finding beside them
PLACES = "places"  # key of the anatomical spans
SUBJECT = "subject"  # id of a frame's subject, a mention only where a state follows
_JOIN = "|"
_SENTENCE_ENDS = (".", "..", "...", "!", "?")
_REACH = 8  # tokens
_ASKING = frozenset([":", "-", "--", "---", "\u2013", "\u2014", ",", "(", "=", "?"])
_SIZES = frozenset(["tiny", "trace", "small", "minimal", "mild", "moderate", "large", "severe"])
_FEW = _SIZES - {"large", "severe"} | {"mildly", "moderately", "minimally", "slightly"}
_AUXILIARY = frozenset(["is", "are", "was", "were", "has", "have", "also", "again", "still"])
_PRESUPPOSING = frozenset([
    "unchanged", "stable", "persists", "persist", "persistent", "remains", "remain", "increased",
    "decreased", "improved", "worsened", "enlarged", "progressed", "larger", "smaller",
])  # fmt: skip
_ALTERNATIVES = frozenset(["versus", "vs", "vs.", "v."])
_PAUSE = re.compile("[,;(]")
_SHORTEST = 8  # letters of a word that may be misspelled: short ones are near to too many others
_ALIKE = 0.9  # of difflib's ratio: one letter wrong of ten, or one too many of nine
# English words that are no slips of the names that they look like.
_OTHERS = frozenset({"fractured", "hemithorax", "hemithoraces", "infusion", "infusions"})


@Language.factory("spelling", default_config={"words": []})
class Spelling:
    """Sets the norm of misspelled tokens, by which the entity ruler matches."""

    def __init__(self, nlp: Language, name: str, words: Iterable[str]) -> None:
        self._known = frozenset(words)
        self._by_letter: dict[str, list[str]] = {}  # slips spare the first letter
        for word in sorted(self._known):
            if len(word) >= _SHORTEST:
                self._by_letter.setdefault(word[0], []).append(word)
        self._meant = lru_cache(maxsize=100_000)(self._read)

    def __call__(self, doc: Doc) -> Doc:
        """Look at every long token."""
        for token in doc:
            if len(token) >= _SHORTEST - 1 and (meant := self._meant(token.lower_)) is not None:
                token.norm_ = meant
        return doc

    def _read(self, word: str) -> str | None:
        if {word, word.removesuffix("s")} & (self._known | _OTHERS) or not word.isalpha():
            return None
        near = (w for w in self._by_letter.get(word[0], ()) if abs(len(w) - len(word)) <= 1)
        return next(iter(get_close_matches(word, list(near), n=1, cutoff=_ALIKE)), None)


def build_pipeline(vocabulary: Vocabulary) -> Language:
    """The pipeline; its entities are mentions, `doc.spans[PLACES]` the anatomical words."""
    nlp = build_splitter()
    patterns = list(_concept_patterns(vocabulary))
    words = sorted({word for each in patterns for word in each["pattern"].split()})
    nlp.add_pipe("spelling", config={"words": words})
    ruler = nlp.add_pipe("entity_ruler", config={"phrase_matcher_attr": "NORM"})
    ruler.add_patterns(patterns)
    _add_places(nlp, vocabulary)
    for name in ("negation", "denial", "removal", "uncertainty"):
        terms = {kind: _contracted(phrases) for kind, phrases in _terms()[name].items()}
        config = {"neg_termset": terms, "extension_name": name}
        nlp.add_pipe("negex", name=name, config=config)
    return nlp


def build_splitter() -> Language:
    """A pipeline that splits sentences only."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer", config={"punct_chars": list(_SENTENCE_ENDS)})
    return nlp


def whole_sentences(document: Doc) -> Iterator[Span]:
    """The sentences; a question stays with its answer, a mark with what it asks: "? effusion"."""
    start, sentences = 0, list(document.sents)
    for sentence, following in pairwise([*sentences, document[len(document) :]]):
        asked = sentence[-1].text == "?" and len(following) > 0
        marks = asked and (len(sentence) == 1 or bool(sentence[-2].whitespace_))
        if not marks and not (asked and _answered(following.text)):
            yield document[start : sentence.end]
            start = sentence.end


def build_places(vocabulary: Vocabulary) -> Language:
    """A pipeline that finds anatomical words only."""
    nlp = spacy.blank("en")
    _add_places(nlp, vocabulary)
    return nlp


def _add_places(nlp: Language, vocabulary: Vocabulary) -> None:
    config = {"spans_key": PLACES, "phrase_matcher_attr": "LOWER"}
    config["spans_filter"] = {"@misc": "spacy.first_longest_spans_filter.v1"}
    nlp.add_pipe("span_ruler", config=config).add_patterns(list(_place_patterns(vocabulary)))


def concepts_of(mention: Span) -> list[str]:
    """The concepts that a mention names: most name one, "hydropneumothorax" two."""
    return mention.label_.split(_JOIN)


def assertion_of(mention: Span) -> Assertion:
    """Absent where it is denied, uncertain where it is hedged, present otherwise."""
    answer = _answer(mention)
    before = mention._.negation and answer is None and not _own_clause(mention)
    devices = [each for each in mention.doc.ents if DEVICES in concepts_of(each)]
    removed = mention._.removal and (not devices or mention in devices)
    if before or mention._.denial or removed or answer == "absent":
        return "absent"
    hedged = mention._.uncertainty or answer == "uncertain"
    hedged = hedged or _alternative(mention) or _questioned(mention)
    return "uncertain" if hedged else "present"


@cache
def _terms() -> dict:
    return read_json(PACKAGE_DATA / "assertions.json")


def _contracted(phrases: list[str]) -> list[str]:
    """These and, as spaCy's tokens, what stands short for them: "is n't seen", "ca n't exclude"."""
    spelled = (
        phrase.replace("cannot", "can not").replace("can not", "ca not") for phrase in phrases
    )
    denied = [phrase.split() for phrase in spelled if "not" in phrase.split()]
    return phrases + [
        " ".join(short if word == "not" else word for word in words)
        for words in denied
        for short in ("n't", "n\u2019t")
    ]


def _answer(mention: Span) -> Assertion | None:
    """What a form answers: "Pneumothorax: none", "effusion or edema - no", "pneumonia, possibly".

    The answer must be all that follows: "effusion: no change" is none.
    """
    rest = mention.doc[mention.end :]
    mark = next((token for token in rest if not _listed(token)), None)
    if mark is None:
        return None
    asked = mark.lower_ in _ASKING
    said = _answered(" ".join(token.text for token in mention.doc[mark.i + asked :]))
    if not asked:  # "effusion none"
        return "absent" if said == "absent" and mark.i == mention.end else None
    return said or ("uncertain" if mark.lower_ == "?" else None)


def _answered(text: str) -> Assertion | None:
    """What an answer says, where a text is one or opens with one: "none", "yes, small"."""
    whole = text.lower().strip(" .;!)")
    said = {whole, _PAUSE.split(whole)[0].strip()}
    return next((kind for kind, words in _terms()["answers"].items() if said & set(words)), None)


def _questioned(mention: Span) -> bool:
    """Whether a question mark stands before it, after any other mention: "base ?pneumonia"."""
    before = reversed(mention.doc[: mention.start])
    return next((t.text == "?" for t in before if t.text == "?" or t.ent_type_), False)


def _listed(token: Token) -> bool:
    """Whether a form lists on: further findings, and what joins them."""
    if token.lower_ == "," and token.i + 1 < len(token.doc):
        return bool(token.nbor().ent_type_)
    return bool(token.ent_type_) or token.lower_ in ("or", "and", "/", "is", "seen")


def _own_clause(mention: Span) -> bool:
    """Whether a denial before it ends: "no edema and small effusions persist", "..., heart is big".

    What is said of the mention presupposes it, and "and" or a comma joins it to a mention before.
    """
    before = [token for token in mention.doc[: mention.start]]
    last = next((token.i for token in reversed(before) if token.ent_type_), None)
    if last is None:
        return False
    between = [token.lower_ for token in mention.doc[last + 1 : mention.start]]
    if not {"and", ","} & set(between) or "or" in between:
        return False
    goes_on, device = _list_goes_on(mention), DEVICES in concepts_of(mention)
    if between[0] == "," and (_SIZES & set(between) or device) and not goes_on:
        return True
    if between[0] == "and" and _FEW & set(between) and not goes_on:
        return True
    if mention.ent_id_ == SUBJECT:
        return True
    said = [token.lower_ for token in mention.doc[mention.end : mention.end + 4]]
    while said and said[0] in _AUXILIARY:
        said.pop(0)
    return bool(said) and said[0] in _PRESUPPOSING


def _list_goes_on(mention: Span) -> bool:
    """Whether a list goes on behind it: "no consolidation, large effusion or pneumothorax"."""
    return any(token.lower_ in ("or", "nor", "/") for token in mention.doc[mention.end :])


def _alternative(mention: Span) -> bool:
    """Whether "versus" follows before any other mention: "atelectasis versus scarring".

    The second alternative is NegEx's, which reaches too far back for the first.
    """
    for token in mention.doc[mention.end : mention.end + _REACH]:
        if token.ent_type or token.is_sent_start or token.lower_ in _ALTERNATIVES:
            return token.lower_ in _ALTERNATIVES
    return False


def _concept_patterns(vocabulary: Vocabulary) -> Iterator[dict]:
    named: dict[str, list[str]] = {phrase: [IGNORED] for phrase in vocabulary.ignored}
    for concept, phrases in vocabulary.concepts.items():
        for phrase in phrases:
            named.setdefault(phrase, []).append(concept)
    for phrase, concepts in named.items():
        yield {"label": _JOIN.join(concepts), "pattern": phrase}
    for frame in vocabulary.frames:
        for subject in frame.subjects:
            yield {"label": frame.concept, "pattern": subject, "id": SUBJECT}


def _place_patterns(vocabulary: Vocabulary) -> Iterator[dict]:
    """Labels are "side|place|", with "both" in the third field where a plural stands for both."""
    labeled = {}
    for side, phrases in vocabulary.sides.items():
        labeled[f"{side}||"] = phrases
    for place in vocabulary.places.values():
        labeled[f"|{place.name}|"] = place.phrases
        labeled[f"|{place.name}|both"] = place.both_sides
    fused = [(f"{side}|{place}|", [phrase]) for phrase, (side, place) in vocabulary.fused.items()]
    for label, phrases in [*labeled.items(), *fused, (IGNORED, vocabulary.ignored_places)]:
        yield from ({"label": label, "pattern": phrase} for phrase in phrases)
