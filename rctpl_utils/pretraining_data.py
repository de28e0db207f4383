"""From the MIMIC-CXR tree to the arrays that pre-training takes."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from rctpl_utils.datasets import ChestXrayDataset, open_dataset
from rctpl_utils.encoders.standin import pad_to_square
from rctpl_utils.pretraining import Pairs
from rctpl_utils.pretraining_texts import build_text_bank, training_texts
from rctpl_utils.reports import Report


def load_pairs(data_root: Path, reports: list[Report], triplets: pd.DataFrame, size: int) -> Pairs:
    """The training images of MIMIC-CXR with what their reports say.

    Args:
        reports: the training reports.
        triplets: their triplets (other reports' rows are ignored).
        size: S, the side of the image tower's input in pixels.
    """
    bank = build_text_bank([r.report_id for r in reports], [r.text for r in reports], triplets)
    rows = {report.report_id: row for row, report in enumerate(reports)}
    dataset = open_dataset("mimic-cxr", data_root, "train")
    studies = dataset.records["study"].map(rows)
    kept = np.flatnonzero(studies.notna())
    images = load_images(dataset, kept, size)
    texts, _ = training_texts(bank, [report.impression for report in reports])
    return Pairs(images, studies.iloc[kept].to_numpy(int), bank, texts)


def load_images(dataset: ChestXrayDataset, rows: np.ndarray, size: int) -> np.ndarray:
    """Some images, padded to a square and resized: (n, S, S) uint8."""
    images = np.empty((len(rows), size, size), np.uint8)
    for place, row in enumerate(tqdm(rows, desc=f"reading {dataset.name}", unit="image")):
        square = pad_to_square(dataset.pixels(row))
        if square.shape[0] != size:
            square = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
        images[place] = np.rint(square * 255)
    return images
