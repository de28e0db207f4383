"""MedKLIP and MeDSLIP from files of the released layouts: the same numbers as torch's and
torchvision's own modules, names accounted for, texts as the authors' tokenizer builds them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from released import bert_shapes, prefixed, random_state, resnet_shapes, write_base_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms
from torchvision.models import resnet50
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.baselines.released.base import pretrained_bert
from rctpl_utils.baselines.released.entities import (
    CONCEPT_ENTITIES,
    ENTITIES,
    TEXTS,
    EntityTexts,
    read_entity_texts,
)
from rctpl_utils.baselines.released.medklip import MedKLIP, MeDSLIP
from rctpl_utils.errors import InputError
from rctpl_utils.text.knowledge import describe
from rctpl_utils.vocabulary import CHESTXRAY14_CONCEPTS, CONCEPTS

LAYERS = 2  # of the small BERT
STAGES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}  # places in a Sequential
# Sentences in the small vocabulary, each with its own end, so that no two entities are alike.
FILLER = ["edema", "mass", "both", "lungs", "the", "heart", "and", "pleura"]


def pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def trunk_shapes() -> dict[str, tuple[int, ...]]:
    """`res_features`: torchvision's ResNet-50 without the last stage, in a Sequential."""
    found = {}
    for name, shape in resnet_shapes(head=False).items():
        stage, rest = name.split(".", 1)
        if stage in STAGES:
            found[f"res_features.{STAGES[stage]}.{rest}"] = shape
    return found


def decoder_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Four layers of 256, four heads, 1024 hidden; `models/transformer.py`."""
    shapes = pair(f"{name}.norm", 256)
    for k in range(4):
        layer = f"{name}.layers.{k}"
        for attention in ("self_attn", "multihead_attn"):
            shapes[f"{layer}.{attention}.in_proj_weight"] = (768, 256)
            shapes[f"{layer}.{attention}.in_proj_bias"] = (768,)
            shapes |= pair(f"{layer}.{attention}.out_proj", 256, 256)
        shapes |= pair(f"{layer}.linear1", 1024, 256) | pair(f"{layer}.linear2", 256, 1024)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= pair(f"{layer}.{norm}", 256)
    return shapes


def write_texts(folder: Path) -> list[str]:
    """The entities' file, in the authors' order and with their misspelling, and BERT's weights."""
    texts = [
        f"A {FILLER[k % 8]} is seen in {FILLER[k // 8 % 8]} {FILLER[k // 64]}." for k in range(75)
    ]
    names = ["eumonia" if name == "pneumonia" else name for name in ENTITIES]
    (folder / TEXTS).write_text(json.dumps(dict(zip(names, texts, strict=True))), "utf-8")
    write_base_model(folder / "bioclinicalbert", LAYERS)
    bert = random_state(prefixed("bert.", bert_shapes(LAYERS)), 3)
    bert |= {"bert.pooler.dense.weight": torch.zeros(768, 768), "cls.bias": torch.zeros(2)}
    torch.save(bert, folder / "bioclinicalbert" / "pytorch_model.bin")
    return texts


def save(state: dict[str, Tensor], file: Path, prefix: str = "module.") -> None:
    """As the training loop does: beside the optimizer's state and the configuration."""
    content = {
        "model": prefixed(prefix, state),
        "optimizer": {"state": {0: {"step": 4, "exp_avg": torch.ones(2)}}, "param_groups": []},
        "lr_scheduler": {"base_values": [1e-4]},
        "config": {"d_model": 256, "text_encoder": "emilyalsentzer/Bio_ClinicalBERT"},
        "epoch": 41,
    }
    torch.save(content, file)


