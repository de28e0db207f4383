"""A report's tokens in the joint space, in the place of descriptions: what TaI-DPT learns from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import make_arrays, text_features
from rctpl_utils.encoders.shards import Plan
from rctpl_utils.encoders.text_tower import MAX_TOKENS, TextTower
from rctpl_utils.files import hash_of
from rctpl_utils.prompts.corpus import TextCorpus
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels

TOKEN_BATCH, TOKEN_SHARD = 64, 16  # texts in a pass; passes in a shard, 20 MB at d = 128


@torch.no_grad()
def token_states(text: TextTower, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Each token's state as the tower pools it: (n, T, W), and which are no padding, (n, T)."""
    tokens = text.tokenize(texts)
    states = text.bert(**tokens, output_hidden_states=True).hidden_states
    pooled = torch.stack([states[layer] for layer in text.layers]).mean(dim=0)
    return pooled, tokens["attention_mask"].bool()


def token_features(
    encoders: Sequence[Encoder], texts: Sequence[str], folder: Path
) -> dict[Encoder, tuple[np.ndarray, np.ndarray]]:
    """Token features of distinct texts, made once, in batches of like length.

    Encoders that share their BERT (`pooled_key`) read the texts together.

    Returns:
        for each encoder (n, 77, d) float16, memory-mapped, unit vectors, zero after a text's last
        token, and the counts (n,).
    """
    groups: dict[str, list[Encoder]] = {}
    for encoder in dict.fromkeys(encoders):
        shared = getattr(encoder, "pooled_key", encoder.text_key)
        groups.setdefault(shared, []).append(encoder)
    found = {}
    for group in groups.values():
        *states, counts = _read_tokens(group, texts, folder)
        found |= {encoder: (each, counts) for encoder, each in zip(group, states, strict=True)}
    return found


def _read_tokens(group: list[Encoder], texts: Sequence[str], folder: Path) -> list[np.ndarray]:
    """One array of states an encoder of one BERT, then the counts."""
    stems = [hash_of("tokens", each.text_key, list(texts))[:20] for each in group]
    paths = [folder / f"tokens-{stem}-states.npy" for stem in stems]
    order = np.array(sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)), int)

    @torch.no_grad()
    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        states, seen = token_states(group[0].text, [texts[i] for i in rows.tolist()])
        made = []
        for encoder in group:
            projected = encoder.text.project(states) * seen.unsqueeze(-1)
            padded = np.zeros((len(rows), MAX_TOKENS, projected.shape[-1]), np.float16)
            padded[:, : projected.shape[1]] = projected.cpu().numpy()
            made.append(padded)
        return *made, seen.sum(dim=1).cpu().numpy()

    plan = Plan(order, TOKEN_BATCH, TOKEN_SHARD)
    paths.append(folder / f"tokens-{hash_of(stems)[:20]}-counts.npy")
    return make_arrays(paths, plan, encode, label="encoding tokens", unit="text")


def token_corpora(
    encoders: Sequence[Encoder],
    reports: list[Report],
    triplets: pd.DataFrame,
    concepts: tuple[str, ...],
    folder: Path,
) -> tuple[TextCorpus, ...]:
    """The reports and labels of `corpus_building.build_corpus`, tokens in place of descriptions.

    Only reports with a present concept are taken apart into tokens; the others have no loss.

    Args:
        encoders: one a seed.

    Returns:
        the corpus in each encoder's features.
    """
    texts = list(dict.fromkeys(report.text for report in reports))
    place = {text: row for row, text in enumerate(texts)}
    labels = report_labels(triplets, [report.report_id for report in reports], concepts)
    labels = labels.to_numpy(np.float32)
    positive = (labels == 1).any(axis=1)
    rows = np.array([place[report.text] for report in reports])[positive]
    used, own = np.unique(rows, return_inverse=True)
    tokens = token_features(encoders, [texts[row] for row in used], folder)

    def corpus(encoder: Encoder) -> TextCorpus:
        states, counts = tokens[encoder]
        return TextCorpus(
            text_features(encoder, texts, folder)[rows],
            states.reshape(-1, states.shape[-1]),
            [MAX_TOKENS * row + np.arange(counts[row]) for row in own],
            labels[positive],
        )

    return per_encoder(encoders, corpus)
