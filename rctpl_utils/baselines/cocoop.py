"""CoCoOp: a learned context that each film shifts, from a few labeled films (not zero-shot).

Zhou, Yang, Loy and Liu, Conditional Prompt Learning for Vision-Language Models, CVPR 2022. A small
net h turns a film's global feature f into a shift pi = h(f) of every context vector (section 3.2):

    t_i(x) = [V_1 + pi] ... [V_M + pi] [CLASS_i]
    p(y = i | x) = exp(cos(f, g(t_i(x))) / tau) / sum_j exp(cos(f, g(t_j(x))) / tau)       (Eq. 3)

**Kept**: M = 4; h = linear, ReLU, linear with a bottleneck of d / 16, in PyTorch's initialization
(the authors' code: `trainers/cocoop.py`); tau of the encoder; the softmax over names, its target
spread over the present classes as in `coop`.

**Cost**: every film and class is a prompt of its own, and the authors train with one film a step.
Here it is eight, which a GPU takes at once; on two cores a plateau would take hours, and profiles
for them leave the method out (`profiles.PeerLearning`).

**At test** no film goes through the text encoder. The shift is a function of d / 16 numbers a, the
bottleneck's activations, and g(t_i) a smooth one of these: a parabola along each of them through
three points, the training films' mean and two standard deviations to either side, added up and
brought back to unit length, replaces it. That takes 1 + 2 d / 16 prompts a class for any number of
films, and a film's score does not depend on the films beside it.

**Left out**: the initial context "a photo of a", which says nothing of a radiograph (ours is
N(0, 0.02^2), as the others'); augmentation; SGD and 10 epochs.

**Fair**: as `coop`. Grounding (the cosine of each cell with the film's own class embedding) is our
extension; in retrieval a sentence's feature conditions its prompts, as a film's does.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rctpl_utils.baselines.coop import names_cross_entropy
from rctpl_utils.baselines.few_shot import FilmBatch, LabeledFilms
from rctpl_utils.baselines.prompt_learning import PromptModel, PromptSettings, new_context
from rctpl_utils.encoders.base import ImageFeatures
from rctpl_utils.vocabulary import prompt_name

CONTEXT_LENGTH = 4  # M
REDUCTION = 16  # d over the bottleneck's width
SETTINGS = PromptSettings(batch_size=8, learning_rate=3e-3)
REACH = 2.0  # standard deviations from the middle to the outer points of a parabola
LEAST_REACH = 0.02  # for units that no training film moves; few films elsewhere do


class CoCoOp(PromptModel):
    """A context and the net that shifts it; scores are cosines with the global feature."""

    method = "CoCoOp"

    def begin(self, generator: torch.Generator) -> None:
        """The context (M, W) and the net's two layers; no parabolas yet."""
        encoder = self.encoder
        width = max(encoder.dimension // REDUCTION, 1)
        self.context = new_context(CONTEXT_LENGTH, encoder, generator)
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
        return self.encoder.encode_prompts(each, list(names) * len(contexts)).unflatten(
            0, (-1, count)
        )

    def loss(self, batch: FilmBatch) -> Tensor:
        """The cross-entropy of Eq. 3, its target spread over the present classes."""
        features = batch.features.global_features
        names = [prompt_name(concept) for concept in self.concepts]
        embedded = self.prompted(self.activations(features), names)
        scores = torch.einsum("nd,nld->nl", features, embedded)
        return names_cross_entropy(self.sharpness * scores, batch.labels)

    @torch.no_grad()
    def settle(self, data: LabeledFilms) -> None:
        """Place the parabolas where the training films are, by their global features (n, d)."""
        features = torch.from_numpy(np.array(data.features.global_features))
        seen = self.activations(features.to(self.encoder.device))
        self.middle.copy_(seen.mean(dim=0))
        self.reach.copy_((REACH * seen.std(dim=0, correction=0)).clamp(min=LEAST_REACH))

    def encode(self, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """The parabolas' values in the middle (L, d), slopes and curvatures, both (d / 16, L, d).

        Raises:
            ValueError: neither learned nor loaded.
        """
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

    @torch.no_grad()
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Cosines (n, L), the logits of Eq. 3 without 1 / tau."""
        features = films.global_features
        return torch.einsum("nd,nld->nl", features, self.conditioned(features, concepts))

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """The cosine of each cell with the film's own class embedding, our extension: (n, h, w)."""
        embedded = self.conditioned(films.global_features, [concept])[:, 0]
        return torch.einsum("nhwd,nd->nhw", films.dense_features, embedded)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer in PyTorch's initialization, +-1 / sqrt(inputs), from a generator."""
    layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer
