"""The frozen lower layers that all baselines share: every film's map is computed once.

A baseline trains what stands above these layers. They come from the stand-in, pre-trained by
semantic matching (MedCLIP's objective) on the same films; random lower layers would need more image
views than two cores have time for. So all baselines start from the same features, and a difference
between them is one of objective and head, which is what the comparison is about.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.encoders.base import known_hash
from rctpl_utils.encoders.features import IMAGE_BATCH, IMAGE_SHARD, file_stamps, make_arrays
from rctpl_utils.encoders.image_tower import with_detail
from rctpl_utils.encoders.precision import evaluation
from rctpl_utils.encoders.shards import Plan
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.files import hash_of


@torch.no_grad()
def trunk(encoder: StandIn, batch: Tensor) -> Tensor:
    """Preprocessed films (n, 1, S, S) to the map below the last two layers: (n, h, w, c)."""
    batch = batch.to(encoder.device, memory_format=torch.channels_last)
    with evaluation(encoder.device):
        cells = encoder.image.stages(encoder.image.stem(with_detail(batch)))
    return cells.permute(0, 2, 3, 1)


def trunk_maps(encoder: StandIn, dataset: ChestXrayDataset, folder: Path) -> np.ndarray:
    """The maps of a data set's films, computed once: (n, h, w, c) float16, memory-mapped."""
    weights = [known_hash(each) for each in (encoder.image.stem, encoder.image.stages)]
    key = hash_of(weights, encoder.image_size, file_stamps(dataset))[:20]
    path = folder / f"trunk-{dataset.name}-{dataset.split}-{key}.npy"

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = torch.stack([encoder.preprocess(dataset.pixels(i)) for i in rows.tolist()])
        return (trunk(encoder, batch).float().cpu().numpy().astype(np.float16),)

    plan = Plan(np.arange(len(dataset)), IMAGE_BATCH, IMAGE_SHARD)
    (maps,) = make_arrays([path], plan, encode, label=f"lower layers, {dataset.name}", unit="image")
    return maps
