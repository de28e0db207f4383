"""MedKLIP and MeDSLIP from files of the released layouts: the same numbers as torch's and
torchvision's own modules, texts as the authors' tokenizer builds them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from released import CASES, STAGES, loaded, reference_bert, stripped, trained, write_entities
from released import ENTITY_TEXTS as SENTENCES
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms
from torchvision.models import resnet50
from transformers import BertTokenizerFast

from rctpl_utils.baselines.released.medklip import (
    CONCEPT_ENTITIES,
    ENTITIES,
    TEXTS,
    EntityTexts,
    MeDSLIP,
    pretrained_bert,
    read_entity_texts,
)
from rctpl_utils.errors import InputError
from rctpl_utils.text.knowledge import describe
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CONCEPTS


def torchvision_cells(state: dict[str, Tensor], films: Tensor) -> Tensor:
    """The third stage of torchvision's own ResNet-50 with a file's weights: (n, 196, 1024)."""
    model, back = resnet50(weights=None).eval(), {place: stage for stage, place in STAGES.items()}
    split = ((*k.split(".", 1), v) for k, v in stripped("res_features.", state).items())
    own = {f"{back[int(place)]}.{rest}": value for place, rest, value in split}
    outcome = model.load_state_dict(own, strict=False)
    assert not outcome.unexpected_keys
    assert all(name.startswith(("layer4.", "fc.")) for name in outcome.missing_keys)
    x = model.maxpool(model.relu(model.bn1(model.conv1(films))))
    return model.layer3(model.layer2(model.layer1(x))).flatten(2).transpose(1, 2)


def torch_decoder(state: dict[str, Tensor], name: str) -> nn.TransformerDecoder:
    """torch's own decoder with a file's weights."""
    layer = nn.TransformerDecoderLayer(256, 4, 1024, 0.0, "relu", batch_first=True, norm_first=True)
    model = nn.TransformerDecoder(layer, 4, nn.LayerNorm(256)).eval()
    model.load_state_dict(stripped(f"{name}.", state))
    return model


def attention_by_hand(
    decoder: nn.TransformerDecoder, queries: Tensor, cells: Tensor, blocked: Tensor | None = None
) -> Tensor:
    """The heads' and layers' mean attention, from the projections themselves: (n, Q, T)."""
    means = []
    for layer in decoder.layers:
        x = layer.norm1(queries)
        queries = queries + layer.self_attn(x, x, x, attn_mask=blocked)[0]
        asked = layer.norm2(queries)
        weight, bias = layer.multihead_attn.in_proj_weight, layer.multihead_attn.in_proj_bias
        q = (asked @ weight[:256].T + bias[:256]).unflatten(-1, (4, 64))
        k = (cells @ weight[256:512].T + bias[256:512]).unflatten(-1, (4, 64))
        means.append(torch.einsum("nqhd,nthd->nhqt", q, k).div(8).softmax(dim=-1).mean(dim=1))
        queries = queries + layer.multihead_attn(asked, cells, cells)[0]
        x = layer.norm3(queries)
        queries = queries + layer.linear2(layer.linear1(x).relu())
    return torch.stack(means).mean(dim=0)


# the rows that `Sample_zero-shot_Classification_CXR14/test.py` reads, by hand from its list
ROWS_CXR14 = {
    "Atelectasis": 12, "Cardiomegaly": 24, "Pleural Effusion": 8, "Infiltration": 56, "Mass": 54,
    "Nodule": 38, "Pneumonia": 20, "Pneumothorax": 10, "Consolidation": 14, "Edema": 11,
    "Emphysema": 52, "Fibrosis": 73, "Pleural Thickening": 43, "Hernia": 59,
}  # fmt: skip


@pytest.fixture(scope="module")
def medklip(tmp_path_factory):
    return loaded(CASES["medklip"], tmp_path_factory)


@pytest.fixture(scope="module")
def model(medklip):
    return medklip.model


@pytest.fixture(scope="module")
def films():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def bert_vectors(folder, texts):
    """[CLS] of transformers' BERT over `[CLS] text`, one text at a time and thus unpadded."""
    base = folder / "bioclinicalbert"
    weights = torch.load(base / "pytorch_model.bin", weights_only=True)
    bert, tokenizer = reference_bert(weights, "bert.", base)
    rows = []
    for text in texts:
        ids = [tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:64]
        rows.append(bert(torch.tensor([ids])).last_hidden_state[0, 0])
    return torch.stack(rows)


@torch.no_grad()
def by_hand(state, vectors, films, stream="", blocked=None):
    """Probabilities (n, Q) and attention (n, Q, 196) from torch's and torchvision's modules."""
    cells = torchvision_cells(state, films)
    if stream:
        cells = linear(state, "mask_generator", cells) * cells
    cells = linear(state, f"res_l2{stream}", linear(state, f"res_l1{stream}", cells).relu())
    enter = "pathology_embedding_layer" if stream else "disease_embedding_layer"
    queries = linear(state, enter, vectors).expand(len(films), -1, -1)
    decoder = torch_decoder(state, f"decoder{stream}")
    logits = linear(state, f"classifier{stream}", decoder(queries, cells, tgt_mask=blocked))
    return logits.softmax(dim=-1)[..., 1], attention_by_hand(decoder, queries, cells, blocked)


@pytest.fixture(scope="module")
def answers(medklip, films):
    return by_hand(medklip.states[0], bert_vectors(medklip.folder, SENTENCES), films)


def test_scores_are_those_of_torchs_and_torchvisions_modules(model, films, answers):
    found = model.classify(films, list(ROWS_CXR14)).sigmoid()
    wanted = answers[0][:, list(ROWS_CXR14.values())]
    assert torch.allclose(found, wanted, atol=1e-4)
    assert wanted.std(dim=0).min() > 1e-4  # films differ, so that agreement means something


def test_maps_are_the_attention_by_hand(model, films, answers):
    for concept in ("Pneumonia", "Fibrosis"):
        found = model.ground(films, concept)
        wanted = answers[1][:, ROWS_CXR14[concept]].reshape(-1, 14, 14)
        assert torch.allclose(found, wanted, atol=1e-5)
        assert torch.allclose(found.sum(dim=(1, 2)), torch.ones(2), atol=1e-5)
    assert not torch.allclose(model.ground(films, "Pneumonia"), model.ground(films, "Fibrosis"))


def test_an_unseen_concept_joins_the_75_and_neither_it_nor_the_batch_changes_another(
    model, medklip, films, answers
):
    vectors = bert_vectors(medklip.folder, [*SENTENCES, describe("COVID-19")])
    blocked = torch.zeros(76, 76, dtype=torch.bool)
    blocked[:75, 75] = True  # the 75 do not see the 76th
    scores, attention = by_hand(medklip.states[0], vectors, films, blocked=blocked)
    assert torch.allclose(scores[:, :75], answers[0], atol=1e-4)
    names = ["COVID-19", "Pneumonia", "Pleural Other"]
    logits = model.classify(films, names)
    assert torch.allclose(logits[:, 0].sigmoid(), scores[:, 75], atol=1e-4)
    wanted = answers[0][:, ROWS_CXR14["Pneumonia"]]
    assert torch.allclose(logits[:, 1].sigmoid(), wanted, atol=1e-4)
    alone = model.classify(films, names[2:])
    assert torch.allclose(logits[:, 2:].sigmoid(), alone.sigmoid(), atol=1e-4)
    maps = model.ground(films, "COVID-19")
    assert torch.allclose(maps, attention[:, 75].reshape(-1, 14, 14), atol=1e-5)
    apart = torch.cat([model.classify(film[None], names[:2]) for film in films])
    assert torch.allclose(logits[:, :2], apart, atol=1e-5)


def test_every_concept_is_asked_by_an_entity_or_a_description(model, films):
    assert {c: ENTITIES.index(CONCEPT_ENTITIES[c]) for c in CHESTXRAY14_CONCEPTS} == ROWS_CXR14
    assert set(CONCEPTS) - set(CONCEPT_ENTITIES) == {"Pleural Other", "COVID-19"}
    scores = model.classify(films[:1], [*CONCEPTS, "No Finding"])
    assert scores.shape == (1, 22) and scores.isfinite().all()


