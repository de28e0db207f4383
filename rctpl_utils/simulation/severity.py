"""How gross a lesion is: Beta draws, so that subtle and gross ones both occur.

Our assumption: no label table grades severity. Words of reports shift the draw.
"""

import numpy as np

_UNSTATED = (2.2, 1.3)
_WORDS = {  # word of a report or code -> Beta parameters
    "borderline": (2.0, 4.0),
    "minimal": (2.0, 4.0),
    "tiny": (2.0, 4.0),
    "subtle": (2.0, 4.0),
    "mild": (2.6, 3.0),
    "small": (2.6, 3.0),
    "slight": (2.6, 3.0),
    "moderate": (5.0, 3.0),
    "prominent": (5.0, 2.5),
    "severe": (8.0, 1.6),
    "large": (8.0, 1.6),
    "massive": (8.0, 1.5),
    "extensive": (8.0, 1.6),
}
# Findings that change the whole outline are seen at any grade: their draws are bent towards mild,
# so that none of them is recognized without exception.
_BENT = {"Cardiomegaly": 2.6, "Edema": 2.0, "Enlarged Cardiomediastinum": 1.4}


def draw_severity(concept: str, word: str | None, rng: np.random.Generator) -> float:
    """A severity in [0.06, 1].

    Args:
        concept: what is drawn.
        word: the grade that a report gives, if any; an unknown word counts as none.
        rng: the generator.
    """
    drawn = rng.beta(*_WORDS.get(word or "", _UNSTATED)) ** _BENT.get(concept, 1.0)
    return float(0.06 + 0.94 * drawn)
