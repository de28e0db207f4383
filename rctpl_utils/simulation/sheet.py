"""A contact sheet of the simulated radiographs, for a radiologist's eye."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from rctpl_utils.files import atomic_path
from rctpl_utils.simulation.anatomy import Anatomy
from rctpl_utils.simulation.cases import Case, Lesion
from rctpl_utils.simulation.lesions import PAINTERS
from rctpl_utils.simulation.radiograph import Radiograph, render

_HEAD, _STRIP = 34, 18  # pixels: title, caption above each row
_RED, _INK = (60, 60, 255), (40, 40, 40)


def contact_sheet(
    anatomy: Anatomy,
    path: Path,
    *,
    size: int = 128,
    severities: tuple[float, ...] = (0.1, 0.35, 0.6, 0.85, 1.0),
    concepts: tuple[str, ...] = tuple(PAINTERS),
    columns: int = 3,
    style: str | None = None,
    split: str = "test",
    seed: int = 11,
    outlines: bool = True,
) -> Path:
    """Draw each concept from subtle to gross, its mask outlined, and save a PNG.

    Args:
        anatomy: `load_anatomy`'s.
        path: where the PNG goes.
        size: side of a film in pixels.
        severities: one film each, from left to right.
        concepts: one strip of films each.
        columns: strips side by side.
        style: an acquisition style; None takes all in turn.
        split: the pool of poses and outlines.
        seed: of the whole sheet.
        outlines: draw the masks.
    """
    strips = []
    for k, concept in enumerate(concepts):
        films = [
            _film(anatomy, concept, s, size, style, split, seed + 100 * k + n, outlines)
            for n, s in enumerate(severities)
        ]
        strips.append(_captioned(np.hstack(films), f"{concept}, severity {_listed(severities)}"))
    while len(strips) % columns:
        strips.append(np.full_like(strips[0], 255))
    rows = [np.hstack(strips[k : k + columns]) for k in range(0, len(strips), columns)]
    title = np.full((_HEAD, rows[0].shape[1], 3), 255, np.uint8)
    text = "Simulated radiographs (real CT anatomy, drawn pathology; red: exact lesion masks)"
    cv2.putText(title, text, (6, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, _INK, 1, cv2.LINE_AA)
    sheet = Image.fromarray(np.vstack([title, *rows])[..., ::-1])  # OpenCV's order is BGR
    with atomic_path(path) as temporary:  # a palette: a third of the size, to the eye the same
        sheet.quantize(128, dither=Image.Dither.NONE).save(temporary, optimize=True)
    return Path(path)


def _film(
    anatomy: Anatomy,
    concept: str,
    severity: float,
    size: int,
    style: str | None,
    split: str,
    seed: int,
    outlines: bool,
) -> np.ndarray:
    """One film with its mask's outline, (size, size, 3) uint8."""
    names = ("mimic-cxr", "chestxray14", "chexpert", "covidx", "rsna", "siim")
    lesion = Lesion(concept, None, None, severity)
    style = style or names[seed % len(names)]
    film = render(Case(str(seed), "sheet", (lesion,), split, style, seed), anatomy, size)
    return outlined_film(film, concept) if outlines else _color(film)


def outlined_film(film: Radiograph, concept: str) -> np.ndarray:
    """A film in color with one mask's outline: (H, W, 3) uint8, BGR."""
    image = _color(film)
    mask = film.masks[concept].astype(np.uint8)
    borders, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, borders, -1, _RED, 1)
    return image


def _color(film: Radiograph) -> np.ndarray:
    return cv2.cvtColor(np.uint8(film.pixels * 255), cv2.COLOR_GRAY2BGR)


def _captioned(strip: np.ndarray, text: str) -> np.ndarray:
    caption = np.full((_STRIP, strip.shape[1], 3), 255, np.uint8)
    cv2.putText(caption, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
    framed = np.vstack([caption, strip])
    return cv2.copyMakeBorder(framed, 0, 2, 0, 6, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def _listed(severities: tuple[float, ...]) -> str:
    return ", ".join(f"{s:g}" for s in severities)
