"""Real lung outlines as landmarks: hundreds of thorax shapes for one CT.

The outlines are the v7labs annotations that torchxrayvision packages (517 images).
"""

import zipfile
from pathlib import Path

import cv2
import numpy as np

from rctpl_utils.simulation.warp import lung_landmarks

_SIDE = 256  # outlines are traced at this size
_AREA = (0.1, 0.55)  # both lungs, of the image: less is a crop or a child's film in a large frame
_MARGIN = 2  # pixels: lungs that touch the frame are cut off


def load_outlines(archive: Path) -> np.ndarray:
    """Landmarks of every complete pair of lungs in the archive, in the order of file names.

    Returns:
        (N, L, 2) float64 in (column, row), relative to the square-padded image frame.
    """
    found = []
    with zipfile.ZipFile(archive) as stored:
        for name in sorted(stored.namelist()):
            if not name.endswith("/"):
                image = cv2.imdecode(np.frombuffer(stored.read(name), np.uint8), 0)
                pair = None if image is None else split_lungs(square(image))
                if pair is not None:
                    found.append(lung_landmarks(*pair))
    return np.array(found)


def square(image: np.ndarray) -> np.ndarray:
    """Pad to a square and resize: (_SIDE, _SIDE) uint8. Annotators' gray boxes are dropped."""
    image = np.where(image > 200, 255, 0).astype(np.uint8)
    height, width = image.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    bottom, right = side - height - top, side - width - left
    padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return cv2.resize(padded, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def split_lungs(image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The (right, left) lung masks of an outline image, or None where it is not a complete pair."""
    solid = cv2.morphologyEx(image, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 127
    count, parts, stats, middle = cv2.connectedComponentsWithStats(solid.astype(np.uint8))
    if count < 3:
        return None
    two = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[-2:]
    areas = stats[two, cv2.CC_STAT_AREA]
    first, second = sorted(two, key=lambda part: middle[part, 0])
    pair = parts == first, parts == second
    both = np.argwhere(pair[0] | pair[1])
    inside = both.min() >= _MARGIN and both.max() < _SIDE - _MARGIN
    proper = _AREA[0] < areas.sum() / image.size < _AREA[1] and areas.min() > 0.5 * areas.max()
    apart = stats[second, cv2.CC_STAT_LEFT] > middle[first, 0]
    level = abs(middle[first, 1] - middle[second, 1]) < 0.12 * _SIDE
    return pair if inside and proper and apart and level else None
