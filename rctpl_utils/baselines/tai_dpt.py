"""TaI-DPT: RC-TPL's direct parent, two contexts learned from captions alone (no image, no label).

Guo, Dong, Ji, Bai, Guo and Zuo, Texts as Images in Prompt Tuning for Multi-Label Image Recognition,
CVPR 2023. A caption stands for an image: h is its global feature, H its token features. With G_i
and L_i the embeddings of class i in the global and in the local context,

    p_i = <h, G_i>,    P_ij = <H_j, L_i>,    p'_i = sum_j softmax_j(P_ij / tau_s) P_ij
    L = sum over present i and absent j of max(0, m - p_i + p_j)   +   the same with p'

and at test an image's global feature and dense map take the places of h and H.

**Kept** (the authors' code: `trainers/Caption_distill_double.py`, `trainers/utils.py`, the
configurations beside them): two contexts shared by all classes, M = 16; all tokens of a caption,
its first and last included and padding masked, projected like the global feature; m = 1 on cosines
times 4, summed over pairs and averaged over captions; tau_s = 1/50 for tokens and 1/40 for image
cells; batches of 512; the mean of the two branches at test.

**Changed**: classes of a caption are nouns there, the labels of a report's triplets here
(`report_labels`): the ones that RC-TPL ranks, of the same reports. A token's state is the one that
the encoder pools, so that the global feature is, before normalization, the mean of the projected
tokens where the encoder pools by the mean (CLIP takes its last token's). No SGD.

**Fair**: against RC-TPL only the local features (tokens in place of knowledge-rich descriptions), M
and the number of steps differ. Neither grounding nor retrieval is the paper's: the local branch's
cosine map and class scores are our extensions.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from rctpl_utils.baselines.prompt_learning import PromptModel, PromptSettings, new_context
from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.prompts.corpus import TextBatch
from rctpl_utils.prompts.training import batch_losses, embed_classes
from rctpl_utils.prompts.zero_shot import branch_scores
from rctpl_utils.scoring import (
    IMAGE_TEMPERATURE,
    TEXT_TEMPERATURE,
    ClassEmbeddings,
    fuse,
    similarity_maps,
)

CONTEXT_LENGTH = 16  # M
MARGIN = 1.0  # m; the scale of 4 is `training.SCORE_SCALE`
SETTINGS = PromptSettings(batch_size=512, learning_rate=1e-2)


class TaIDPT(PromptModel):
    """Two contexts; scores are the mean of both branches' cosines, as RC-TPL's."""

    method = "TaI-DPT"
    sharpness = 1 / IMAGE_TEMPERATURE  # as RC-TPL's scores

    def begin(self, generator: torch.Generator) -> None:
        """The global and the local context, (M, W) each."""
        self.whole = new_context(CONTEXT_LENGTH, self.encoder, generator)
        self.local = new_context(CONTEXT_LENGTH, self.encoder, generator)

    def encode(self, names: Sequence[str]) -> ClassEmbeddings:
        """G and L: two (L, d)."""
        contexts = {"report": self.whole, "concept": self.local}
        return ClassEmbeddings(**embed_classes(self.encoder, contexts, list(names)))

    def loss(self, batch: TextBatch) -> Tensor:
        """Both ranking losses; the batch's descriptions are tokens (`tokens.token_corpus`)."""
        batch = dataclasses.replace(batch, descriptions=batch.descriptions.float())
        embedded = self.encoded(self.concepts)._asdict()
        return sum(batch_losses(batch, embedded, TEXT_TEMPERATURE, MARGIN).values())

    @torch.no_grad()
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """(p + p') / 2: (n, L)."""
        return fuse(*branch_scores(films, self.encoded(concepts), IMAGE_TEMPERATURE))

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """P of the image's cells, our extension: (n, h, w)."""
        return similarity_maps(films.dense_features, self.encoded([concept]).concept)[..., 0]
