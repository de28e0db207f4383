"""Acquisition styles: how a hospital's equipment turns attenuation into gray values.

Each data set has its own distribution, from which every image draws; they overlap but differ in
their means. Our choices, made by looking at real films of such data sets, not measurements.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.simulation.cases import Rng
from rctpl_utils.workspace import PACKAGE_DATA

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """The distribution of acquisition parameters of one data set; ranges are uniform."""

    frontal: float = 0.35  # probability of an AP (bedside) exposure
    rotation: float = 1.5  # SD of the film's rotation, degrees
    zoom: float = 1.0  # mean relative size of the thorax in the frame
    bone: Range = (1.0, 1.6)  # gain of bone over soft tissue (lower tube voltage: higher)
    scatter: Range = (0.15, 0.45)  # share of scattered radiation in the signal (smooth veil)
    noise: Range = (0.004, 0.018)  # quantum noise at mean exposure, SD of the log signal
    blur: Range = (1.0, 3.5)  # SD of focal spot and motion blur, 1/1000 of the image side
    sharpen: Range = (0.3, 1.2)  # strength of the unsharp mask of digital processing
    gamma: Range = (0.8, 1.2)  # exponent of the gray scale; above 1 darkens the lungs
    window: Range = (0.9, 1.15)  # width of the gray scale relative to the body's range
    level: Range = (-0.04, 0.04)  # shift of the window relative to its width
    vignette: Range = (0.0, 0.12)  # heel effect and fall-off, relative to the window
    collimation: float = 0.15  # probability of a visible collimator border
    marker: float = 0.6  # probability of a side marker
    marker_text: tuple[str, ...] = ("L", "R")


STYLES = {
    name: Style(**{k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()})
    for name, changes in read_json(PACKAGE_DATA / "drawing.json")["styles"].items()
}


def get_style(name: str) -> Style:
    """Look a style up; an unknown name is an `InputError` that lists the known ones."""
    if name not in STYLES:
        raise InputError(
            f"there is no acquisition style {name!r}", f"Choose one of: {', '.join(STYLES)}."
        )
    return STYLES[name]


def develop(attenuation: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Attenuation (H, W) to grays in [0, 1]: float32, multiples of 1/255; 1 = white (dense)."""
    values = _detect(attenuation, style, rng)
    # limits of the gray scale from the body's own range, as automatic processing sets them
    body = values[::3, ::3][attenuation[::3, ::3] > 0.6]
    low, high = np.percentile(body if body.size > 20 else values.ravel(), (1.0, 98.5))
    width = max(high - low, 0.5) * rng.uniform(*style.window)
    middle = (low + high) / 2 + width * (rng.uniform(*style.level) - 0.02)
    low, high = float(middle - width / 2), float(middle + width / 2)
    gray = (values - low) / (high - low)
    gray = gray + rng.uniform(*style.vignette) * _falloff(attenuation.shape[0], rng)
    # a film-like curve: linear in the middle, with a toe and a shoulder
    soft = np.log1p(np.exp(np.clip(14 * gray, -60, 60))) / 14  # toe
    soft = 1 - np.log1p(np.exp(np.clip(14 * (1 - soft), -60, 60))) / 14  # shoulder
    gray = np.clip(soft, 0, 1) ** rng.uniform(*style.gamma)
    gray = _mark(_collimate(gray, style, rng), style, rng)
    return np.round(np.clip(gray, 0, 1) * 255).astype(np.float32) / np.float32(255)


def _detect(attenuation: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Scatter, blur, quantum noise, log signal, unsharp mask: (H, W) float32."""
    size = attenuation.shape[0]
    signal = np.exp(-attenuation)
    share = rng.uniform(*style.scatter)
    veil = cv2.resize(signal, (16, 16), interpolation=cv2.INTER_AREA)
    veil = cv2.GaussianBlur(np.minimum(veil, 0.25), (0, 0), 2.0)
    veil = cv2.resize(veil, (size, size), interpolation=cv2.INTER_CUBIC)
    signal = (1 - share) * signal + share * np.maximum(veil, 0)
    signal = cv2.GaussianBlur(signal, (0, 0), max(rng.uniform(*style.blur) * size / 1000, 0.05))
    grain = rng.standard_normal(signal.shape, dtype=np.float32)
    if rng.random() < 0.5:  # detectors with a phosphor correlate neighboring pixels
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 1.8
    mean = np.sqrt(0.06 / np.maximum(signal, 1e-3))
    values = -np.log(np.maximum(signal, 1e-4)) + rng.uniform(*style.noise) * grain * mean
    smooth = cv2.GaussianBlur(values, (0, 0), size * rng.uniform(0.01, 0.03))
    return values + rng.uniform(*style.sharpen) * (values - smooth)


def _falloff(size: int, rng: Rng) -> np.ndarray:
    line = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = rng.normal(0, 0.5, 2).astype(np.float32)
    far = line[None] ** 2 + line[:, None] ** 2
    return tilt[0] * line[None] + tilt[1] * line[:, None] - 0.4 * far


def _collimate(gray: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Darken (rarely whiten) what lies outside of a slightly turned rectangle."""
    if rng.random() >= style.collimation:
        return gray
    size = gray.shape[0]
    edges = rng.uniform(0.0, 0.05, 4) * size
    left, top, right, bottom = edges[0], edges[1], size - edges[2], size - edges[3]
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    corners += rng.normal(0, 0.01 * size, (4, 2))
    inside = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(inside, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    share = inside.astype(np.float32) / 255
    outside = 0.02 if rng.random() < 0.85 else 0.97
    return gray * share + outside * (1 - share)


def _mark(gray: np.ndarray, style: Style, rng: Rng) -> np.ndarray:
    """Burn a side marker into an upper corner; the letter agrees with the patient's side."""
    if rng.random() >= style.marker:
        return gray
    size = gray.shape[0]
    text = str(rng.choice(style.marker_text))
    on_right = {"L": True, "R": False}.get(text, bool(rng.random() < 0.5))
    scale = size / 224 * rng.uniform(0.5, 0.85)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    gap = rng.uniform(0.02, 0.08, 2) * size
    column = size - gap[0] - width if on_right else gap[0]
    ink = np.zeros((size, size), np.uint8)
    place = (int(column), int(gap[1] + height))
    thick = max(1, round(size / 160))
    cv2.putText(ink, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    return np.maximum(gray, ink.astype(np.float32) / 255 * rng.uniform(0.75, 1.0))