def torchvision_cells(state: dict[str, Tensor], films: Tensor) -> Tensor:
    """The third stage of torchvision's own ResNet-50 with a file's weights: (n, 196, 1024)."""
    model = resnet50(weights=None).eval()
    back = {place: stage for stage, place in STAGES.items()}
    own = {}
    for name, value in state.items():
        if name.startswith("res_features."):
            place, rest = name.removeprefix("res_features.").split(".", 1)
            own[f"{back[int(place)]}.{rest}"] = value
    outcome = model.load_state_dict(own, strict=False)
    assert not outcome.unexpected_keys
    assert all(name.startswith(("layer4.", "fc.")) for name in outcome.missing_keys)
    x = model.maxpool(model.relu(model.bn1(model.conv1(films))))
    return model.layer3(model.layer2(model.layer1(x))).flatten(2).transpose(1, 2)


def torch_decoder(state: dict[str, Tensor], name: str) -> nn.TransformerDecoder:
    """torch's own decoder with a file's weights."""
    layer = nn.TransformerDecoderLayer(256, 4, 1024, 0.0, "relu", batch_first=True, norm_first=True)
    model = nn.TransformerDecoder(layer, 4, nn.LayerNorm(256)).eval()
    model.load_state_dict(
        {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
    )
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


def medklip_shapes() -> dict[str, tuple[int, ...]]:
    """`MedKLIP.state_dict`."""
    return {
        **trunk_shapes(),
        **pair("res_l1", 1024, 1024),
        **pair("res_l2", 256, 1024),
        **pair("disease_embedding_layer", 256, 768),
        **pair("cl_fc", 768, 256),
        **decoder_shapes("decoder"),
        **pair("classifier", 2, 256),
    }


@pytest.fixture(scope="module")
def state():
    return random_state(medklip_shapes(), 0)


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("medklip")
    write_texts(folder)
    save(state, folder / MedKLIP.weights)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return MedKLIP.load(folder)


@pytest.fixture(scope="module")
def films():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def bert_vectors(folder, texts):
    """[CLS] of transformers' BERT over `[CLS] text`, one text at a time and thus unpadded."""
    base = folder / "bioclinicalbert"
    config = BertConfig.from_dict(json.loads((base / "config.json").read_text()))
    bert = BertModel(config, add_pooling_layer=False).eval()
    weights = random_state(prefixed("bert.", bert_shapes(LAYERS)), 3)
    bert.load_state_dict({k.removeprefix("bert."): v for k, v in weights.items()})
    tokenizer = BertTokenizerFast.from_pretrained(base)
    rows = []
    for text in texts:
        ids = [tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:64]
        rows.append(bert(torch.tensor([ids])).last_hidden_state[0, 0])
    return torch.stack(rows)


@torch.no_grad()
def by_hand(state, vectors, films, blocked=None):
    """Probabilities (n, Q) and attention (n, Q, 196) from torch's and torchvision's modules."""
    cells = torchvision_cells(state, films)
    cells = linear(state, "res_l2", linear(state, "res_l1", cells).relu())
    queries = linear(state, "disease_embedding_layer", vectors).expand(len(films), -1, -1)
    decoder = torch_decoder(state, "decoder")
    logits = linear(state, "classifier", decoder(queries, cells, tgt_mask=blocked))
    return logits.softmax(dim=-1)[..., 1], attention_by_hand(decoder, queries, cells, blocked)


@pytest.fixture(scope="module")
def answers(state, folder, films):
    texts = list(json.loads((folder / TEXTS).read_text()).values())
    return by_hand(state, bert_vectors(folder, texts), films)


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


def test_an_unseen_concept_joins_the_75_and_changes_no_other(model, state, folder, films, answers):
    texts = [*json.loads((folder / TEXTS).read_text()).values(), describe("COVID-19")]
    blocked = torch.zeros(76, 76, dtype=torch.bool)
    blocked[:75, 75] = True  # the 75 do not see the 76th
    scores, attention = by_hand(state, bert_vectors(folder, texts), films, blocked)
    assert torch.allclose(scores[:, :75], answers[0], atol=1e-4)
    found = model.classify(films, ["COVID-19", "Pneumonia", "Pleural Other"]).sigmoid()
    assert torch.allclose(found[:, 0], scores[:, 75], atol=1e-4)
    assert torch.allclose(found[:, 1], answers[0][:, ROWS_CXR14["Pneumonia"]], atol=1e-4)
    alone = model.classify(films, ["Pleural Other"]).sigmoid()
    assert torch.allclose(found[:, 2], alone[:, 0], atol=1e-4)
    maps = model.ground(films, "COVID-19")
    assert torch.allclose(maps, attention[:, 75].reshape(-1, 14, 14), atol=1e-5)


def test_a_films_answer_does_not_depend_on_its_batch(model, films):
    alone = torch.cat([model.classify(film[None], ["Edema", "COVID-19"]) for film in films])
    assert torch.allclose(model.classify(films, ["Edema", "COVID-19"]), alone, atol=1e-5)


def test_every_concept_is_asked_by_an_entity_or_a_description(model, films):
    assert {c: ENTITIES.index(CONCEPT_ENTITIES[c]) for c in CHESTXRAY14_CONCEPTS} == ROWS_CXR14
    assert set(CONCEPTS) - set(CONCEPT_ENTITIES) == {"Pleural Other", "COVID-19"}
    scores = model.classify(films[:1], [*CONCEPTS, "No Finding"])
    assert scores.shape == (1, 22) and scores.isfinite().all()


def test_retrieval_vectors_by_hand(model, folder, films, answers):
    odds = answers[0].logit()
    wanted = functional.normalize(odds - odds.mean(dim=1, keepdim=True), dim=1)
    assert torch.allclose(model.embed_images(films), wanted, atol=1e-3)
    entities = bert_vectors(folder, json.loads((folder / TEXTS).read_text()).values())
    middle = entities.mean(dim=0)
    sentence = bert_vectors(folder, ["mass in the left lower lobe"])[0]
    cosines = functional.cosine_similarity(entities - middle, (sentence - middle)[None])
    wanted = functional.normalize(cosines - cosines.mean(), dim=0)
    assert torch.allclose(model.embed_texts(["mass in the left lower lobe"])[0], wanted, atol=1e-4)


# --- texts


def test_texts_have_no_end_mark_and_at_most_64_tokens(folder):
    texts = EntityTexts(folder)
    long = "edema " * 100
    assert torch.allclose(
        texts.encode([long, "mass"]), bert_vectors(folder, [long, "mass"]), atol=1e-5
    )
    tokenizer = BertTokenizerFast.from_pretrained(folder / "bioclinicalbert")
    bert, _ = pretrained_bert(folder / "bioclinicalbert")
    usual = bert(**tokenizer("mass", return_tensors="pt")).last_hidden_state[0, 0]
    assert (texts.encode(["mass"])[0] - usual).abs().max() > 1e-3  # [SEP] would matter


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda texts: {}, "got 0"),
        (lambda texts: dict(list(texts.items())[:-1]), "got 74"),
        (
            lambda texts: {"clear": texts.pop("clear"), **texts},
            "difference: clear for normal",
        ),
        (lambda texts: texts | {"normal": 3}, "a text for each"),
        (lambda texts: list(texts), "got 0"),
    ],
)
def test_other_texts_are_refused(folder, tmp_path, change, message):
    texts = json.loads((folder / TEXTS).read_text())
    (tmp_path / TEXTS).write_text(json.dumps(change(texts)), "utf-8")
    with pytest.raises(InputError, match=message):
        read_entity_texts(tmp_path / TEXTS)


