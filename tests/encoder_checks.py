"""What holds for every encoder, for the tests of each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from released import bert_shapes, stripped
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.errors import InputError

NO_FILMS = (
    np.full((4, 4), 255.0), np.zeros((4, 4, 3)), -np.ones((4, 4)), np.full((4, 4), np.nan),
    np.zeros((0, 4)),
)  # fmt: skip


def reference_bert(
    state: dict[str, torch.Tensor], prefix: str, folder: Path
) -> tuple[BertModel, BertTokenizerFast]:
    """transformers' own BERT with the weights of a released file, and its tokenizer."""
    config = BertConfig.from_dict(json.loads((folder / "config.json").read_text()))
    bert, own = BertModel(config, add_pooling_layer=False).eval(), stripped(prefix, state)
    bert.load_state_dict({name: own[name] for name in bert_shapes(config.num_hidden_layers)})
    return bert, BertTokenizerFast.from_pretrained(folder)


def assert_prompts_act_as_their_words(encoder: Encoder) -> torch.Tensor:
    """Vectors that equal words give what these words give; the gradient reaches them alone."""
    ids = encoder.text.tokenizer("a photo of", add_special_tokens=False)["input_ids"]
    context = encoder.text.bert.get_input_embeddings().weight[ids].clone().requires_grad_()
    names = ["mass", "pleural effusion", "edema"]
    prompted = encoder.encode_prompts(context, names)
    spelled = encoder.encode_text([f"a photo of {name}" for name in names])
    assert torch.allclose(prompted, spelled, atol=1e-5)
    prompted[:, 0].sum().backward()
    assert context.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    return context.detach()


def assert_other_than_films_are_refused(encoder: Encoder) -> None:
    for pixels in NO_FILMS:
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            encoder.preprocess(pixels)
