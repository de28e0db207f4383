"""A report's tokens in the joint space, in the place of descriptions: what TaI-DPT learns from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from rctpl_utils.concepts import report_labels
from rctpl_utils.corpus import TextCorpus
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.text_tower import MAX_TOKENS, TextTower
from rctpl_utils.features import make_arrays, text_features
from rctpl_utils.files import hash_of
from rctpl_utils.reports import Report
from rctpl_utils.shards import Plan

TOKEN_BATCH, TOKEN_SHARD = 64, 16  # texts in a pass; passes in a shard, 20 MB at d = 128


@torch.no_grad()
def token_states(text: TextTower, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Each token's projected state: (n, T, d) unit vectors, and which are no padding, (n, T)."""
    tokens = text.tokenize(texts)
    states = text.bert(**tokens, output_hidden_states=True).hidden_states
    pooled = torch.stack([states[layer] for layer in text.layers]).mean(dim=0)
    return functional.normalize(text.projection(pooled), dim=-1), tokens["attention_mask"].bool()


def token_features(
    encoder: Encoder, texts: Sequence[str], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Token features of distinct texts, made once, in batches of like length.

    Returns:
        (n, 77, d) float16, memory-mapped, zero after a text's last token, and the counts (n,).
    """
    key = hash_of("tokens", encoder.text_key, list(texts))[:20]
    paths = [folder / f"tokens-{key}-{part}.npy" for part in ("states", "counts")]
    order = np.array(sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)), int)

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        states, seen = token_states(encoder.text, [texts[i] for i in rows.tolist()])
        padded = np.zeros((len(rows), MAX_TOKENS, states.shape[-1]), np.float16)
        padded[:, : states.shape[1]] = (states * seen.unsqueeze(-1)).cpu().numpy()
        return padded, seen.sum(dim=1).cpu().numpy()

    plan = Plan(order, TOKEN_BATCH, TOKEN_SHARD)
    states, counts = make_arrays(paths, plan, encode, label="encoding tokens", unit="text")
    return states, counts


def token_corpus(
    encoder: Encoder,
    reports: list[Report],
    triplets: pd.DataFrame,
    concepts: tuple[str, ...],
    folder: Path,
) -> TextCorpus:
    """The reports and labels of `corpus_building.build_corpus`, tokens in place of descriptions.

    Only reports with a present concept are taken apart into tokens; the others have no loss.
    """
    texts = list(dict.fromkeys(report.text for report in reports))
    place = {text: row for row, text in enumerate(texts)}
    labels = report_labels(triplets, [report.report_id for report in reports], concepts)
    labels = labels.to_numpy(np.float32)
    positive = (labels == 1).any(axis=1)
    rows = np.array([place[report.text] for report in reports])[positive]
    used, own = np.unique(rows, return_inverse=True)
    states, counts = token_features(encoder, [texts[row] for row in used], folder)
    return TextCorpus(
        text_features(encoder, texts, folder)[rows],
        states.reshape(-1, states.shape[-1]),
        [MAX_TOKENS * row + np.arange(counts[row]) for row in own],
        labels[positive],
    )
