"""GLoRIA from a file of the released layout: every number again by loops over torchvision's and
transformers' own modules, as the published code goes about it."""

import json

import cv2
import numpy as np
import pytest
import torch
from released import bert_shapes, prefixed, random_state, resnet_shapes, write_base_model
from torch import nn
from torch.nn import functional
from torchvision import transforms
from torchvision.models import resnet50
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.baselines.released.gloria import GLoRIA, clean, read_captions
from rctpl_utils.errors import InputError
from rctpl_utils.text.knowledge import ensemble

LAYERS = 5  # of the small BERT; the last four are summed
TEXTS = ["pleural effusion is seen in left lower lobe", "no mass in both lungs. edema", "edema"]


def gloria_shapes(layers: int, intermediate: int = 256) -> dict[str, tuple[int, ...]]:
    """`PretrainModel.state_dict` of marshuang80/gloria, BERT's pooler and positions included."""
    text, image = "gloria.text_encoder.model.", "gloria.img_encoder."
    return {
        **prefixed(text, bert_shapes(layers, intermediate)),
        f"{text}pooler.dense.weight": (768, 768),
        f"{text}pooler.dense.bias": (768,),
        **prefixed(f"{image}model.", resnet_shapes(head=False)),
        f"{image}global_embedder.weight": (768, 2048),
        f"{image}global_embedder.bias": (768,),
        f"{image}local_embedder.weight": (768, 1024, 1, 1),
    }


@pytest.fixture(scope="module")
def state():
    found = random_state(gloria_shapes(LAYERS), 0)
    # were regions as long as that makes them, a word would attend to one of them alone
    found["gloria.img_encoder.local_embedder.weight"] *= 2e-4
    positions = {"gloria.text_encoder.model.embeddings.position_ids": torch.arange(512)[None]}
    return found | positions


def save(state, folder):
    """As PyTorch Lightning does."""
    content = {
        "epoch": 12,
        "global_step": 30000,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}],
        "state_dict": state,
        "hyper_parameters": {"model": {"vision": {"model_name": "resnet_50"}}},
    }
    torch.save(content, folder / GLoRIA.weights)


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloria")
    write_base_model(folder / "bioclinicalbert", LAYERS)
    save(state, folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return GLoRIA.load(folder)


@pytest.fixture(scope="module")
def films():
    return torch.randn(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))


def stripped(state, prefix):
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
@torch.no_grad()
def image_parts(state, films):
    """Global (n, 768) and local (n, 768, 19, 19) from torchvision's ResNet-50."""
    net = resnet50(weights=None).eval()
    net.fc = nn.Identity()
    net.load_state_dict(stripped(state, "gloria.img_encoder.model."))
    x = nn.Upsample(size=(299, 299), mode="bilinear", align_corners=True)(films.repeat(1, 3, 1, 1))
    stages = []
    net.layer3.register_forward_hook(lambda module, given, output: stages.append(output))
    pooled = net(x)
    image = stripped(state, "gloria.img_encoder.")
    whole = pooled @ image["global_embedder.weight"].T + image["global_embedder.bias"]
    return whole, functional.conv2d(stages[0], image["local_embedder.weight"])


@pytest.fixture(scope="module")
def bert(state, folder):
    config = json.loads((folder / "bioclinicalbert" / "config.json").read_text())
    bert = BertModel(BertConfig.from_dict(config), add_pooling_layer=False).eval()
    own = stripped(state, "gloria.text_encoder.model.")
    bert.load_state_dict({k: v for k, v in own.items() if "pooler" not in k and "_ids" not in k})
    return bert, BertTokenizerFast.from_pretrained(folder / "bioclinicalbert")


@torch.no_grad()
def words_by_hand(bert, text):
    """Words (97, 768) with their names, padded first and summed token by token."""
    net, tokenizer = bert
    given = tokenizer(text, padding="max_length", truncation=True, max_length=97)
    ids, seen = (torch.tensor([given[key]]) for key in ("input_ids", "attention_mask"))
    states = net(ids, seen, output_hidden_states=True).hidden_states
    words, names = [], []
    for place, token in enumerate(tokenizer.convert_ids_to_tokens(given["input_ids"])):
        vector = sum(states[k][0, place] for k in (-1, -2, -3, -4))
        if token.startswith("##"):
            words[-1] = words[-1] + vector
            names[-1] += token[2:]
        else:
            words.append(vector)
            names.append(token)
        if token == "[SEP]":
            break
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


def test_images_are_those_of_torchvision(model, films, image_parts):
    with torch.no_grad():
        found = model.image_vectors(films)
    assert torch.allclose(found.film, image_parts[0], atol=1e-3)
    assert found.regions.shape == (2, 361, 768)
    assert torch.allclose(found.regions, image_parts[1].flatten(2).transpose(1, 2), atol=1e-3)


