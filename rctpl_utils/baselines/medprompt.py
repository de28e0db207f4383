"""MedPrompt-ViT: weakly supervised prompt learning (Zheng et al., 2024, arXiv:2402.03783).

Two stages. First a ViT and a text model are pre-trained by contrast of films and texts. Then, both
frozen, a prompt generator makes a prompt of class i for film x: M context vectors v_m, shifted by a
small net h of the film, and the class's name c_i (CoCoOp's form; Zhou et al., CVPR 2022, Eq. 3):

    t_i(x) = [v_1 + h(x), ..., v_M + h(x), c_i],    p(i | x) = softmax_i(<x, g(t_i(x))> / tau),
    L = symmetric InfoNCE(films, sentences)  and then  L = -log p(y(x) | x),

with y(x) the class that the pre-trained model gives to the film: no label of a person enters.

There is no public code. The abstract's 86,016 parameters are 16 x 768 + 768 x 48 + 48 x 768, from
which M = 16 and the net's two layers are inferred; how y(x) was made is our reading. Kept: both
losses, the generator's form, unseen classes by their names. Ours: no prompt passes through cached
word states, so context and film shift the mean word state of the class's name, of which the mean
over M shifted context vectors is one vector v + h(x), and g is the text model's trained top
(prompts in feature space). Both stages run side by side on the same views: the prompt loss moves
the generator alone, its y(x) come from the current model with hand-written phrases. Grounding by
cosines of cells and retrieval by the first stage's model are our extensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from rctpl_utils.baselines import model
from rctpl_utils.baselines.base import CLASSIFY
from rctpl_utils.baselines.model import DIMENSION, Setup, TransformerBaseline, symmetric_loss
from rctpl_utils.baselines.training_data import Batch

NARROW = 16  # the net's hidden layer is so many times narrower than its output, as 768 -> 48


class MedPromptViT(TransformerBaseline):
    """See the module."""

    name = "MedPrompt-ViT"
    published = frozenset({CLASSIFY})
    head = "image_head"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        width = len(setup.mean)
        self.context = nn.Parameter(torch.zeros(width))  # v
        self.net = nn.Sequential(  # h
            nn.Linear(DIMENSION, width // NARROW), nn.ReLU(), nn.Linear(width // NARROW, width)
        )
        nn.init.zeros_(self.net[-1].weight)  # so that the prompt starts as the class's name
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("names", self.read_names(setup.concepts).pooled())
        phrases = [self.read_names(setup.concepts, each).pooled() for each in model.PHRASES]
        self.register_buffer("phrases", torch.stack(phrases))

    def loss(self, batch: Batch) -> Tensor:
        """Both stages' losses."""
        words = batch.material.words.batch(batch.sentence_rows(), batch.device)
        image, _ = self.image_vectors(batch.cells, batch.places)
        contrast = symmetric_loss(self.scale * image @ self.text_vectors(words).T)
        image, scale = image.detach(), self.scale.detach()
        with torch.no_grad():
            written = functional.normalize(self.text(self.phrases), dim=-1).mean(dim=0)
            guess = image @ functional.normalize(written, dim=-1).T
        return contrast + pseudo_label_loss(scale * self._prompted(image, self.names), guess)

    def prompts(self, image: Tensor, names: Tensor) -> Tensor:
        """Each film's class vectors: films (B, d) and names' states (L, W) to (B, L, d).

        The text model is taken as it is: gradients reach context and net only.
        """
        shift = self.text.deviation * (self.context + self.net(image))
        top = {name: each.detach() for name, each in self.text.named_parameters()}
        vectors = functional_call(self.text, top, (names + shift.unsqueeze(1),))
        return functional.normalize(vectors, dim=-1)

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Cosines of films, as maps (n, h, w, c), and their prompts: (n, L)."""
        return self._prompted(self.film_vectors(films)[0], self.read_names(concepts).pooled())

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The cosine of each cell and the film's prompt: (n, h, w)."""
        image, local = self.film_vectors(films)
        prompt = self.prompts(image, self.read_names([concept]).pooled())
        return (local @ prompt.transpose(1, 2)).reshape(films.shape[:3])

    def _prompted(self, image: Tensor, names: Tensor) -> Tensor:
        return (self.prompts(image, names) @ image.unsqueeze(2)).squeeze(2)


def pseudo_label_loss(logits: Tensor, guess: Tensor) -> Tensor:
    """Cross-entropy of logits (B, L) against the class with the highest `guess` (B, L)."""
    return functional.cross_entropy(logits, guess.argmax(dim=1))
