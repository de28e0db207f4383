"""DualCoOp: a positive and a negative context, compared region by region (not zero-shot).

Sun, Hu and Saenko, DualCoOp: Fast Adaptation to Multi-Label Recognition with Limited Annotations,
NeurIPS 2022. With F_r the feature of region r, and G_i+ and G_i- the embeddings of class i in the
positive and in the negative context, each class looks at its own regions:

    w_ir = softmax_r(cos(F_r, G_i+) / tau_s),      S_i+- = sum_r w_ir cos(F_r, G_i+-)
    p_i  = exp(S_i+ / tau) / (exp(S_i+ / tau) + exp(S_i- / tau))

The loss is the asymmetric one (Ridnik et al., ICCV 2021), over known labels only:

    L = - sum_present (1 - p)^g+ log p - sum_absent p_c^g- log(1 - p_c),   p_c = max(p - c, 0)

**Kept**: two contexts of M = 16, shared by all classes; the region weights of the positive context
for both; 1 / tau_s = 20; g+ = 1, g- = 2 (the authors' code: `models/dualcoop.py`,
`utils/build_cfg.py`, `opts.py`); focusing factors without gradient. c = 0.05 is the default of the
asymmetric loss's own code; DualCoOp's file with it was not at hand.

**Changed**: 1 / tau is the encoder's own; the authors' 20 x 5 = 100 is CLIP's own. Where cosines
spread more widely than CLIP's, 100 puts p at 1 from the start, where the clipped loss is flat.

**Left out**: CLIP's value projection in place of attention pooling, since the encoder's dense
features are in the joint space already; class-specific contexts, which the authors advise against
where labels are few; the loss's weight, which Adam does not notice; SGD and 50 epochs.

**Fair**: encoder, classes, optimizer as RC-TPL's; M is the authors' for partial labels (64 for
unseen classes). The labels are an advantage, and said so in the row's name. Scores are the log odds
of p, which rank as p does and do not saturate. Grounding (the cosine of each cell with G_i+, which
decides the region weights) is our extension.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rctpl_utils.baselines.few_shot import FilmBatch
from rctpl_utils.baselines.prompt_learning import (
    PromptModel,
    PromptSettings,
    logit_scale,
    new_context,
)
from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.prompts.training import embed_classes
from rctpl_utils.scoring import similarity_maps

CONTEXT_LENGTH = 16  # M of each context
REGION_SCALE = 20.0  # 1 / tau_s
FOCUS_PRESENT, FOCUS_ABSENT, CLIP = 1.0, 2.0, 0.05  # g+, g-, c
SETTINGS = PromptSettings(batch_size=32, learning_rate=1e-2)
_TINY = 1e-8  # the least probability whose logarithm is taken


class DualCoOp(PromptModel):
    """Two contexts; scores are the log odds of the positive against the negative one."""

    method = "DualCoOp"
    sharpness = 1.0  # scores are logits

    def begin(self, generator: torch.Generator) -> None:
        """Both contexts, (M, W) each."""
        self.positive = new_context(CONTEXT_LENGTH, self.encoder, generator)
        self.negative = new_context(CONTEXT_LENGTH, self.encoder, generator)

    def encode(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """G+ and G-: two (L, d)."""
        contexts = {"positive": self.positive, "negative": self.negative}
        return tuple(embed_classes(self.encoder, contexts, list(names)).values())

    def loss(self, batch: FilmBatch) -> Tensor:
        """The asymmetric loss, summed over a film's known labels, averaged over films."""
        return asymmetric_loss(self._log_odds(batch.features, self.concepts), batch.labels)

    @torch.no_grad()
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """log p / (1 - p): (n, L)."""
        return self._log_odds(films, concepts)

    def _log_odds(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        margin = region_margin(films.dense_features, *self.encoded(concepts))
        return logit_scale(self.encoder) * margin

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """The cosine of each cell in the positive context, our extension: (n, h, w)."""
        positive, _ = self.encoded([concept])
        return similarity_maps(films.dense_features, positive)[..., 0]


def region_margin(dense_features: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """S+ - S- of n films (n, h, w, d) and L classes, embedded in both contexts (L, d): (n, L)."""
    regions = dense_features.flatten(1, 2)  # (n, R, d)
    agreeing = similarity_maps(regions, positive)  # (n, R, L)
    weights = (REGION_SCALE * agreeing).softmax(dim=1)
    return (weights * (agreeing - similarity_maps(regions, negative))).sum(dim=1)


def asymmetric_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The asymmetric loss, summed over known labels, averaged over films.

    Args:
        logits: log odds of presence, (n, L).
        labels: (n, L): 1 present, 0 absent, NaN unknown (no part of the sum).
    """
    present, absent = logits.sigmoid(), (1 - logits.sigmoid() + CLIP).clamp(max=1)  # p, 1 - p_c
    with torch.no_grad():
        focus = torch.where(
            labels == 1, (1 - present) ** FOCUS_PRESENT, (1 - absent) ** FOCUS_ABSENT
        )
    chosen = torch.where(labels == 1, present, absent)
    terms = -focus * chosen.clamp(min=_TINY).log()
    return terms.masked_fill(labels.isnan(), 0).sum() / len(labels)
