"""How gross a lesion is: Beta draws, so that subtle and gross ones both occur.

Our assumption: no label table grades severity. Words of reports shift the draw.
"""

import numpy as np

_UNSTATED = (2.0, 2.4)
_WORDS = {  # word of a report or code -> Beta parameters
    "borderline": (1.6, 7.0),
    "minimal": (1.6, 7.0),
    "tiny": (1.6, 7.0),
    "subtle": (1.6, 7.0),
    "mild": (2.2, 5.0),
    "small": (2.2, 5.0),
    "slight": (2.2, 5.0),
    "moderate": (5.0, 5.0),
    "prominent": (5.0, 4.0),
    "severe": (6.0, 2.2),
    "large": (6.0, 2.2),
    "massive": (8.0, 1.5),
    "extensive": (6.0, 2.2),
}


def draw_severity(word: str | None, rng: np.random.Generator) -> float:
    """A severity in [0.06, 1].

    Args:
        word: the grade that a report gives, if any; an unknown word counts as none.
        rng: the generator.
    """
    return float(0.06 + 0.94 * rng.beta(*_WORDS.get(word or "", _UNSTATED)))
