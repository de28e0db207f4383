"""TaI-DPT: RC-TPL's direct parent, two contexts learned from captions alone (no image, no label).

Guo, Dong, Ji, Bai, Guo and Zuo, Texts as Images in Prompt Tuning for Multi-Label Image Recognition,
CVPR 2023. A caption stands for an image: h is its global feature, H its token features. With G_i
and L_i the embeddings of class i in the global and in the local context,

    p_i = <h, G_i>,    P_ij = <H_j, L_i>,    p'_i = sum_j softmax_j(P_ij / tau_s) P_ij
    L = sum over present i and absent j of max(0, m - p_i + p_j)   +   the same with p'

and at test an image's global feature and dense map take the places of h and H.

Kept (`trainers/Caption_distill_double.py`, `trainers/utils.py`): M = 16; all tokens of a caption,
its first and last included and padding masked, projected like the global feature; m = 1 on cosines
times 4, summed over pairs and averaged over captions; tau_s = 1/50 for tokens and 1/40 for image
cells; batches of 512; the mean of the two branches at test. Changed: classes of a caption are
nouns there, the labels of a report's triplets here, as RC-TPL's; a token's state is the one that
the encoder pools. Against RC-TPL only the local features (tokens in place of knowledge-rich
descriptions), M and the number of steps differ. Grounding by the local branch's cosine map and
retrieval by class scores are our extensions.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rctpl_utils.baselines.learners import PromptModel
from rctpl_utils.baselines.prompt_learning import PromptSettings
from rctpl_utils.encoders.base import Encoder, ImageFeatures, per_encoder
from rctpl_utils.encoders.features import make_arrays, text_features
from rctpl_utils.encoders.text_tower import MAX_TOKENS, TextTower
from rctpl_utils.files import hash_of
from rctpl_utils.prompts.training import TextBatch, TextCorpus, batch_losses
from rctpl_utils.prompts.zero_shot import branch_scores
from rctpl_utils.scoring import (
    IMAGE_TEMPERATURE,
    TEXT_TEMPERATURE,
    ClassEmbeddings,
    fuse,
    similarity_maps,
)
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels

TOKEN_BATCH, TOKEN_SHARD = 64, 16  # texts in a pass; passes in a shard, 20 MB at d = 128
MARGIN = 1.0  # m; the scale of 4 is `training.SCORE_SCALE`


class TaIDPT(PromptModel):
    """Two contexts; scores are the mean of both branches' cosines, as RC-TPL's."""

    method = "TaI-DPT"
    settings = PromptSettings(batch_size=512, learning_rate=1e-2)
    contexts = ("whole", "local")

    def encode(self, names: Sequence[str]) -> ClassEmbeddings:
        """G and L: two (L, d)."""
        return ClassEmbeddings(*super().encode(names))

    def loss(self, batch: TextBatch) -> Tensor:
        """Both ranking losses; the batch's descriptions are tokens (`token_corpora`)."""
        batch = dataclasses.replace(batch, descriptions=batch.descriptions.float())
        embedded = self.encoded(self.concepts)._asdict()
        return sum(batch_losses(batch, embedded, TEXT_TEMPERATURE, MARGIN).values())

    @torch.no_grad()
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """(p + p') / 2: (n, L)."""
        return fuse(*branch_scores(films, self.encoded(concepts), IMAGE_TEMPERATURE))

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """P of the image's cells: (n, h, w)."""
        return similarity_maps(films.dense_features, self.encoded([concept]).concept)[..., 0]


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

    Encoders that share their BERT (`pooled_key`) read the texts together. For each encoder: (n, 77,
    d) float16, memory-mapped, unit vectors, zero after a text's last token, and the counts (n,).
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

    size = {"batch": TOKEN_BATCH, "shard": TOKEN_SHARD}
    paths.append(folder / f"tokens-{hash_of(stems)[:20]}-counts.npy")
    return make_arrays(paths, order, encode, **size, label="encoding tokens", unit="text")


def token_corpora(
    encoders: Sequence[Encoder],
    reports: list[Report],
    triplets: pd.DataFrame,
    concepts: tuple[str, ...],
    folder: Path,
) -> tuple[TextCorpus, ...]:
    """The corpus of `corpus_building.build_corpus` by encoder, tokens in place of descriptions.

    Only reports with a present concept are taken apart into tokens; the others have no loss.
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
