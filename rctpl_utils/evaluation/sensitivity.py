"""How much tau_c of Eq. 8 matters, looked at on validation films only."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.features import image_features
from rctpl_utils.evaluation.metrics import scorable, weighted_auc
from rctpl_utils.prompts.methods import Method
from rctpl_utils.prompts.zero_shot import score_images
from rctpl_utils.workspace import Workspace

INVERSE_TEMPERATURES = (5, 10, 20, 40, 80, 160)


def temperature_sensitivity(
    workspace: Workspace, encoders: Sequence[Encoder], methods: Sequence[Method], dataset: str
) -> pd.DataFrame:
    """Macro AUC of the concept branch on validation films by 1 / tau_c, one row a method.

    Args:
        encoders, methods: their first seed is used.
    """
    films = open_split(workspace, dataset, "validation")
    features = image_features(encoders[0], films, workspace.features)
    labels = films.records[list(films.concepts)].to_numpy(float)
    columns = [k for k in range(labels.shape[1]) if scorable(labels[:, k])]
    ones = np.ones((1, len(films)), np.float32)
    embeddings = {method.name: method.embedders[0](films.concepts) for method in methods}
    table = {}
    for inverse in INVERSE_TEMPERATURES:
        scored = score_images(features, embeddings, 1 / inverse)
        table[inverse] = {
            name: np.mean(
                [weighted_auc(labels[:, k], each.concept[:, k], ones)[0] for k in columns]
            )
            for name, each in scored.items()
        }
    return pd.DataFrame(table).rename_axis(columns="1 / tau_c")
