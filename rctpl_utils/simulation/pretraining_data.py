"""From the embedded world's MIMIC-CXR tree to the arrays that pre-training takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rctpl_utils.datasets import open_dataset
from rctpl_utils.encoders.features import TEXT_BATCH
from rctpl_utils.encoders.pretraining import Pairs, TextLists, load_images
from rctpl_utils.encoders.pretraining_texts import TextBank, build_text_bank, training_texts
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.encoders.word_states import word_states
from rctpl_utils.simulation.appearances import film_texts
from rctpl_utils.simulation.manifest import DRAWN_TABLE
from rctpl_utils.text.reports import Report


def load_pairs(
    data_root: Path,
    reports: Sequence[Report],
    triplets: pd.DataFrame,
    tower: TextTower,
    size: int,
    features: Path,
) -> Pairs:
    """The training images of MIMIC-CXR with what their reports say and what they show.

    Args:
        reports: the training reports.
        triplets: their triplets (other reports' rows are ignored).
        tower: MiniLM, which reads each text once.
        size: S, the side of the image tower's input in pixels.
        features: the feature cache, which keeps the texts' word states.
    """
    bank = build_text_bank([r.report_id for r in reports], [r.text for r in reports], triplets)
    rows = {report.report_id: row for row, report in enumerate(reports)}
    dataset = open_dataset("mimic-cxr", data_root, "train")
    studies = dataset.records["study"].map(rows)
    kept = np.flatnonzero(studies.notna())
    names = dataset.records["image_id"].iloc[kept]
    # the texts that only baselines read go through MiniLM with the bank's: both find one file
    texts, _ = training_texts(bank, [report.impression for report in reports])
    words, _ = word_states(tower, texts, features)
    pooled = words.means(np.arange(len(bank.texts)))
    drawn = pd.read_csv(data_root / "mimic-cxr" / DRAWN_TABLE)
    return join_pairs(
        load_images(dataset, kept, size),
        studies.iloc[kept].to_numpy(int),
        bank,
        pooled,
        drawn,
        list(names),
        tower,
    )


def join_pairs(
    images: np.ndarray,
    studies: np.ndarray,
    bank: TextBank,
    pooled: np.ndarray,
    drawn: pd.DataFrame,
    names: Sequence[str],
    tower: TextTower,
) -> Pairs:
    """The bank's texts, then the attribute sentences of what was drawn, in one list.

    Args:
        images: (n, S, S); `studies`: (n,) the report of each; `names`: their identifiers.
        pooled: the bank's texts before the projection, (t, W).
        drawn: the world's `drawn.csv`.
    """
    looks = film_texts(drawn, names)
    both = np.concatenate([pooled, pooled_texts(tower, looks.texts)]).astype(np.float16)
    return Pairs(
        images=images,
        reports=studies,
        image_vectors=bank.report_vectors[studies] + looks.film_vectors,
        pooled=both,
        vectors=np.concatenate([bank.vectors, looks.vectors]),
        texts=TextLists.of(bank.rows),
        findings=TextLists.of(bank.finding_rows),
        looks=TextLists.of([len(bank.texts) + rows for rows in looks.rows]),
    )


def pooled_texts(tower: TextTower, texts: Sequence[str]) -> np.ndarray:
    """Texts before the projection, (n, W), texts of like length together."""
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
    found = np.empty((len(texts), tower.bert.config.hidden_size), np.float32)
    for start in range(0, len(order), TEXT_BATCH):
        part = order[start : start + TEXT_BATCH]
        found[part] = tower.pooled([texts[k] for k in part]).cpu().numpy()
    return found