def test_retrieval_vectors_by_hand(model, medklip, films, answers):
    odds = answers[0].logit()
    wanted = functional.normalize(odds - odds.mean(dim=1, keepdim=True), dim=1)
    assert torch.allclose(model.embed_images(films), wanted, atol=1e-3)
    entities, text = bert_vectors(medklip.folder, SENTENCES), ["mass in the left lower lobe"]
    middle, sentence = entities.mean(dim=0), bert_vectors(medklip.folder, text)[0]
    cosines = functional.cosine_similarity(entities - middle, (sentence - middle)[None])
    wanted = functional.normalize(cosines - cosines.mean(), dim=0)
    assert torch.allclose(model.embed_texts(text)[0], wanted, atol=1e-4)


# --- texts


def test_texts_have_no_end_mark_and_at_most_64_tokens(medklip):
    texts, given = EntityTexts(medklip.folder), ["edema " * 100, "mass"]
    found = texts.encode(given)
    assert torch.allclose(found, bert_vectors(medklip.folder, given), atol=1e-5)
    bert, _ = pretrained_bert(base := medklip.folder / "bioclinicalbert")
    tokens = BertTokenizerFast.from_pretrained(base)("mass", return_tensors="pt")
    usual = bert(**tokens).last_hidden_state[0, 0]
    assert (found[1] - usual).abs().max() > 1e-3  # [SEP] would matter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda texts: {}, "got 0"),
        (lambda texts: dict(list(texts.items())[:-1]), "got 74"),
        (lambda texts: {"clear": texts.pop("clear"), **texts}, "difference: clear for normal"),
        (lambda texts: texts | {"normal": 3}, "a text for each"),
        (lambda texts: list(texts), "got 0"),
        (None, "texts are missing"),
        ("{", "not JSON"),
    ],
)
def test_other_absent_and_damaged_texts_are_named(medklip, tmp_path, change, message):
    if callable(change):
        change = json.dumps(change(json.loads((medklip.folder / TEXTS).read_text())))
    if change:
        (tmp_path / TEXTS).write_text(change, "utf-8")
    with pytest.raises(InputError, match=message):
        read_entity_texts(tmp_path / TEXTS)


# --- preprocessing


def test_films_are_prepared_as_by_the_authors_transforms(model, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (300, 411), np.uint8)
    Image.fromarray(levels).save(tmp_path / "film.png")
    small = transforms.Resize([224, 224])(Image.open(tmp_path / "film.png").convert("RGB"))
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    wanted = transforms.Normalize(mean, deviation)(transforms.ToTensor()(small))
    found = model.preprocess(levels.astype(np.float32) / 255)
    assert found.shape == (3, 224, 224) and torch.allclose(found, wanted, atol=1e-6)


# --- MeDSLIP


def test_all_layouts_of_medslip_give_scores_and_maps_by_hand(films, tmp_path):
    (dual,) = CASES["medslip"].states()
    write_entities(tmp_path)
    vectors = EntityTexts(tmp_path).vectors  # tested with MedKLIP
    wanted = by_hand(dual, vectors, films, "_pathology")
    older = dict(zip(CASES["medslip, older"].shapes(False)[0], dual.values(), strict=True))
    for state, prefix in ((dual, "module."), (dual, ""), (older, "module.")):
        torch.save(trained(state, prefix), tmp_path / MeDSLIP.weights[0])
        model = MeDSLIP.load(tmp_path)
        for concept in ("Pneumonia", "Pleural Effusion"):
            row = ENTITIES.index(CONCEPT_ENTITIES[concept])
            found = model.classify(films, [concept]).sigmoid()[:, 0]
            assert torch.allclose(found, wanted[0][:, row], atol=1e-4)
            maps = wanted[1][:, row].unflatten(1, (14, 14))
            assert torch.allclose(model.ground(films, concept), maps, atol=1e-5)
