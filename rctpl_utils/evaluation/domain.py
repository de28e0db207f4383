"""Is a film like those that the scores were calibrated on?

Global features of real and simulated films are alike; the dense map tells more. A film is described
by mean and deviation of each dimension over its cells, its distance is Mahalanobis' from all
validation films (Lee et al., NeurIPS 2018), in units of a limit that 99 % of them keep.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.numpy import load, save
from sklearn.covariance import LedoitWolf
from sklearn.model_selection import GroupKFold

from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.encoders.features import IMAGE_BATCH, ImageFeatureFile

FOLDS = 5
KEPT = 0.99  # the share of validation films within the limit


def descriptors(features: ImageFeatures) -> np.ndarray:
    """Mean and deviation of the dense map over its cells: (n, 2 d)."""
    cells = features.dense_features.flatten(1, 2).double()
    return torch.cat([cells.mean(dim=1), cells.std(dim=1)], dim=1).cpu().numpy()


def file_descriptors(file: ImageFeatureFile, encoder: Encoder) -> np.ndarray:
    """Those of a data set's cached features."""
    rows = (slice(start, start + IMAGE_BATCH) for start in range(0, len(file), IMAGE_BATCH))
    return np.concatenate([descriptors(file.batch(part, encoder.device)) for part in rows])


@torch.no_grad()
def described(encoder: Encoder, images: Sequence[np.ndarray]) -> np.ndarray:
    """Those of pictures, float (H, W) in [0, 1]."""
    parts = []
    for start in range(0, len(images), IMAGE_BATCH):
        part = map(np.ascontiguousarray, images[start : start + IMAGE_BATCH])
        batch = torch.stack([encoder.preprocess(each) for each in part])
        parts.append(descriptors(encoder.encode_image(batch)))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Domain:
    """Where validation films lie: their mean (2 d,), the inverse of their covariance, shrunk
    (Ledoit and Wolf 2004), and the distance within which `KEPT` lie, each measured from other
    patients' films.
    """

    center: np.ndarray
    precision: np.ndarray
    limit: float

    @classmethod
    def fit(cls, films: np.ndarray, patients: Sequence[str]) -> "Domain":
        """Of validation films (n, 2 d) and their patients, `FOLDS` or more."""
        held_out = np.empty(len(films))
        for rest, fold in GroupKFold(FOLDS).split(films, groups=list(patients)):
            held_out[fold] = LedoitWolf().fit(films[rest]).mahalanobis(films[fold])
        whole = LedoitWolf().fit(films)
        return cls(whole.location_, whole.precision_, float(np.quantile(held_out, KEPT) ** 0.5))

    def distance(self, films: np.ndarray) -> np.ndarray:
        """Distances of films (n, 2 d) in units of the limit, (n,): above 1 is out of the domain."""
        away = films - self.center
        return np.sqrt(np.einsum("ni,ij,nj->n", away, self.precision, away)) / self.limit

    def as_text(self) -> str:
        """For a JSON file: safetensors in base64."""
        arrays = {"center": self.center, "precision": self.precision}
        packed = {name: np.ascontiguousarray(each, np.float32) for name, each in arrays.items()}
        return base64.b64encode(save(packed | {"limit": np.array([self.limit])})).decode()

    @classmethod
    def from_text(cls, text: str) -> "Domain":
        """What `as_text` wrote; ValueError: it is damaged."""
        try:
            arrays = load(base64.b64decode(text, validate=True))
            return cls(arrays["center"], arrays["precision"], float(arrays["limit"][0]))
        except Exception as error:  # safetensors' own errors share no base but Exception
            raise ValueError(f"the domain is damaged: {error}") from error
