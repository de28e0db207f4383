"""GLoRIA's words: what a text becomes, and how a word looks at a film (Huang et al. 2021, 3.2).

Facts are those of marshuang80/gloria: `models/text_model.py`, `models/gloria_model.py` and
`loss/gloria_loss.py`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertModel, BertTokenizerFast

TOKENS = 97  # of a text, marks and padding included: `word_num`
LAST = 4  # hidden states that are summed: `last_n_layers`, `aggregate_method`
SHARP_REGIONS = 4.0  # `temp1`
SHARP_WORDS = 5.0  # `temp2`


class Caption(NamedTuple):
    """A text in GLoRIA's words.

    Attributes:
        words: (97, W): [CLS], the c words, [SEP], then zeros; a word is the sum of its pieces.
        count: c.
        text: as it was given.
    """

    words: Tensor
    count: int
    text: str

    @property
    def sentence(self) -> Tensor:
        """The mean over all 97 places, so that zeros take part: (W,)."""
        return self.words.mean(dim=0)

    @property
    def compared(self) -> Tensor:
        """The words that the published zero-shot inference compares: (m, W).

        It drops [CLS], and then takes as many places as the text has characters, "[" aside, where
        words were meant (`process_text`): [SEP] and zeros are among them.
        """
        characters = len(self.text) - self.text.count("[")
        return self.words[1 : 1 + min(characters, TOKENS - 1)]

    @property
    def trained(self) -> Tensor:
        """[CLS] and the words, which the loss compares and attention maps are made of."""
        return self.words[: 1 + self.count]


def clean(text: str) -> str:
    """A text as GLoRIA reads it: lower case, words only, sentences of one word left out.

    Where nothing would remain, as of "edema", such sentences stay; the published code would encode
    an empty text.
    """
    sentences = [
        [word.encode("ascii", "ignore").decode() for word in re.findall(r"\w+", part.lower())]
        for numbered in re.split(r"[0-9]+\.", text.replace("\n", " "))
        for part in numbered.split(".")
    ]
    kept = [words for words in sentences if len(words) > 1] or sentences
    return " ".join(word for words in kept for word in words if word)


def read_captions(
    bert: BertModel, tokenizer: BertTokenizerFast, texts: Sequence[str]
) -> list[Caption]:
    """Texts to captions; what goes beyond 97 tokens is cut."""
    tokens = tokenizer(
        [clean(text) for text in texts],
        padding=True, truncation=True, max_length=TOKENS, return_tensors="pt",
    ).to(bert.device)  # fmt: skip
    ids, seen = tokens["input_ids"], tokens["attention_mask"]
    states = bert(input_ids=ids, attention_mask=seen, output_hidden_states=True).hidden_states
    summed = torch.stack(states[-LAST:]).sum(dim=0)  # (m, T, W)
    pieces = tokenizer.convert_ids_to_tokens(ids.flatten().tolist())
    starts = torch.tensor([not each.startswith("##") for each in pieces], device=ids.device)
    places = starts.unflatten(0, ids.shape).long().cumsum(dim=1) - 1  # each piece's word
    captions = []
    for row, text in enumerate(texts):
        length = int(seen[row].sum())
        words = summed.new_zeros(TOKENS, summed.shape[2])
        words.index_add_(0, places[row, :length], summed[row, :length])
        captions.append(Caption(words, int(places[row, length - 1]) - 1, text))
    return captions


def look(words: Tensor, regions: Tensor) -> Tensor:
    """How much each word attends to each region: (n, m, T), over the regions summing to one.

    A region first divides its attention among the words, then each word's shares are sharpened and
    divided among the regions (their Eq. 5 and `attention_fn`).

    Args:
        words: (m, W).
        regions: (n, T, W), not normalized.
    """
    among_words = (regions @ words.T).softmax(dim=-1)  # (n, T, m)
    return (SHARP_REGIONS * among_words.transpose(1, 2)).softmax(dim=-1)


def best_word(words: Tensor, regions: Tensor) -> Tensor:
    """The local similarity of zero-shot inference: (n,).

    Five times the cosine of the word that agrees best with what it attends to
    (`get_local_similarities`); a zero among the words counts as cosine 0.
    """
    attended = look(words, regions) @ regions  # (n, m, W)
    cosines = functional.cosine_similarity(words.expand_as(attended), attended, dim=-1)
    return SHARP_WORDS * cosines.amax(dim=1)
