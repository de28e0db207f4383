"""MedPrompt-ViT: weakly supervised prompt learning (Zheng et al., 2024, arXiv:2402.03783).

Two stages. First a ViT and a text tower are pre-trained by contrast of films and texts. Then, both
frozen, a prompt generator makes a prompt of class i for film x: M context vectors v_m, shifted by a
small net h of the film, and the class's name c_i (CoCoOp's form; Zhou et al., CVPR 2022, Eq. 3):

    t_i(x) = [v_1 + h(x), ..., v_M + h(x), c_i],    p(i | x) = softmax_i(<x, g(t_i(x))> / tau),
    L = symmetric InfoNCE(films, sentences)  and then  L = -log p(y(x) | x),

with y(x) the class that the pre-trained model gives to the film: no label of a person enters.

There is no public code. The abstract's 86,016 parameters are 16 x 768 + 768 x 48 + 48 x 768, from
which M = 16 and the net's two layers are inferred; how y(x) was made is our reading. Kept: both
losses, the generator's form, unseen classes by their names. Ours: texts are here the frozen BERT's
word states, through which no prompt can pass; so context and film shift the mean word state of the
class's name, of which the mean over M shifted context vectors is one vector v + h(x), and g is the
text tower's trained top (prompts in feature space). Both stages run side by side on the same views,
so that the method sees no more films than others: the prompt loss moves the generator alone, its
y(x) come from the current towers with hand-written phrases, and the last steps, at a small learning
rate, see nearly finished towers. Grounding by cosines of cells and retrieval by the first stage's
towers are our extensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from rctpl_utils.baselines import towers
from rctpl_utils.baselines.base import CLASSIFY
from rctpl_utils.baselines.towers import (
    DIMENSION,
    WIDTH,
    PatchTransformer,
    Setup,
    TransformerBaseline,
)
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.word_states import Words
from rctpl_utils.vocabulary import prompt_name

NARROW = 16  # the net's hidden layer is so many times narrower than its output, as 768 -> 48


class MedPromptViT(TransformerBaseline):
    """See the module."""

    name = "MedPrompt-ViT"
    native = frozenset({CLASSIFY})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = PatchTransformer(setup)
        self.image_head = nn.Linear(WIDTH, DIMENSION, bias=False)
        self.text = towers.TextTop(setup)
        width = len(setup.mean)
        self.context = nn.Parameter(torch.zeros(width))  # v
        self.net = nn.Sequential(  # h
            nn.Linear(DIMENSION, width // NARROW), nn.ReLU(), nn.Linear(width // NARROW, width)
        )
        nn.init.zeros_(self.net[-1].weight)  # so that the prompt starts as the class's name
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("names", self._states("{}", setup.concepts))
        phrases = [self._states(phrase, setup.concepts) for phrase in towers.PHRASES]
        self.register_buffer("phrases", torch.stack(phrases))

    def loss(self, batch: Batch) -> Tensor:
        """Both stages' losses."""
        words = batch.material.words.batch(batch.sentence_rows(), batch.device)
        image, _ = self.image_vectors(batch.cells, batch.places)
        contrast = towers.symmetric_loss(self.scale * image @ self.text_vectors(words).T)
        image, scale = image.detach(), self.scale.detach()
        with torch.no_grad():
            written = functional.normalize(self.text(self.phrases), dim=-1).mean(dim=0)
            guess = image @ functional.normalize(written, dim=-1).T
        return contrast + pseudo_label_loss(scale * self._prompted(image, self.names), guess)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The class token (B, d) and the cells (B, T, d)."""
        vectors = functional.normalize(self.image_head(self.image(cells, places)), dim=-1)
        return vectors[:, 0], vectors[:, 1:]

    def text_vectors(self, words: Words) -> Tensor:
        """The mean word (B, d)."""
        return functional.normalize(self.text(words.pooled()), dim=-1)

    def prompts(self, image: Tensor, names: Tensor) -> Tensor:
        """Each film's class vectors: films (B, d) and names' states (L, W) to (B, L, d).

        The towers are taken as they are: gradients reach context and net only.
        """
        shift = self.text.deviation * (self.context + self.net(image))
        tower = {name: each.detach() for name, each in self.text.named_parameters()}
        vectors = functional_call(self.text, tower, (names + shift.unsqueeze(1),))
        return functional.normalize(vectors, dim=-1)

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Cosines of films, as trunk maps (n, h, w, c), and their prompts: (n, L)."""
        image, _ = self.film_vectors(films)
        return self._prompted(image, self._states("{}", concepts))

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The cosine of each cell and the film's prompt: (n, h, w)."""
        image, local = self.film_vectors(films)
        prompt = self.prompts(image, self._states("{}", [concept]))
        return (local @ prompt.transpose(1, 2)).reshape(films.shape[:3])

    def _prompted(self, image: Tensor, names: Tensor) -> Tensor:
        return (self.prompts(image, names) @ image.unsqueeze(2)).squeeze(2)

    def _states(self, phrase: str, concepts: Sequence[str]) -> Tensor:
        return self.read([phrase.format(prompt_name(each)) for each in concepts]).pooled()


def pseudo_label_loss(logits: Tensor, guess: Tensor) -> Tensor:
    """Cross-entropy of logits (B, L) against the class with the highest `guess` (B, L)."""
    return functional.cross_entropy(logits, guess.argmax(dim=1))
