"""Misspelled names of findings: a token one slip away from a known word is read as that word."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache

from spacy.language import Language
from spacy.tokens import Doc

SHORTEST = 8  # letters: short words are near to too many others
ALIKE = 0.9  # of difflib's ratio: one letter wrong of ten, or one too many of nine
# English words that are no slips of the names that they look like.
_OTHERS = frozenset({"fractured", "hemithorax", "hemithoraces", "infusion", "infusions"})


@Language.factory("spelling", default_config={"words": []})
class Spelling:
    """Sets the norm of misspelled tokens, by which the entity ruler matches.

    Args:
        words: those that may be misspelled, in lower case.
    """

    def __init__(self, nlp: Language, name: str, words: Iterable[str]) -> None:
        """Sort the words by their first letter, which slips spare."""
        self._known = frozenset(words)
        self._by_letter: dict[str, list[str]] = {}
        for word in sorted(self._known):
            if len(word) >= SHORTEST:
                self._by_letter.setdefault(word[0], []).append(word)
        self._meant = lru_cache(maxsize=100_000)(self._read)

    def __call__(self, doc: Doc) -> Doc:
        """Look at every long token."""
        for token in doc:
            if len(token) >= SHORTEST - 1 and (meant := self._meant(token.lower_)) is not None:
                token.norm_ = meant
        return doc

    def _read(self, word: str) -> str | None:
        if {word, word.removesuffix("s")} & (self._known | _OTHERS) or not word.isalpha():
            return None
        near = (w for w in self._by_letter.get(word[0], ()) if abs(len(w) - len(word)) <= 1)
        return next(iter(get_close_matches(word, list(near), n=1, cutoff=ALIKE)), None)
