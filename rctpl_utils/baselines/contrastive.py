"""ConVIRT, MedCLIP-ViT, BioViL, CheXzero, MedPrompt-ViT: contrast of whole films and whole texts.

Films, reports, frozen lower layers and text model, views and learning rates are the same for all;
left out for all is training of the lower layers and of the text model. What is not `published` is
our extension: maps are cosines of cells, MedPrompt-ViT retrieves by its first stage's model.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from rctpl_utils.baselines import model
from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.model import (
    DIMENSION,
    WIDTH,
    Baseline,
    ConvTop,
    Setup,
    TextTop,
    TransformerBaseline,
    symmetric_loss,
    unit,
)
from rctpl_utils.baselines.training_data import Batch
from rctpl_utils.encoders.features import Words
from rctpl_utils.encoders.pretraining import semantic_matching

TEMPERATURE = 0.1  # tau of ConVIRT
IMAGE_WEIGHT = 0.75  # lambda of ConVIRT
MASKED_WEIGHT = 0.1  # lambda of BioViL
GUESSED = 8  # texts with hidden words a step
NARROW = 64  # dimensions through which hidden words are guessed
SMOOTHING = 1.5 / 15  # the Gaussian's deviation in film widths
BOTTLENECK = 16  # MedPrompt's hidden layer is so many times narrower than its output: 768 -> 48


class ConVIRT(Baseline):
    """Contrastive learning from paired images and text (Zhang et al., MLHC 2022).

    With v_i and u_i the unit vectors of film i and of a random sentence of its report, tau = 0.1
    and lambda = 0.75 (their sections 2.2 and 4.1),

        L = mean_i [lambda l_i(v -> u) + (1 - lambda) l_i(u -> v)],
        l_i(v -> u) = -log exp(<v_i, u_i> / tau) / sum_k exp(<v_i, u_k> / tau).

    Kept: loss and weights, the random sentence, mean pooling, a two-layer head on each side.
    Left out: augmentation (the view's random cells take its place).
    """

    name = "ConVIRT"
    published = frozenset({CLASSIFY, RETRIEVE})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.image_head = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIMENSION)
        )
        self.text = TextTop(setup, WIDTH)
        self.text_head = nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, DIMENSION))

    def loss(self, batch: Batch) -> Tensor:
        """The weighted bidirectional InfoNCE."""
        text = self.text_vectors(batch.words(batch.sentence_rows()))
        image, _ = self.image_vectors(batch.cells, batch.places)
        return symmetric_loss(image @ text.T / TEMPERATURE, IMAGE_WEIGHT)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The head on the cells' mean (B, d) and on each cell (B, T, d)."""
        features = self.image(cells, places)
        return unit(self.image_head(features.mean(dim=1))), unit(self.image_head(features))

    def text_vectors(self, words: Words) -> Tensor:
        """The head on the text's mean word (B, d)."""
        return unit(self.text_head(self.text(words.pooled())))


class MedCLIPViT(TransformerBaseline):
    """Semantic matching of unpaired images and texts (Wang et al., EMNLP 2022).

    With unit vectors v_i of a film and t_j of a text that need not belong together, and label
    vectors l_i and l_j of what the film's report and the text say,

        y_ij = exp <l_i, l_j> / sum_k exp <l_i, l_k>              soft targets
        p_ij = exp(<v_i, t_j> / tau) / sum_k exp(<v_i, t_k> / tau)
        L = -(1/2) mean_i sum_j y_ij log p_ij - (1/2) the same from texts to films

    (medclip/losses.py; their paper writes cosines of labels, whose softmax would be nearly even).

    Kept: tau learned from 0.07 on, texts drawn apart from films, a small vision transformer whose
    mean token is projected without a bias, mean-pooled text. Changed: label vectors say presence
    and place of each concept (`pretraining`); Swin's windows are plain attention. Left out:
    films without reports, the augmented second text.
    """

    name = "MedCLIP-ViT"
    published = frozenset({CLASSIFY, RETRIEVE})

    def loss(self, batch: Batch) -> Tensor:
        """Soft cross-entropies, both ways, with as many texts as films."""
        rows = unpaired_rows(batch)
        seen = batch.tensor(batch.material.report_vectors[batch.reports])
        said = batch.tensor(batch.material.text_vectors[rows])
        image, _ = self.image_vectors(batch.cells, batch.places)
        text = self.text_vectors(batch.words(rows))
        return semantic_matching(self.scale * image @ text.T, seen @ said.T)

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The projected mean of the patches (B, d), and each of them (B, T, d)."""
        patches = self.projection(self.image(cells, places)[:, 1:])  # without the class token
        return unit(patches.mean(1)), unit(patches)


def unpaired_rows(batch: Batch) -> np.ndarray:
    """As many random sentences as films, of reports drawn as films are, but apart from them."""
    material, generator = batch.material, batch.generator
    films = generator.choice(len(material.maps), len(batch.reports), p=material.chances)
    return material.draw_sentences(material.reports[films], generator)


class BioViL(Baseline):
    """Contrast with a text model that keeps reading words (Boecking et al., ECCV 2022).

    With the projected patches v_1 ... v_M of a film, their mean v, and t a projection of a text's
    [CLS] state, all of unit length, and r the words that are hidden from the text model,

        L = L_GA + lambda L_MLM,    L_MLM = -mean_r log p(r | the words that are left)

    with L_GA the symmetric InfoNCE of <v_i, t_k> / tau.

    Kept: contrast of global vectors only, the [CLS] state, a two-layer head on every patch to
    d = 128, masked words through shared text layers, averaged prompts, grounding by each patch's
    cosine, smoothed by a Gaussian of 1.5 of their 15 cells
    (health_multimodal/vlp/inference_engine.py). Ours, as their training code is not public: tau is
    learned as in CLIP, lambda = 0.1, texts are whole reports. Changed: words are hidden from the
    frozen text model once (`Material.masked`) and guessed over the whole vocabulary through
    `NARROW` dimensions (Lan et al. 2020, section 3.1), for `GUESSED` texts a step. Left out:
    CXR-BERT's pre-training and vocabulary, section matching, SimCLR's start of the image model.
    """

    name = "BioViL"
    published = frozenset({CLASSIFY, GROUND, RETRIEVE})
    training_only = ("guess.",)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.image_head = nn.Sequential(
            nn.Linear(WIDTH, DIMENSION), nn.LayerNorm(DIMENSION), nn.ReLU(),
            nn.Linear(DIMENSION, DIMENSION),
        )  # fmt: skip
        self.text = TextTop(setup, DIMENSION)
        self.text_head = nn.Sequential(
            nn.GELU(), nn.LayerNorm(DIMENSION), nn.Linear(DIMENSION, DIMENSION)
        )
        self.guess = nn.Sequential(
            nn.Linear(len(setup.mean), NARROW), nn.Linear(NARROW, setup.reader.vocabulary)
        )

    def loss(self, batch: Batch) -> Tensor:
        """Global alignment and masked words (no loss where none is hidden)."""
        material = batch.material
        text = self.text_vectors(batch.words(material.whole[batch.reports]))
        image, _ = self.image_vectors(batch.cells, batch.places)
        rows = batch.generator.choice(len(material.masked_words), GUESSED)
        words = batch.words(rows, masked=True)
        hidden = batch.tensor(material.masked_words[rows, : words.ids.shape[1]])
        logits = self.guess(self.text.adapt(words.states[hidden]))
        missed = functional.cross_entropy(logits, words.ids[hidden], reduction="sum")
        missed = missed / max(len(logits), 1)
        return symmetric_loss(self.scale * image @ text.T) + MASKED_WEIGHT * missed

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the projected patches (B, d), and each of them (B, T, d)."""
        patches = self.image_head(self.image(cells, places))
        return unit(patches.mean(1)), unit(patches)

    def text_vectors(self, words: Words) -> Tensor:
        """The head on the text's [CLS] state (B, d)."""
        return unit(self.text_head(self.text(words.states[:, 0])))

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The cosine of each patch and the class under a Gaussian: (n, h, w)."""
        maps = super().ground(films, concept)
        deviations = (0, SMOOTHING * maps.shape[1], SMOOTHING * maps.shape[2])
        return torch.from_numpy(gaussian_filter(maps.cpu().numpy(), deviations)).to(maps.device)


class CheXzero(TransformerBaseline):
    """CLIP on chest radiographs and impressions (Tiu et al., Nature BME 2022).

    CLIP's loss (Radford et al. 2021, figure 3), the symmetric InfoNCE of <v_i, t_k> / tau for unit
    vectors v_i of a film and t_i of its report's impression; and, with t+ of "{name}" and t- of
    "no {name}", the zero-shot score of a class without tau (zero_shot.py of their code)

        p = exp <v, t+> / (exp <v, t+> + exp <v, t->).

    Kept: the impression as text (the whole report where it has none), a vision transformer's class
    token, the learned temperature, the pair of prompts. Changed: text is the frozen model's mean
    word rather than the last token's state. Left out: CLIP's weights as a start, SGD, averaging of
    checkpoints.
    """

    name = "CheXzero"
    published = frozenset({CLASSIFY, RETRIEVE})

    def loss(self, batch: Batch) -> Tensor:
        """CLIP's symmetric cross-entropy."""
        text = self.text_vectors(batch.words(batch.material.impressions[batch.reports]))
        image, _ = self.image_vectors(batch.cells, batch.places)
        return symmetric_loss(self.scale * image @ text.T)

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """The probability of each class against its absence: (n, L)."""
        image = self.film_vectors(films)[0]
        pair = [
            image @ self.text_vectors(self.read_names(concepts, phrase)).T
            for phrase in ("{}", "no {}")
        ]
        return torch.stack(pair).softmax(dim=0)[0]


class MedPromptViT(TransformerBaseline):
    """Weakly supervised prompt learning (Zheng et al., 2024, arXiv:2402.03783).

    First a ViT and a text model are pre-trained by contrast of films and texts. Then, both frozen,
    a prompt generator makes a prompt of class i for film x: M context vectors v_m, shifted by a
    net h of the film, and the class's name c_i (CoCoOp's form; Zhou et al., CVPR 2022, Eq. 3):

        t_i(x) = [v_1 + h(x), ..., v_M + h(x), c_i],    p(i | x) = softmax_i(<x, g(t_i(x))> / tau),
        L = symmetric InfoNCE(films, sentences)  and then  L = -log p(y(x) | x),

    with y(x) the class that the pre-trained model gives to the film: no label of a person enters.

    There is no public code: M = 16 and the net's two layers are inferred from the abstract's 86,016
    parameters (16 x 768 + 768 x 48 + 48 x 768), and how y(x) was made is our reading. Kept: both
    losses, the generator's form, unseen classes by their names. Ours: prompts in feature space, as
    none passes through cached word states: the mean word state of the name is shifted by v + h(x),
    the mean over M shifted context vectors, and g is the text model's trained top. Both stages run
    side by side on the same views: the prompt loss moves the generator alone, y(x) come from the
    current model with hand-written phrases.
    """

    name = "MedPrompt-ViT"
    published = frozenset({CLASSIFY})
    head = "image_head"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        width = len(setup.mean)
        layers = nn.Linear(DIMENSION, width // BOTTLENECK), nn.Linear(width // BOTTLENECK, width)
        self.context = nn.Parameter(torch.zeros(width))  # v
        self.net = nn.Sequential(layers[0], nn.ReLU(), layers[1])  # h
        nn.init.zeros_(self.net[-1].weight)  # so that the prompt starts as the class's name
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("names", self.read_names(setup.concepts).pooled())
        phrases = [self.read_names(setup.concepts, each).pooled() for each in model.PHRASES]
        self.register_buffer("phrases", torch.stack(phrases))

    def loss(self, batch: Batch) -> Tensor:
        """Both stages' losses."""
        text = self.text_vectors(batch.words(batch.sentence_rows()))
        image, _ = self.image_vectors(batch.cells, batch.places)
        contrast = symmetric_loss(self.scale * image @ text.T)
        image = image.detach()
        with torch.no_grad():
            written = unit(unit(self.text(self.phrases)).mean(dim=0))
            guess = (image @ written.T).argmax(dim=1)
        logits = self.scale.detach() * self._prompted(image, self.names)
        return contrast + functional.cross_entropy(logits, guess)

    def prompts(self, image: Tensor, names: Tensor) -> Tensor:
        """Each film's class vectors: films (B, d) and names' states (L, W) to (B, L, d).

        The text model is taken as it is: gradients reach context and net only.
        """
        shift = self.text.deviation * (self.context + self.net(image))
        top = {name: each.detach() for name, each in self.text.named_parameters()}
        return unit(functional_call(self.text, top, (names + shift.unsqueeze(1),)))

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