def test_scores_are_those_of_the_published_steps(model, bert, films, image_parts):
    concepts = ["Edema", "Pleural Effusion"]
    found = model.classify(films, concepts)
    for film, column in ((0, 0), (1, 1)):
        wanted = max(
            score_by_hand(bert, image_parts, film, prompt, prompt)
            for prompt in ensemble(concepts[column])
        )
        assert found[film, column].item() == pytest.approx(wanted, abs=1e-3)
    assert torch.equal(model.classify(films, concepts), found)  # from remembered prompts
    assert torch.allclose(model.classify(films[1:], concepts), found[1:], atol=1e-4)


def test_maps_are_the_mean_attention_of_the_names_words(model, bert, films, image_parts):
    words, names = words_by_hand(bert, "pleural effusion")
    assert names[:4] == ["[CLS]", "pleural", "effusion", "[SEP]"]
    found = model.ground(films, "Pleural Effusion")
    for film in range(2):
        regions = image_parts[1][film].flatten(1).T
        wanted = attention_by_hand(words[:3], regions)[1:].mean(dim=0).reshape(19, 19)
        assert torch.allclose(found[film], wanted, atol=1e-6)
        assert wanted.max() > 1.05 * wanted.min()


def test_retrieval_vectors_by_hand(model, bert, films, image_parts):
    wanted = functional.normalize(image_parts[0], dim=1)
    assert torch.allclose(model.embed_images(films), wanted, atol=1e-4)
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
def test_words_are_sums_of_pieces_and_padding_is_zero(bert):
    net, tokenizer = bert
    captions = read_captions(net, tokenizer, ["masss in left lobe", "edema is seen"])
    assert tokenizer.tokenize("masss") == ["mass", "##s"]
    for caption, text in zip(captions, ["masss in left lobe", "edema is seen"], strict=True):
        words, names = words_by_hand(bert, text)
        assert torch.allclose(caption.words, words, atol=1e-5)
        assert caption.count == len(names) - 2
        assert caption.trained.shape == (len(names) - 1, 768)
        assert caption.compared.shape == (len(text), 768)  # characters, as published
        assert torch.equal(caption.sentence, caption.words.mean(dim=0))


@torch.no_grad()
def test_long_texts_are_cut(bert):
    net, tokenizer = bert
    (caption,) = read_captions(net, tokenizer, ["left lobe " * 100])
    assert caption.count == 95 and caption.compared.shape == (96, 768)
    assert torch.allclose(caption.words, words_by_hand(bert, "left lobe " * 100)[0], atol=1e-5)


# --- preprocessing


@pytest.mark.parametrize("shape", [(300, 411), (517, 300), (256, 256)])
def test_films_are_prepared_as_by_process_img(model, shape):
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ratio = 256 / max(shape)
    height, width = int(shape[0] * ratio), int(shape[1] * ratio)
    small = cv2.resize(levels, (width, height), interpolation=cv2.INTER_AREA)
    rows, columns = 256 - height, 256 - width
    padding = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]
    square = np.pad(small, padding)
    theirs = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.5),
        ]
    )
    found = model.preprocess(levels.astype(np.float32) / 255)
    assert torch.allclose(found, theirs(square), atol=1e-6)


# --- files


def test_names_of_the_full_model_are_those_of_the_released_file(tmp_path):
    write_base_model(tmp_path / "bioclinicalbert", 12, 3072)
    with torch.device("meta"):
        full = GLoRIA(tmp_path)
    layout = full.layout({})
    shapes = gloria_shapes(12, 3072)
    found = {layout.released(k): tuple(v.shape) for k, v in full.state_dict().items()}
    assert found == {k: shape for k, shape in shapes.items() if not layout.is_unused(k)}
    unused = [name for name in shapes if layout.is_unused(name)]
    assert unused == [f"gloria.text_encoder.model.pooler.dense.{k}" for k in ("weight", "bias")]


def test_every_tensor_survives_the_round_trip(model, state):
    layout = model.layout({})
    own = model.state_dict()
    assert all(torch.equal(value, state[layout.released(name)]) for name, value in own.items())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_missing_unexpected_and_wrong_names_are_listed(state, tmp_path):
    write_base_model(tmp_path / "bioclinicalbert", LAYERS)
    image = "gloria.img_encoder."
    changed = {k: v for k, v in state.items() if k != f"{image}global_embedder.bias"}
    changed |= {
        f"{image}model.fc.weight": torch.zeros(5, 2048),
        f"{image}local_embedder.weight": torch.zeros(768, 1024),
        "gloria.text_encoder.model.embeddings.position_ids": torch.arange(1, 513)[None],
    }
    save(changed, tmp_path)
    with pytest.raises(InputError) as caught:
        GLoRIA.load(tmp_path)
    for part in (
        f"missing: {image}global_embedder.bias",
        f"unexpected: {image}model.fc.weight",
        f"{image}local_embedder.weight has shape (768, 1024), not (768, 1024, 1, 1)",
        "position_ids is not what the architecture fixes",
    ):
        assert part in str(caught.value)
