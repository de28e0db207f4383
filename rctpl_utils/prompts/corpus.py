"""What prompt training sees: text features and labels, nothing else (paper 3.2.3)."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class TextBatch:
    """A batch of B reports as features."""

    report: Tensor  # h, (B, d)
    descriptions: Tensor  # H, (B, N, d), padded to the batch's longest
    described: Tensor  # (B, N), true where a description exists
    present: Tensor  # c+, (B, L)
    absent: Tensor  # c-, (B, L); what is uncertain is in neither


@dataclass(frozen=True)
class TextCorpus:
    """Reports as cached features: each distinct text is stored once and referred to by its row."""

    report_features: np.ndarray  # (n, d)
    description_features: np.ndarray  # (m, d), one row a distinct description
    description_rows: list[np.ndarray]  # for each report, those of its descriptions (at least one)
    labels: np.ndarray  # (n, L): 1 present, 0 absent or unmentioned, NaN uncertain

    def __len__(self) -> int:
        """Number of reports."""
        return len(self.report_features)

    def head(self, count: int) -> "TextCorpus":
        """Its first reports."""
        return TextCorpus(
            self.report_features[:count],
            self.description_features,
            self.description_rows[:count],
            self.labels[:count],
        )

    @property
    def key(self) -> str:
        """A hash of all features and labels."""
        digest = hashlib.sha256()
        for array in (self.report_features, self.description_features, self.labels):
            digest.update(np.ascontiguousarray(array))
        for rows in self.description_rows:
            digest.update(np.asarray(rows, np.int64))
        return digest.hexdigest()

    def batch(self, rows: np.ndarray, device: torch.device) -> TextBatch:
        """Gather the named reports."""
        lists = [self.description_rows[i] for i in rows]
        counts = np.array([len(each) for each in lists])
        described = np.arange(counts.max()) < counts[:, None]  # (B, N)
        index = np.zeros(described.shape, int)
        index[described] = np.concatenate(lists)
        labels = self.labels[rows]
        arrays = (
            self.report_features[rows],
            self.description_features[index],
            described,
            labels == 1,
            labels == 0,
        )
        return TextBatch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))
