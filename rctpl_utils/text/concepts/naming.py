"""Names for what RadGraph found: words to concepts, anatomy to canonical locations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from rctpl_utils.text.concepts.attachment import combine
from rctpl_utils.text.concepts.pipeline import build_places
from rctpl_utils.text.concepts.sites import location_names, sites_of
from rctpl_utils.vocabulary import Vocabulary


@dataclass(frozen=True)
class Named:
    """The concepts that an observation names; `normal` when it says that they are absent."""

    concepts: tuple[str, ...]
    normal: bool = False


class Namer:
    """Looks observations and anatomies up in the vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepare the look-up of a vocabulary's phrases."""
        self.vocabulary = vocabulary
        self._nlp = build_places(vocabulary)
        self._phrases: dict[str, tuple[str, ...]] = {}
        for concept, phrases in vocabulary.concepts.items():
            for phrase in phrases:
                self._phrases[phrase] = (*self._phrases.get(phrase, ()), concept)
        self._phrases |= dict.fromkeys(vocabulary.ignored, ())

    def name(self, words: str, modifiers: Sequence[str], anatomies: Sequence[str]) -> Named:
        """The concepts of an observation, the most specific phrase first.

        "effusion" located at "pericardial" names nothing; "enlarged" at "heart" Cardiomegaly.
        """
        for frame in self.vocabulary.frames:
            stated = words in frame.present or words in frame.absent
            if stated and any(anatomy in frame.subjects for anatomy in anatomies):
                return Named((frame.concept,), words in frame.absent)
        for before, middle in product([*anatomies, ""], [*modifiers, ""]):
            phrase = " ".join(part for part in (before, middle, words) if part)
            for candidate in _suffixes(phrase, len(words.split())):
                if candidate in self._phrases:
                    return Named(self._phrases[candidate])
        return Named(())

    def locations(self, concept: str, anatomies: Sequence[str]) -> list[str | None]:
        """The canonical locations of anatomy phrases such as "left lower lobe"."""
        sites = []
        for anatomy in anatomies:
            document = self._nlp(anatomy)
            sites += sites_of(document, [token.lower_ for token in document])
        return location_names(concept, combine(sites), self.vocabulary)


def _suffixes(phrase: str, shortest: int) -> list[str]:
    """ "right pleural effusion", "pleural effusion", ...: down to the last `shortest` words."""
    words = phrase.split()
    return [" ".join(words[i:]) for i in range(len(words) - shortest + 1)]
