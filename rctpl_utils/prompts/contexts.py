"""Context vectors before their first step (paper 4.1.5): noise, or real words."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rctpl_utils.encoders.base import Encoder

INITIAL_DEVIATION = 0.02  # paper 4.1.5: "Gaussian noise sampled from N(0.02)"
# M = 12 tokens to start from; other lengths take the first M, or begin again.
WORDS = "the radiograph of the chest shows a finding that looks like"


def initial_context(length: int, width: int, generator: torch.Generator) -> Tensor:
    """M vectors of width W from N(0, 0.02^2)."""
    return INITIAL_DEVIATION * torch.randn(length, width, generator=generator)


def word_context(encoder: Encoder, length: int) -> Tensor:
    """The word embeddings of `WORDS`, cut or repeated to M: (M, W)."""
    tokens = encoder.text.tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    rows = [tokens[k % len(tokens)] for k in range(length)]
    return encoder.text.bert.get_input_embeddings().weight[rows].detach().clone()


def name_context(encoder: Encoder, names: Sequence[str], length: int) -> Tensor:
    """The mean word embedding of all class names, M times: (M, W)."""
    tokens = encoder.text.tokenizer(list(names), add_special_tokens=False)["input_ids"]
    words = encoder.text.bert.get_input_embeddings().weight.detach()
    mean = torch.stack([words[each].mean(dim=0) for each in tokens]).mean(dim=0)
    return mean.repeat(length, 1)