def test_absent_and_damaged_texts_are_named(tmp_path):
    with pytest.raises(InputError, match="texts are missing"):
        read_entity_texts(tmp_path / TEXTS)
    (tmp_path / TEXTS).write_text("{", "utf-8")
    with pytest.raises(InputError, match="not JSON"):
        read_entity_texts(tmp_path / TEXTS)


# --- preprocessing


def test_films_are_prepared_as_by_the_authors_transforms(model, tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (300, 411), np.uint8)
    Image.fromarray(levels).save(tmp_path / "film.png")
    theirs = transforms.Compose(
        [
            transforms.Resize([224, 224]),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    wanted = theirs(Image.open(tmp_path / "film.png").convert("RGB"))
    found = model.preprocess(levels.astype(np.float32) / 255)
    assert found.shape == (3, 224, 224) and torch.allclose(found, wanted, atol=1e-6)


# --- files


def test_names_of_the_model_are_those_of_the_released_file(model):
    layout = model.layout({})
    found = {layout.released(k): tuple(v.shape) for k, v in model.state_dict().items()}
    shapes = medklip_shapes()
    assert found == {k: shape for k, shape in shapes.items() if not layout.is_unused(k)}
    unused = [name for name in shapes if layout.is_unused(name)]
    assert unused == ["cl_fc.weight", "cl_fc.bias"]


def test_every_tensor_survives_the_round_trip(model, state):
    layout = model.layout({})
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[layout.released(name)])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_files_without_the_wrappers_prefix_and_safetensors_do_too(state, model, films, tmp_path):
    write_texts(tmp_path)
    save_file(state, tmp_path / "checkpoint_final.safetensors")
    found, wanted = (each.classify(films, ["Mass"]) for each in (MedKLIP.load(tmp_path), model))
    assert torch.allclose(found, wanted, atol=1e-4)


def test_missing_unexpected_and_wrong_names_are_listed(state, tmp_path):
    write_texts(tmp_path)
    changed = {k: v for k, v in state.items() if k != "res_l2.bias"}
    changed |= {"query_embed.weight": torch.zeros(75, 256), "classifier.bias": torch.zeros(3)}
    save(changed, tmp_path / MedKLIP.weights)
    with pytest.raises(InputError) as caught:
        MedKLIP.load(tmp_path)
    for part in (
        "missing: res_l2.bias",
        "unexpected: query_embed.weight",
        "classifier.bias has shape (3,), not (2,)",
    ):
        assert re.search(re.escape(part), str(caught.value))


def test_bert_files_with_the_older_names_of_a_normalization(folder, tmp_path):
    source = folder / "bioclinicalbert"
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    weights = torch.load(source / "pytorch_model.bin", weights_only=True)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    old = weights
    for new, older in names.items():
        old = {name.replace(new, older): value for name, value in old.items()}
    torch.save(old, tmp_path / "pytorch_model.bin")
    ids = torch.tensor([[2, 8, 9, 3]])
    outputs = [pretrained_bert(each)[0](ids).last_hidden_state for each in (source, tmp_path)]
    assert torch.equal(*outputs)
    torch.save(
        {k: v for k, v in weights.items() if "query" not in k}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(
        InputError, match=r"missing: bert\.encoder\.layer\.0\.attention\.self\.query"
    ):
        pretrained_bert(tmp_path)


# --- MeDSLIP

NEWER, OLDER = ("pathology", "anatomy"), ("e", "p")  # the streams' names


def medslip_shapes(streams: tuple[str, str]) -> dict[str, tuple[int, ...]]:
    """`MeDSLIP.state_dict` with the streams of newer or of older files."""
    enter = "pathology_embedding_layer" if streams == NEWER else "disease_embedding_layer"
    shapes = {**trunk_shapes(), **pair("mask_generator", 1024, 1024), **pair(enter, 256, 768)}
    for stream in streams:
        shapes |= pair(f"cl_fc_{stream}", 768, 256)
        shapes |= pair(f"res_l1_{stream}", 1024, 1024) | pair(f"res_l2_{stream}", 256, 1024)
        shapes |= decoder_shapes(f"decoder_{stream}") | pair(f"classifier_{stream}", 2, 256)
    return shapes


@pytest.fixture(scope="module")
def dual():
    return random_state(medslip_shapes(NEWER), 5)


@pytest.fixture(scope="module")
@torch.no_grad()
def found_by_hand(dual, folder, films):
    """Probabilities (n, 75) and attention (n, 75, 14, 14) with torch's own modules."""
    x = torchvision_cells(dual, films)
    mask = linear(dual, "mask_generator", x)
    cells = linear(dual, "res_l1_pathology", mask * x).relu()
    cells = linear(dual, "res_l2_pathology", cells)
    vectors = EntityTexts(folder).vectors  # tested with MedKLIP
    queries = linear(dual, "pathology_embedding_layer", vectors).expand(len(films), -1, -1)
    decoder = torch_decoder(dual, "decoder_pathology")
    scores = linear(dual, "classifier_pathology", decoder(queries, cells)).softmax(dim=-1)[..., 1]
    return scores, attention_by_hand(decoder, queries, cells).unflatten(2, (14, 14))


@pytest.mark.parametrize("streams", [NEWER, OLDER])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_both_layouts_give_scores_and_maps_by_hand(
    dual, folder, films, found_by_hand, streams, prefix
):
    named = dual
    if streams == OLDER:
        named = dict(zip(medslip_shapes(OLDER), dual.values(), strict=True))
    save(named, folder / MeDSLIP.weights, prefix)
    model = MeDSLIP.load(folder)
    found = model.classify(films, ("Pneumonia", "Pleural Effusion")).sigmoid()
    for column, concept in enumerate(("Pneumonia", "Pleural Effusion")):
        row = ENTITIES.index(CONCEPT_ENTITIES[concept])
        assert torch.allclose(found[:, column], found_by_hand[0][:, row], atol=1e-4)
        assert torch.allclose(model.ground(films, concept), found_by_hand[1][:, row], atol=1e-5)


def test_names_of_medslip_are_those_of_the_released_files(folder):
    model = MeDSLIP(folder)
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for streams in (NEWER, OLDER):
        shapes = medslip_shapes(streams)
        layout = model.layout(dict.fromkeys(shapes))
        found = {layout.released(name): shape for name, shape in own.items()}
        assert found == {k: shape for k, shape in shapes.items() if not layout.is_unused(k)}
        unused = {name.split(".")[0] for name in shapes if layout.is_unused(name)}
        other, ours = streams[1], streams[0]
        assert unused == {
            f"res_l1_{other}", f"res_l2_{other}", f"decoder_{other}", f"classifier_{other}",
            f"cl_fc_{other}", f"cl_fc_{ours}",
        }  # fmt: skip


def test_a_file_of_these_tensors_has_the_size_that_the_hub_states(dual, tmp_path):
    # huggingface.co/pykale/MeDSLIP lists MeDSLIP_resnet50.pth with 85.2 MB: the weights alone
    torch.save({"model": dual}, tmp_path / MeDSLIP.weights)
    assert (tmp_path / MeDSLIP.weights).stat().st_size / 1e6 == pytest.approx(85.2, abs=0.05)


def test_a_file_of_medklip_is_refused(dual, folder, tmp_path):
    write_texts(tmp_path)
    save({k: v for k, v in dual.items() if "mask" not in k}, tmp_path / MeDSLIP.weights)
    with pytest.raises(InputError, match=r"missing: mask_generator\.weight"):
        MeDSLIP.load(tmp_path)
    save(dual | {"pe_fc_e.weight": torch.zeros(768, 256)}, tmp_path / MeDSLIP.weights)
    with pytest.raises(InputError, match=r"unexpected: pe_fc_e\.weight"):
        MeDSLIP.load(tmp_path)
    (tmp_path / TEXTS).write_text(json.dumps({}), "utf-8")
    with pytest.raises(InputError, match="got 0"):
        MeDSLIP.load(tmp_path)
