"""GLoRIA from a file of the released layout: every number again by loops over torchvision's and
transformers' own modules, as the published code goes about it."""

import cv2
import numpy as np
import pytest
import torch
from released import CASES, loaded, reference_bert, stripped
from torch import nn
from torch.nn import functional
from torchvision import transforms
from torchvision.models import resnet50

from rctpl_utils.baselines.released.gloria import clean, read_captions
from rctpl_utils.text.knowledge import ensemble

TEXTS = ["pleural effusion is seen in left lower lobe", "no mass in both lungs. edema", "edema"]
FILMS = torch.randn(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def gloria(tmp_path_factory):
    return loaded(CASES["gloria"], tmp_path_factory)


@pytest.fixture(scope="module")
def model(gloria):
    return gloria.model


@pytest.fixture(scope="module")
@torch.no_grad()
def image_parts(gloria):
    """Global (n, 768) and local (n, 768, 19, 19) from torchvision's ResNet-50."""
    net, image = resnet50(weights=None).eval(), stripped("gloria.img_encoder.", gloria.states[0])
    net.fc = nn.Identity()
    net.load_state_dict(stripped("model.", image))
    x = nn.Upsample(size=(299, 299), mode="bilinear", align_corners=True)(FILMS.repeat(1, 3, 1, 1))
    stages = []
    net.layer3.register_forward_hook(lambda module, given, output: stages.append(output))
    whole = net(x) @ image["global_embedder.weight"].T + image["global_embedder.bias"]
    return whole, functional.conv2d(stages[0], image["local_embedder.weight"])


@pytest.fixture(scope="module")
def bert(gloria):
    folder = gloria.folder / "bioclinicalbert"
    return reference_bert(gloria.states[0], "gloria.text_encoder.model.", folder)


@torch.no_grad()
def words_by_hand(bert, text):
    """Words (97, 768) with their names, padded first and summed token by token."""
    net, tokenizer = bert
    given = tokenizer(text, padding="max_length", truncation=True, max_length=97)
    ids, seen = (torch.tensor([given[key]]) for key in ("input_ids", "attention_mask"))
    states = net(ids, seen, output_hidden_states=True).hidden_states
    words, names = [], []
    tokens = tokenizer.convert_ids_to_tokens(given["input_ids"])
    for place, token in enumerate(tokens[: tokens.index("[SEP]") + 1]):
        vector = sum(states[k][0, place] for k in (-1, -2, -3, -4))
        if token.startswith("##"):
            words[-1], names[-1] = words[-1] + vector, names[-1] + token[2:]
        else:
            words, names = [*words, vector], [*names, token]
    zeros = [torch.zeros(768)] * (97 - len(words))
    return torch.stack(words + zeros), names


def attention_by_hand(words, regions):
    """(m, 361) of one film, one word after the other."""
    shares = torch.stack([(words @ region).softmax(dim=0) for region in regions])  # (361, m)
    return torch.stack([(4 * shares[:, k]).softmax(dim=0) for k in range(len(words))])


def score_by_hand(bert, image_parts, film, raw, read):
    """The mean of both similarities of a film and a prompt; `raw` as given, `read` as cleaned."""
    words, _ = words_by_hand(bert, read)
    whole, local = image_parts[0][film], image_parts[1][film].flatten(1).T
    sentence = words.sum(dim=0) / 97
    compared = words[1 : len(raw) + 1]
    best = -np.inf
    for word, attention in zip(compared, attention_by_hand(compared, local), strict=True):
        context = attention @ local
        cosine = (word @ context) / (word.norm() * context.norm()).clamp(min=1e-8)
        best = max(best, float(torch.log(torch.exp(5 * cosine))))
    return (float(functional.cosine_similarity(whole, sentence, dim=0)) + best) / 2


def test_scores_are_those_of_the_published_steps(model, bert, image_parts):
    concepts = ["Edema", "Pleural Effusion"]
    found = model.classify(FILMS, concepts)
    for film, column in ((0, 0), (1, 1)):
        wanted = max(
            score_by_hand(bert, image_parts, film, prompt, prompt)
            for prompt in ensemble(concepts[column])
        )
        assert found[film, column].item() == pytest.approx(wanted, abs=1e-3)
    assert torch.equal(model.classify(FILMS, concepts), found)  # from remembered prompts
    assert torch.allclose(model.classify(FILMS[1:], concepts), found[1:], atol=1e-4)


def test_maps_are_the_mean_attention_of_the_names_words(model, bert, image_parts):
    words, names = words_by_hand(bert, "pleural effusion")
    assert names[:4] == ["[CLS]", "pleural", "effusion", "[SEP]"]
    found = model.ground(FILMS, "Pleural Effusion")
    for film in range(2):
        regions = image_parts[1][film].flatten(1).T
        wanted = attention_by_hand(words[:3], regions)[1:].mean(dim=0).reshape(19, 19)
        assert torch.allclose(found[film], wanted, atol=1e-6)
        assert wanted.max() > 1.05 * wanted.min()


def test_image_and_retrieval_vectors_by_hand(model, bert, image_parts):
    with torch.no_grad():
        whole, regions = model.image_vectors(FILMS)
    assert torch.allclose(whole, image_parts[0], atol=1e-3)
    assert regions.shape == (2, 361, 768)
    assert torch.allclose(regions, image_parts[1].flatten(2).transpose(1, 2), atol=1e-3)
    wanted = functional.normalize(image_parts[0], dim=1)
    assert torch.allclose(model.embed_images(FILMS), wanted, atol=1e-4)
    sums = [words_by_hand(bert, clean(text))[0].sum(dim=0) for text in TEXTS]
    wanted = functional.normalize(torch.stack(sums), dim=1)
    assert torch.allclose(model.embed_texts(TEXTS), wanted, atol=1e-5)


# --- texts


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("Mild EDEMA, left.", "mild edema left"),
        ("No mass\nis seen. Stable. Edema of both lungs", "no mass is seen edema of both lungs"),
        ("1. Left lobe 12. right lung.", "left lobe right lung"),
        ("edema", "edema"),  # the published code would drop it
        ("Café au lait", "caf au lait"),
        ("COVID-19", "covid 19"),
        ("", ""),
    ],
)
def test_texts_are_cleaned_as_in_process_text(given, wanted):
    assert clean(given) == wanted


