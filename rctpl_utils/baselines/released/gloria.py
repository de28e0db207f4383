"""GLoRIA (Huang et al., ICCV 2021) from its released checkpoint.

A ResNet-50 gives a global vector and 19 x 19 regions (its third stage), BERT a vector for the text
and one for each word. Inference of marshuang80/gloria (`gloria/gloria.py`): the score of a film
and a prompt is the mean of the cosine of the global vectors and of the local similarity
(`best_word`); a class has several prompts, of which the best counts.

The authors then standardize each class over the films at hand. That needs them all together and
leaves the order of the films, hence AUC, as it is; it is not done here. Their prompts are five
drawn at random for each of five diseases; here a class is asked by the package's ensemble.

Maps are the attention of the words of the concept's name, which the authors show but do not score.
Retrieval is by global vectors alone: the authors add standardized local similarities, which are
no vectors' cosine.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel, BertTokenizerFast

from rctpl_utils.baselines.base import CLASSIFY, GROUND, RETRIEVE
from rctpl_utils.encoders.checkpoint import FromFiles, Layout, released_names
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.encoders.published import FOLDER, eight_bits, resnet50_trunk
from rctpl_utils.encoders.text_tower import position_ids, untrained_bert
from rctpl_utils.text.knowledge import ensemble
from rctpl_utils.vocabulary import prompt_name

SQUARE, CROP = 256, 224  # pixels: `imsize`, `random_crop` (at its center when testing)
SEEN = 299  # pixels, to which the network itself enlarges what it is given
TOKENS = 97  # of a text, marks and padding included: `word_num`
LAST = 4  # hidden states that are summed: `last_n_layers`, `aggregate_method`
SHARP_REGIONS = 4.0  # `temp1`
SHARP_WORDS = 5.0  # `temp2`


class Caption(NamedTuple):
    """A text in GLoRIA's words.

    `words` (97, W) are [CLS], the c = `count` words, [SEP], then zeros; a word is the sum of its
    pieces.
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

    A region first divides its attention among the words (m, W), then each word's shares are
    sharpened and divided among the regions (n, T, W), not normalized (their Eq. 5 and
    `attention_fn`).
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


class GLoRIA(FromFiles):
    """See the module; the protocol is `ReleasedModel`."""

    name = "GLoRIA"
    published = frozenset({CLASSIFY, GROUND, RETRIEVE})
    frame = Frame("square", CROP / SQUARE)
    weights = released_names("chexpert_resnet50.ckpt")

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds `bioclinicalbert/`, its configuration."""
        super().__init__()
        self.bert, self._tokenizer = untrained_bert(Path(folder) / FOLDER)
        width = self.bert.config.hidden_size  # 768, the joint space's too
        self.trunk = resnet50_trunk()
        self.global_embedder = nn.Linear(2048, width)
        self.local_embedder = nn.Conv2d(1024, width, 1, bias=False)
        self._prompts: dict[str, list[Caption]] = {}

    def layout(self, state: Mapping[str, Tensor]) -> Layout:
        """How `PretrainModel.state_dict` names what the model holds."""
        text, image = r"gloria\.text_encoder\.model\.", "gloria.img_encoder."
        return Layout(  # the last part: both embedders
            {"bert.": "gloria.text_encoder.model.", "trunk.": f"{image}model.", "": image},
            unused=(rf"{text}pooler\.dense\.(weight|bias)",),
            constants={rf"{text}embeddings\.position_ids": position_ids(self.bert)},
        )

    def preprocess(self, pixels: np.ndarray) -> Tensor:
        """The longer side to 256 (area), black to a square, its center of 224; to [-1, 1].

        (H, W) in [0, 1], else an `InputError`, to (1, 224, 224) float32.
        As `process_img` of `gloria_model.py` with `norm: half`.
        """
        gray = eight_bits(pixels)
        ratio = SQUARE / max(gray.shape)
        height, width = (max(1, int(side * ratio)) for side in gray.shape)
        small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
        square = np.zeros((SQUARE, SQUARE), np.uint8)
        top, left = (SQUARE - height) // 2, (SQUARE - width) // 2
        square[top : top + height, left : left + width] = small
        edge = (SQUARE - CROP) // 2
        seen = torch.from_numpy(square[edge : edge + CROP, edge : edge + CROP])
        return (seen[None].float() / 255 - 0.5) / 0.5

    def image_vectors(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Films (n, 1, 224, 224) to global (n, 768) and regions (n, 361, 768), not normalized."""
        images = films.to(self.device).expand(-1, 3, -1, -1)
        x = functional.interpolate(images, size=(SEEN, SEEN), mode="bilinear", align_corners=True)
        for name, stage in self.trunk.named_children():
            x = stage(x)
            if name == "layer3":
                regions = self.local_embedder(x).flatten(2).transpose(1, 2)
        return self.global_embedder(x.mean(dim=(2, 3))), regions

    @torch.no_grad()
    def classify(self, films: Tensor, concepts: Sequence[str]) -> Tensor:
        """Similarity of each film and each concept's best prompt: (n, L)."""
        whole, regions = self.image_vectors(films)
        columns = []
        for concept in concepts:
            if concept not in self._prompts:
                self._prompts[concept] = self._read(ensemble(concept))
            scores = []
            for caption in self._prompts[concept]:
                cosine = functional.cosine_similarity(whole, caption.sentence[None], dim=-1)
                scores.append((cosine + best_word(caption.compared, regions)) / 2)
            columns.append(torch.stack(scores).amax(dim=0))
        return torch.stack(columns, dim=1)

    @torch.no_grad()
    def ground(self, films: Tensor, concept: str) -> Tensor:
        """The mean attention of the words of the concept's name: (n, 19, 19)."""
        (caption,) = self._read([prompt_name(concept)])
        maps = look(caption.trained, self.image_vectors(films)[1])[:, 1:]  # without [CLS]
        side = round(maps.shape[2] ** 0.5)
        return maps.mean(dim=1).unflatten(1, (side, side))

    @torch.no_grad()
    def embed_images(self, films: Tensor) -> Tensor:
        """Global vectors: (n, 768), unit length."""
        return functional.normalize(self.image_vectors(films)[0], dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Global vectors: (m, 768), unit length."""
        sentences = torch.stack([caption.sentence for caption in self._read(texts)])
        return functional.normalize(sentences, dim=-1)

    def _read(self, texts: Sequence[str]) -> list[Caption]:
        return read_captions(self.bert, self._tokenizer, texts)
