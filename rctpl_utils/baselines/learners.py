"""TaI-DPT, CoOp, CoCoOp and DualCoOp: contexts learned for the same frozen encoder as RC-TPL's.

Losses and scores are their own; encoder, classes, initial deviation, the order of the data, the
optimizer (AdamW for SGD) and the end of a run (a plateau for fixed epochs, `prompt_learners.learn`)
are the same for all, so that only the objective and what it learns from differ. A class name ends
the prompt without CLIP's full stop, as in RC-TPL's Eq. 2. CoOp, CoCoOp and DualCoOp learn from
labeled films, an advantage that their rows' names tell. Left out for these: class-specific
contexts, which no unseen class could use; augmentation, since features are cached. Grounding (by
cosines of cells, TaI-DPT's in the local branch) and retrieval are our extensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.base import CLASSIFY
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.errors import InputError
from rctpl_utils.prompts.training import TextBatch, batch_losses, embed_classes, initial_context
from rctpl_utils.prompts.zero_shot import branch_scores
from rctpl_utils.scoring import (
    IMAGE_TEMPERATURE,
    TEXT_TEMPERATURE,
    ClassEmbeddings,
    fuse,
    report_scores,
    similarity_maps,
)
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name

CLIP_SCALE = 100.0  # the largest inverse temperature that CLIP allows itself (Radford et al. 2021)
MARGIN = 1.0  # TaI-DPT: m; the scale of 4 is `training.SCORE_SCALE`
REDUCTION = 16  # CoCoOp: d over the bottleneck's width
REACH = 2.0  # CoCoOp: standard deviations from the middle to the outer points of a parabola
LEAST_REACH = 0.02  # for units that no training film moves; few films elsewhere do
REGION_SCALE = 20.0  # DualCoOp: 1 / tau_s
FOCUS_PRESENT, FOCUS_ABSENT, CLIP = 1.0, 2.0, 0.05  # DualCoOp: g+, g-, c
_TINY = 1e-8  # the least probability whose logarithm is taken


class PromptModel(nn.Module, ABC):
    """Learned tensors beside a frozen encoder; the protocol is `baselines.base.ZeroShotModel`.

    Learned prompts leave the embeddings of films and sentences as they are, so that retrieval,
    published for none of the four, goes by class scores: a named extension, the same as RC-TPL's,
    over the five names of CheXpert-5x200. A sentence is a film with one region.
    """

    method: str
    batch_size: int  # reports or films a step
    learning_rate: float  # AdamW's: constant, as a run's end is not known before
    contexts: tuple[str, ...]  # the names of its contexts
    length = 16  # M of each
    pointing = 0  # the context whose cosines with cells are the map
    published = frozenset({CLASSIFY})

    def __init__(
        self,
        encoder: Encoder,
        seed: int,
        concepts: Sequence[str] = TRAINING_CONCEPTS,
        shots: int | None = None,
    ) -> None:
        """Make what learns with `seed`, for the L columns of the labels that `loss` gets.

        `shots`, labeled films a class, are for the name: None where no label of a film was used.
        """
        super().__init__()
        object.__setattr__(self, "encoder", encoder)  # past nn.Module: not a part that learns
        self.concepts, self.shots = tuple(concepts), shots
        self._kept: dict[tuple[str, ...], tuple[Tensor, ...]] = {}
        self.begin(torch.Generator().manual_seed(seed))

    @property
    def name(self) -> str:
        """As the tables print it; what used labels says so."""
        if self.shots is None:
            return self.method
        return f"{self.method}, {self.shots} label{'s' * (self.shots > 1)} a class"

    def begin(self, generator: torch.Generator) -> None:
        """Make the tensors that learn: contexts (M, W) from N(0, 0.02^2), as in all four papers."""
        for name in self.contexts:
            context = initial_context(self.length, self.encoder.context_width, generator)
            setattr(self, name, nn.Parameter(context.to(self.encoder.device)))

    def encode(self, names: Sequence[str]) -> tuple[Tensor, ...]:
        """What scores need of L class names in prompts, here each context's embeddings (L, d)."""
        contexts = {name: getattr(self, name) for name in self.contexts}
        return tuple(embed_classes(self.encoder, contexts, list(names)).values())

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The method's objective on a batch of its examples: a scalar."""

    @abstractmethod
    def scores(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Scores (n, L); differentiable where `loss` uses them."""

    @torch.no_grad()
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Scores (n, L)."""
        return self.scores(films, concepts)

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """The cosine of each cell in the context `pointing`, an extension: (n, h, w)."""
        embedded = self.encoded([concept])[self.pointing]
        return similarity_maps(films.dense_features, embedded)[..., 0]

    def settle(self, data: Any) -> None:
        """Take from the examples what scoring needs besides the learned tensors; mostly nothing."""

    def encoded(self, concepts: Sequence[str]) -> tuple[Tensor, ...]:
        """`encode` of the concepts' prompt names; kept in evaluation mode (see `train`)."""
        key = tuple(concepts)
        if not self.training and key in self._kept:
            return self._kept[key]
        encoded = self.encode([prompt_name(concept) for concept in key])
        if not self.training:
            self._kept[key] = encoded
        return encoded

    def embed_images(self, films: ImageFeatures) -> Tensor:
        """Class scores of films, an extension, as RC-TPL's: (n, 5)."""
        return self.classify(films, COMPETITION)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Class scores of sentences: (m, 5)."""
        encoded = encoded_texts(self.encoder, tuple(texts))
        return self.classify(ImageFeatures(encoded, encoded[:, None, None]), COMPETITION)

    def train(self, mode: bool = True) -> "PromptModel":
        """Switch between learning and evaluation; forget what was encoded."""
        self._kept.clear()
        return super().train(mode)

    def state(self) -> dict[str, Tensor]:
        """The learned tensors, on the CPU, as safetensors takes them."""
        return {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> "PromptModel":
        """Take learned tensors over (`InputError` at other names or shapes), for evaluation."""
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"tensors of another prompt learner ({str(error).splitlines()[1].strip()})",
                "Delete the file that they come from and learn again.",
            ) from error
        return self.eval()


@lru_cache(maxsize=512)  # a thousand sentences in batches, for each of three encoders
def encoded_texts(encoder: Encoder, texts: tuple[str, ...]) -> Tensor:
    """`Encoder.encode_text` of sentences, remembered: all models ask for the same ones."""
    return encoder.encode_text(texts)


def logit_scale(encoder: Encoder) -> float:
    """1 / tau of the encoder's own pre-training; CLIP's limit of 100 where it is not known."""
    learned = getattr(encoder, "logit_scale", None)
    return CLIP_SCALE if learned is None else min(learned.exp().item(), CLIP_SCALE)


class TaIDPT(PromptModel):
    """RC-TPL's direct parent: two contexts from captions alone, no image, no label (CVPR 2023).

    Guo, Dong, Ji, Bai, Guo and Zuo, Texts as Images in Prompt Tuning for Multi-Label Image
    Recognition. A caption stands for an image: h is its global feature, H its token features. With
    G_i and L_i the embeddings of class i in the global and in the local context,

        p_i = <h, G_i>,    P_ij = <H_j, L_i>,    p'_i = sum_j softmax_j(P_ij / tau_s) P_ij
        L = sum over present i and absent j of max(0, m - p_i + p_j)   +   the same with p'

    and at test an image's global feature and dense map take the places of h and H.

    Kept (`trainers/Caption_distill_double.py`, `trainers/utils.py`): M = 16; all tokens of a
    caption, its first and last included and padding masked, projected like the global feature;
    m = 1 on cosines times 4, summed over pairs and averaged over captions; tau_s = 1/50 for tokens
    and 1/40 for image cells; batches of 512; the mean of the two branches at test. Changed: classes
    of a caption are nouns there, the labels of a report's triplets here, as RC-TPL's; a token's
    state is the one that the encoder pools. Against RC-TPL only the local features (tokens in place
    of knowledge-rich descriptions), M and the number of steps differ.
    """

    method = "TaI-DPT"
    batch_size, learning_rate = 512, 1e-2
    contexts = ("whole", "local")
    pointing = 1

    def loss(self, batch: TextBatch) -> Tensor:
        """Both ranking losses; the batch's descriptions are tokens."""
        batch = replace(batch, descriptions=batch.descriptions.float())
        embedded = ClassEmbeddings(*self.encoded(self.concepts))._asdict()
        return sum(batch_losses(batch, embedded, TEXT_TEMPERATURE, MARGIN).values())

    def scores(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """(p + p') / 2: (n, L)."""
        embedded = ClassEmbeddings(*self.encoded(concepts))
        return fuse(*branch_scores(films, embedded, IMAGE_TEMPERATURE))


class CoOp(PromptModel):
    """One context shared by all classes (Zhou, Yang, Loy and Liu, IJCV 2022).

    The prompt is t_i = [V]_1 ... [V]_M [CLASS_i] (Eq. 2), and with f the film's global feature and
    g the text encoder

        p(y = i | x) = exp(cos(g(t_i), f) / tau) / sum_j exp(cos(g(t_j), f) / tau)        (Eq. 3)

    learned by cross-entropy; tau is the encoder's own, fixed. Kept: M = 16 vectors from
    N(0, 0.02^2), the class name at the end, the softmax over names. Changed: films of the chest
    show several findings, so the target is spread evenly over the classes that are present, and an
    unknown class is left out of the softmax; with one present class and none unknown this is the
    paper's loss. It compares classes within a film, no film with another.
    """

    method = "CoOp"
    batch_size, learning_rate = 32, 1e-2
    contexts = ("context",)

    def loss(self, batch: tuple[ImageFeatures, Tensor]) -> Tensor:
        """The cross-entropy of Eq. 3, its target spread over the present classes."""
        films, labels = batch
        scores = logit_scale(self.encoder) * self.scores(films, self.concepts)
        return names_cross_entropy(scores, labels)

    def scores(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Cosines (n, L), the logits of Eq. 3 without 1 / tau."""
        return report_scores(films.global_features, *self.encoded(concepts))


def names_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over names for films that show several classes, averaged over films.

    Logits (n, L), labels (n, L): 1 present, 0 absent, NaN unknown (no part of the softmax). A film
    without a present class has no target and takes no part.
    """
    lowest = torch.finfo(logits.dtype).min
    logarithms = logits.masked_fill(labels.isnan(), lowest).log_softmax(dim=1)
    present = (labels == 1).to(logits.dtype)
    counts = present.sum(dim=1)
    each = -torch.where(labels == 1, logarithms, 0).sum(dim=1) / counts.clamp(min=1)
    return each.sum() / (counts > 0).sum().clamp(min=1)


class CoCoOp(PromptModel):
    """A learned context that each film shifts (Zhou, Yang, Loy and Liu, CVPR 2022).

    A small net h turns a film's global feature f into a shift pi = h(f) of every context vector
    (section 3.2), and Eq. 3 is CoOp's with t_i(x) = [V_1 + pi] ... [V_M + pi] [CLASS_i].

    Kept: M = 4; h = linear, ReLU, linear with a bottleneck of d / 16, in PyTorch's initialization
    (`trainers/cocoop.py`); the softmax over names, its target spread as in `CoOp`. Left out: the
    initial context "a photo of a". Cost: every film and class is a prompt of its own; the authors
    train with one film a step, here with eight, and profiles for two cores leave the method out.

    At test no film goes through the text encoder. The shift is a function of d / 16 numbers, the
    bottleneck's activations, and g(t_i) a smooth one of these: a parabola along each of them
    through three points, the training films' mean and two standard deviations to either side, added
    up and brought back to unit length, replaces it. That takes 1 + 2 d / 16 prompts a class for any
    number of films, and a film's score does not depend on the films beside it.
    """

    method = "CoCoOp"
    batch_size, learning_rate = 8, 3e-3
    contexts, length = ("context",), 4

    def begin(self, generator: torch.Generator) -> None:
        """The context and the net's two layers; no parabolas yet."""
        super().begin(generator)
        encoder = self.encoder
        width = max(encoder.dimension // REDUCTION, 1)
        self.squeeze = _linear(encoder.dimension, width, generator).to(encoder.device)
        self.expand = _linear(width, encoder.context_width, generator).to(encoder.device)
        for buffer in ("middle", "reach"):  # of the activations; see `settle`
            self.register_buffer(buffer, torch.zeros(width, device=encoder.device))

    def activations(self, features: Tensor) -> Tensor:
        """The bottleneck of n global features (n, d): (n, d / 16)."""
        return torch.relu(self.squeeze(features))

    def prompted(self, activations: Tensor, names: Sequence[str]) -> Tensor:
        """g(t_i) exactly, by n x L passes through the text encoder: (n, L, d), differentiable."""
        contexts = self.context + self.expand(activations).unsqueeze(1)  # (n, M, W)
        count = len(names)
        each = contexts.repeat_interleave(count, dim=0)  # (n * L, M, W)
        embedded = self.encoder.encode_prompts(each, list(names) * len(contexts))
        return embedded.unflatten(0, (-1, count))

    def loss(self, batch: tuple[ImageFeatures, Tensor]) -> Tensor:
        """The cross-entropy of Eq. 3, its target spread over the present classes."""
        features, labels = batch[0].global_features, batch[1]
        names = [prompt_name(concept) for concept in self.concepts]
        embedded = self.prompted(self.activations(features), names)
        scores = torch.einsum("nd,nld->nl", features, embedded)
        return names_cross_entropy(logit_scale(self.encoder) * scores, labels)

    @torch.no_grad()
    def settle(self, data: Any) -> None:
        """Place the parabolas where the training films are, by their global features (n, d)."""
        features = torch.from_numpy(np.array(data.features.global_features))
        seen = self.activations(features.to(self.encoder.device))
        self.middle.copy_(seen.mean(dim=0))
        self.reach.copy_((REACH * seen.std(dim=0, correction=0)).clamp(min=LEAST_REACH))

    def encode(self, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The parabolas' middles (L, d), slopes and curvatures, both (d / 16, L, d)."""
        if not self.reach.any():
            raise ValueError("CoCoOp scores films after it has learned")
        steps = self.reach.diag()
        points = torch.cat([self.middle[None], self.middle + steps, self.middle - steps])
        values = self.prompted(points, names)
        middle, upper, lower = values[0], *values[1:].chunk(2)
        return middle, (upper - lower) / 2, (upper + lower) / 2 - middle

    @torch.no_grad()
    def conditioned(self, features: Tensor, concepts: Sequence[str]) -> Tensor:
        """g(t_i(x)) of n films by their global features, from the parabolas: (n, L, d)."""
        middle, slope, curvature = self.encoded(concepts)
        away = (self.activations(features) - self.middle) / self.reach  # (n, d / 16)
        moved = torch.einsum("nh,hld->nld", away, slope)
        bent = torch.einsum("nh,hld->nld", away.square(), curvature)
        return functional.normalize(middle + moved + bent, dim=-1)

    def scores(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Cosines (n, L), the logits of Eq. 3 without 1 / tau."""
        features = films.global_features
        return torch.einsum("nd,nld->nl", features, self.conditioned(features, concepts))

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """The cosine of each cell with the film's own class embedding: (n, h, w)."""
        embedded = self.conditioned(films.global_features, [concept])[:, 0]
        return torch.einsum("nhwd,nd->nhw", films.dense_features, embedded)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer in PyTorch's initialization, +-1 / sqrt(inputs), from a generator."""
    layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


class DualCoOp(PromptModel):
    """A positive and a negative context, compared region by region (Sun et al., NeurIPS 2022).

    With F_r the feature of region r, and G_i+ and G_i- the embeddings of class i in the positive
    and in the negative context, each class looks at its own regions:

        w_ir = softmax_r(cos(F_r, G_i+) / tau_s),      S_i+- = sum_r w_ir cos(F_r, G_i+-)
        p_i  = exp(S_i+ / tau) / (exp(S_i+ / tau) + exp(S_i- / tau))

    The loss is the asymmetric one (Ridnik et al., ICCV 2021), over known labels only:

        L = - sum_present (1 - p)^g+ log p - sum_absent p_c^g- log(1 - p_c),   p_c = max(p - c, 0)

    Kept: two contexts of M = 16, the region weights of the positive context for both,
    1 / tau_s = 20, g+ = 1, g- = 2 (the authors' `models/dualcoop.py`, `utils/build_cfg.py`,
    `opts.py`), focusing factors without gradient; c = 0.05 is the asymmetric loss's own default.
    Changed: 1 / tau is the encoder's own; CLIP's 100 would put p at 1 from the start where cosines
    spread more widely. Left out: CLIP's value projection, since the dense features are in the joint
    space already; the loss's weight, which Adam does not notice. Scores are the log odds of p.
    """

    method = "DualCoOp"
    batch_size, learning_rate = 32, 1e-2
    contexts = ("positive", "negative")

    def loss(self, batch: tuple[ImageFeatures, Tensor]) -> Tensor:
        """The asymmetric loss, summed over a film's known labels, averaged over films."""
        films, labels = batch
        return asymmetric_loss(self.scores(films, self.concepts), labels)

    def scores(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """log p / (1 - p): (n, L)."""
        positive, negative = self.encoded(concepts)  # (L, d)
        regions = films.dense_features.flatten(1, 2)  # (n, R, d)
        agreeing = similarity_maps(regions, positive)  # (n, R, L)
        weights = (REGION_SCALE * agreeing).softmax(dim=1)
        margin = (weights * (agreeing - similarity_maps(regions, negative))).sum(dim=1)  # S+ - S-
        return logit_scale(self.encoder) * margin


def asymmetric_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The asymmetric loss, summed over known labels, averaged over films.

    `logits` are log odds of presence, (n, L); labels as in `names_cross_entropy`.
    """
    present, absent = logits.sigmoid(), (1 - logits.sigmoid() + CLIP).clamp(max=1)  # p, 1 - p_c
    with torch.no_grad():
        focus = torch.where(
            labels == 1, (1 - present) ** FOCUS_PRESENT, (1 - absent) ** FOCUS_ABSENT
        )
    chosen = torch.where(labels == 1, present, absent)
    terms = -focus * chosen.clamp(min=_TINY).log()
    return terms.masked_fill(labels.isnan(), 0).sum() / len(labels)
