"""Statements about an organ: "the heart is mildly enlarged", "heart size is normal"."""

from collections.abc import Sequence

from rctpl_utils.vocabulary import Frame

DENIALS = frozenset(["not", "nor"])


def read_state(words: Sequence[str], position: int, frame: Frame) -> tuple[int, bool] | None:
    """The state that follows a subject, over words that may stand between.

    Args:
        words: the sentence's tokens in lower case.
        position: the first token after the subject.
        frame: the statement.

    Returns:
        (end of the last state word in reach, whether it means absence), or None without a state.
    """
    found, denied = None, False
    for i in range(position, len(words)):
        word = words[i]
        if word in frame.present or word in frame.absent:
            found = i + 1, denied or word in frame.absent
        denied = denied or word in DENIALS
        if word not in frame.between and word not in DENIALS:
            break
    return found