@torch.no_grad()
def test_words_are_sums_of_pieces_padding_is_zero_and_long_texts_are_cut(bert):
    net, tokenizer = bert
    texts = ["masss in left lobe", "edema is seen", "left lobe " * 100]
    captions = read_captions(net, tokenizer, texts)
    assert tokenizer.tokenize("masss") == ["mass", "##s"]
    for caption, text in zip(captions, texts, strict=True):
        words, names = words_by_hand(bert, text)
        assert torch.allclose(caption.words, words, atol=1e-5)
        assert caption.count == len(names) - 2
        assert caption.trained.shape == (len(names) - 1, 768)
        assert caption.compared.shape == (min(len(text), 96), 768)  # characters, as published
        assert torch.equal(caption.sentence, caption.words.mean(dim=0))
    assert captions[2].count == 95


# --- preprocessing


@pytest.mark.parametrize("shape", [(300, 411), (517, 300), (256, 256)])
def test_films_are_prepared_as_by_process_img(model, shape):
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ratio = 256 / max(shape)
    height, width = int(shape[0] * ratio), int(shape[1] * ratio)
    small = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
    margins = [(side // 2, side - side // 2) for side in (256 - height, 256 - width)]
    crop = transforms.CenterCrop(224)(transforms.ToPILImage()(np.pad(small, margins)))
    wanted = transforms.Normalize(0.5, 0.5)(transforms.ToTensor()(crop))
    found = model.preprocess(levels.astype(np.float32) / 255)
    assert torch.allclose(found, wanted, atol=1e-6)
