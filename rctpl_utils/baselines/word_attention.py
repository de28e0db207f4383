"""GLoRIA's words that look at a film's cells: s, a, c and Z of the formulas in `gloria`."""

import torch
from torch import Tensor
from torch.nn import functional

ATTENTION, AGGREGATION = 4.0, 5.0  # the first two inverse temperatures of their code


def without_special_tokens(seen: Tensor) -> Tensor:
    """True for words only: neither padding nor a text's first ([CLS]) and last ([SEP]): (B, T)."""
    place = torch.arange(seen.shape[1], device=seen.device)
    return seen & (place > 0) & (place < seen.sum(dim=1, keepdim=True) - 1)


def pooled_words(words: Tensor, spoken: Tensor) -> Tensor:
    """Unit vectors (B, d) of the mean of each text's words, (N, d) at `spoken` (B, T)."""
    full = words.new_zeros((*spoken.shape, words.shape[-1]))
    full[spoken] = words
    return functional.normalize(full.sum(dim=1), dim=-1)


def word_cosines(cells: Tensor, words: Tensor) -> Tensor:
    """s of B films' unit cells (B, C, d) and N words (N, d), in one product: (B, N, C)."""
    flat = functional.normalize(words, dim=-1) @ cells.flatten(0, 1).T
    return flat.unflatten(1, cells.shape[:2]).transpose(0, 1)


def attention(cells: Tensor, words: Tensor) -> Tensor:
    """a of B films' unit cells (B, C, d) and N words (N, d): (B, N, C)."""
    return (ATTENTION * word_cosines(cells, words)).softmax(dim=-1)


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
