"""GLoRIA, which contrasts films and texts as wholes and word by word."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.baselines.model import (
    DIMENSION,
    WIDTH,
    Baseline,
    ConvTop,
    Setup,
    TextTop,
    symmetric_loss,
    unit,
)
from rctpl_utils.baselines.training_data import Batch, all_cells
from rctpl_utils.encoders.features import Words

ATTENTION, AGGREGATION, CONTRAST = 4.0, 5.0, 10.0  # the inverse temperatures of their code


class GLoRIA(Baseline):
    """Global and local contrast with word-attended regions (Huang et al., ICCV 2021).

    With unit vectors v_j of a film's M cells and t_i of a text's words, s_ij = <v_j, t_i>,

        a_ij = exp(4 s_ij) / sum_k exp(4 s_ik)                attention of a word over the cells
        c_i = sum_j a_ij v_j                                  the film as the word sees it
        Z(film, text) = log sum_i exp(5 cos(c_i, t_i))        how well the text's words are found
        L = CE(10 Z) + CE(10 Z') + CE(10 <v, t>) + CE(10 <v, t>')

    where v and t are the global unit vectors (t: the mean of the text's words), CE is the
    cross-entropy of the matching pair among a batch's pairs and ' swaps films and texts.
    Temperatures, the log-sum-exp and the equal weights are those of their code
    (gloria/loss/gloria_loss.py).

    Kept: both losses, one random sentence a report, words without special tokens in the space of
    the cells, a linear head each for global and local features, attention as grounding. Changed:
    attention starts from cosines (their softmax over the text's words would make that of a one-word
    name uniform). A zero-shot score is the mean of the global cosine and that of the bare name's
    best word; their code has the latter five times as large and standardizes over the films of a
    set. Retrieval is by global vectors alone. Left out: merging of subwords, BERT's last four
    layers, a lower layer for local features. Z grows with a text's length, in their code as here.
    """

    name = "GLoRIA"
    published = frozenset({CLASSIFY, GROUND, RETRIEVE})

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.image = ConvTop(setup)
        self.global_head = nn.Linear(WIDTH, DIMENSION)
        self.local_head = nn.Linear(WIDTH, DIMENSION)
        self.text = TextTop(setup)

    def loss(self, batch: Batch) -> Tensor:
        """Global and local cross-entropies, both ways."""
        each, spoken = self.word_vectors(batch.words(batch.sentence_rows()))
        image, cells = self.image_vectors(batch.cells, batch.places)
        whole = symmetric_loss(CONTRAST * (image @ pooled_words(each, spoken).T))
        return 2 * (whole + symmetric_loss(CONTRAST * text_scores(cells, each, spoken)))

    def image_vectors(self, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """One linear head on the cells' mean (B, d), another on each cell (B, C, d)."""
        features = self.image(cells, places)
        return unit(self.global_head(features.mean(dim=1))), unit(self.local_head(features))

    def word_vectors(self, words: Words) -> tuple[Tensor, Tensor]:
        """The N words of B texts, text by text: (N, d), and where they stand: (B, T) bool.

        Neither padding nor a text's first ([CLS]) and last token ([SEP]) is a word.
        """
        seen = words.seen
        place = torch.arange(seen.shape[1], device=seen.device)
        spoken = seen & (place > 0) & (place < seen.sum(dim=1, keepdim=True) - 1)
        return self.text(words.states[spoken]), spoken

    def text_vectors(self, words: Words) -> Tensor:
        """The mean of a text's words (B, d)."""
        return pooled_words(*self.word_vectors(words))

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """The mean of the global cosine and of the best word's: (n, L)."""
        image, cells = self.image_vectors(*all_cells(films))
        each, spoken = self.word_vectors(self.read_names(concepts))
        local = by_text(attended_cosines(cells, each), spoken).amax(dim=-1)
        return (image @ self.class_vectors(concepts).T + local) / 2

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The mean attention of the name's words: (n, h, w), summing to one."""
        cells = self.image_vectors(*all_cells(films))[1]
        each, _ = self.word_vectors(self.read_names([concept]))
        attention = (ATTENTION * word_cosines(cells, each)).softmax(dim=-1)
        return attention.mean(dim=1).reshape(films.shape[:3])


def pooled_words(words: Tensor, spoken: Tensor) -> Tensor:
    """Unit vectors (B, d) of the mean of each text's words, (N, d) at `spoken` (B, T)."""
    full = words.new_zeros((*spoken.shape, words.shape[-1]))
    full[spoken] = words
    return unit(full.sum(dim=1))


def word_cosines(cells: Tensor, words: Tensor) -> Tensor:
    """s of B films' unit cells (B, C, d) and N words (N, d), in one product: (B, N, C)."""
    flat = unit(words) @ cells.flatten(0, 1).T
    return flat.unflatten(1, cells.shape[:2]).transpose(0, 1)


def attended_cosines(cells: Tensor, words: Tensor) -> Tensor:
    """cos(c_i, t_i) of B films' unit cells (B, C, d) and N words (N, d): (B, N).

    Without c: <c, t> = sum_j a_j s_j, and |c|^2 = a G a with the cells' inner products G, which is
    cheaper while a film has fewer cells than dimensions. The cosine does not depend on c's length:
    a need not sum to one.
    """
    cosines = word_cosines(cells, words)
    weights = (ATTENTION * cosines).exp()
    square = (weights @ (cells @ cells.transpose(1, 2)) * weights).sum(dim=-1)
    return (weights * cosines).sum(dim=-1) / square.clamp_min(1e-12).sqrt()


def by_text(values: Tensor, spoken: Tensor) -> Tensor:
    """Values of words (B, N) set out by text, minus infinity where there is none: (B, M, T)."""
    full = values.new_full((len(values), *spoken.shape), -torch.inf)
    full[:, spoken] = values
    return full


def text_scores(cells: Tensor, words: Tensor, spoken: Tensor) -> Tensor:
    """Z of B films (B, C, d) and M texts, words (N, d) at `spoken` (M, T): (B, M)."""
    return by_text(AGGREGATION * attended_cosines(cells, words), spoken).logsumexp(dim=-1)
