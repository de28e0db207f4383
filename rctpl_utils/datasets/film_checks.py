"""Which films of a data set can be decoded and have their lesions drawn; asked with `skip_bad`."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pandas as pd
from tqdm import tqdm

from rctpl_utils.datasets.images import image_size, read_image
from rctpl_utils.datasets.screening import Screen, Skipped
from rctpl_utils.errors import InputError

MaskReader = Callable[[pd.Series, tuple[int, int]], np.ndarray]


def usable_films(
    screen: Screen,
    records: pd.DataFrame,
    masks: Mapping[str, MaskReader],
    annotated: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Which records are usable: bool (n,). An image that lost a row of its annotation is not.

    With `skip_bad` every image is decoded and every annotated mask drawn once (an image only once
    in a process), so that those which cannot be are known now; without it nothing is read, and a
    bad one raises when it is asked for.

    Args:
        screen: collects what is left out.
        records: with image_id and path.
        masks: concept -> what draws its mask.
        annotated: concept -> bool (n,), the records that it has something to draw for.
    """
    usable = ~records["image_id"].astype("str").isin(screen.images).to_numpy()
    if not screen.skip_bad:
        return usable
    rows = np.flatnonzero(usable)
    files = [str(path) for path in records["path"].iloc[rows]]
    with ThreadPoolExecutor() as pool:  # decoders work outside Python's lock
        found = pool.map(_image_problem, files)
        bar = tqdm(found, desc="checking images", total=len(files), unit="image")
        for row, problem in zip(rows, bar, strict=True):
            if problem is not None:
                screen.skipped.append(problem)
                usable[row] = False
    for concept, reader in masks.items():
        for row in np.flatnonzero(usable & annotated[concept]):
            record = records.iloc[row]
            usable[row] = screen.attempt(reader, record, image_size(record["path"])) is not None
    return usable


def _image_problem(path: str) -> Skipped | None:
    try:
        status = os.stat(path)
    except OSError as error:
        return Skipped(path, None, f"the image cannot be read ({error.strerror})")
    return _decoding_problem(path, status.st_size, status.st_mtime_ns)


@cache
def _decoding_problem(path: str, size: int, changed: int) -> Skipped | None:
    """Why the image cannot be decoded; size and time of change tell a replaced file."""
    try:
        read_image(path)
    except InputError as error:
        return Skipped.of(error)
    return None
