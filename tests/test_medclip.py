"""MedCLIP from files of the released layout: the same numbers as torchvision's, transformers' and
the published package's own towers."""

import contextlib
import json
import os
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from encoder_checks import (
    assert_other_than_films_are_refused,
    assert_prompts_act_as_their_words,
    reference_bert,
)
from hypothesis import given, settings
from mutations import fuzz, mutated
from PIL import Image
from released import medclip_shapes, random_state, stripped, write_base_model
from safetensors.torch import save_file
from torch.nn import functional
from torchvision import transforms
from transformers import BertConfig, BertModel, BertTokenizerFast, SwinConfig, SwinModel

from rctpl_utils.baselines.supervised import load_references
from rctpl_utils.encoders.base import state_hash
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.encoders.loading import (
    check_checkpoint,
    check_encoder,
    encoder_notes,
    load_encoders,
    open_encoder,
)
from rctpl_utils.encoders.medclip import medclip_layout
from rctpl_utils.encoders.published import SWIN_NAMES, MedCLIP, relative_position_index
from rctpl_utils.encoders.text_tower import untrained_bert
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.ablations import with_pooling
from rctpl_utils.evaluation.prompt_maps import blocks, randomize
from rctpl_utils.profiles import PROFILES
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts, nearest_words
from rctpl_utils.workspace import Workspace

LAYERS = 3
TOWERS = ("resnet50", "vit")
TEXTS = ["Edema", "a photo of pleural effusion in both lungs, no mass", "no evidence of mass."]
MAP = {"resnet50": 2048, "vit": 768}


def extras(tower: str) -> dict[str, torch.Tensor]:
    """What the released files hold besides: made with transformers 4.23 (medclip's issue tracker
    and haotian-liu/LLaVA, issue 1204, name `position_ids`)."""
    found = {
        "logit_scale": torch.tensor(4.0),
        "text_model.model.embeddings.position_ids": torch.arange(512)[None],
        "text_model.model.pooler.dense.weight": torch.zeros(768, 768),
        "text_model.model.pooler.dense.bias": torch.zeros(768),
    }
    if tower == "vit":
        for stage, depth in enumerate((2, 2, 6, 2)):
            for k in range(depth):
                name = f"encoder.layers.{stage}.blocks.{k}.attention.self.relative_position_index"
                found[f"vision_model.model.{name}"] = relative_position_index()
    return found


@pytest.fixture(scope="module")
def states() -> dict[str, dict[str, torch.Tensor]]:
    return {
        tower: random_state(medclip_shapes(tower, LAYERS), seed) | extras(tower)
        for seed, tower in enumerate(TOWERS)
    }


@pytest.fixture(scope="module")
def folders(states, tmp_path_factory) -> dict[str, Path]:
    found = {}
    for tower in TOWERS:
        folder = tmp_path_factory.mktemp(tower)
        write_base_model(folder / "bioclinicalbert", LAYERS)
        torch.save(states[tower], folder / "pytorch_model.bin")
        found[tower] = folder
    return found


@pytest.fixture(scope="module")
def models(folders) -> dict[str, MedCLIP]:
    return {tower: MedCLIP.load(folders[tower], tower=tower) for tower in TOWERS}


@pytest.fixture(params=TOWERS)
def tower(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def films() -> torch.Tensor:
    return torch.randn(2, 1, 224, 224, generator=torch.Generator().manual_seed(1))


def reference_vectors(tower: str, state: dict[str, torch.Tensor], folder: Path):
    """Films (n, 3, 224, 224) to (n, 512), by torchvision's or transformers' own model."""
    own = stripped("vision_model.model.", state)
    if tower == "resnet50":
        model = torchvision.models.resnet50(weights=None)
        model.fc = torch.nn.Linear(2048, 512, bias=False)
        model.load_state_dict(own)
        return model.eval()
    SwinConfig().save_pretrained(folder)
    save_file(own, folder / "model.safetensors", {"format": "pt"})
    model = SwinModel.from_pretrained(folder)  # which knows the released names
    head = state["vision_model.projection_head.weight"]
    return lambda films: model(films).pooler_output @ head.T


def bert_states(state: dict[str, torch.Tensor], folder: Path, texts: list[str]):
    """BERT's three hidden states (3, n, T, 768) and the mask, by transformers alone."""
    bert, tokenizer = reference_bert(state, "text_model.model.", folder / "bioclinicalbert")
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = bert(tokens["input_ids"], tokens["attention_mask"], output_hidden_states=True)
    picked = torch.stack([out.hidden_states[k] for k in (1, 2, -1)])
    return picked, tokens["attention_mask"]


def projected(pooled: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    return functional.normalize(pooled @ state["text_model.projection_head.weight"].T, dim=-1)


# --- images


def test_global_vectors_are_torchvisions_and_transformers(models, states, films, tower, tmp_path):
    reference = reference_vectors(tower, states[tower], tmp_path)
    with torch.no_grad():
        wanted = functional.normalize(reference(films.expand(-1, 3, -1, -1)), dim=-1)
    found = models[tower].encode_image(films)
    assert found.global_features.shape == (2, 512) and found.dense_features.shape == (2, 7, 7, 512)
    assert torch.allclose(found.global_features, wanted, atol=1e-5)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-3  # the films are told apart


def test_the_maps_mean_is_the_global_vector(models, films, tower):
    model, film = models[tower], films[:1]
    with torch.no_grad():
        pooled, dense = model.image.project(film)
        cells = model.image.trunk(film.expand(-1, 3, -1, -1))
    assert cells.shape == (1, MAP[tower], 7, 7) and dense.shape == (1, 7, 7, 512)
    weight, scale = model.image.projection.weight, pooled.abs().max()
    assert torch.allclose(cells.mean(dim=(2, 3)) @ weight.T, pooled, atol=1e-5 * scale)
    assert torch.allclose(cells[0, :, 2, 5] @ weight.T, dense[0, 2, 5], atol=1e-5 * scale)
    for features, raw in zip(model.encode_image(film), (pooled, dense), strict=True):
        assert torch.allclose(features, functional.normalize(raw, dim=-1), atol=1e-6)


def test_the_position_index_is_torchvisions():
    block = torchvision.models.swin_t(weights=None).features[1][0]
    assert torch.equal(relative_position_index().flatten(), block.attn.relative_position_index)


def test_grad_cam_reads_the_map(models, films, tower):
    embeddings = models[tower].encode_text(["edema", "mass"])
    maps = gradcam_maps(models[tower], films[:1], embeddings)
    assert maps.shape == (1, 2, 224, 224) and np.isfinite(maps).all() and maps.max() > 0


def test_blocks_for_the_sanity_check_go_stage_by_stage(models, tower):
    found = list(blocks(models[tower].image_module))
    depths = (3, 4, 6, 3)
    wanted = {
        "resnet50": [
            "trunk.conv1", "trunk.bn1",
            *(f"trunk.layer{s}.{k}" for s, n in enumerate(depths, 1) for k in range(n)),
            "projection",
        ],
        "vit": [
            "trunk.model.embeddings", *(f"trunk.model.encoder.layers.{k}" for k in range(4)),
            "trunk.model.layernorm", "projection",
        ],
    }  # fmt: skip
    assert found == wanted[tower]


def test_every_parameter_of_a_block_is_drawn_anew(models):
    tower = deepcopy(models["vit"].image)
    randomize(tower)
    parameters = zip(tower.parameters(), models["vit"].image.parameters(), strict=True)
    assert not any(torch.equal(one, other) for one, other in parameters)


# --- texts


def test_a_vector_is_a_mean_of_three_states_without_padding_unlike_medclips(
    models, states, folders
):
    found = models["resnet50"].encode_text(TEXTS)
    hidden, mask = bert_states(states["resnet50"], folders["resnet50"], TEXTS)
    per_token = hidden.mean(dim=0)  # (n, T, 768), over the three
    theirs = projected(per_token.mean(dim=1), states["resnet50"])  # padding included
    ours = torch.stack([per_token[k][mask[k].bool()].mean(dim=0) for k in range(len(TEXTS))])
    assert torch.allclose(found, projected(ours, states["resnet50"]), atol=1e-5)
    longest = int(mask.sum(dim=1).argmax())
    assert torch.allclose(found[longest], theirs[longest], atol=1e-5)
    short = int(mask.sum(dim=1).argmin())
    assert (found[short] - theirs[short]).abs().max() > 1e-3


def test_texts_are_lowercased_and_cut_after_77_tokens(models):
    model = models["vit"]
    assert torch.equal(model.encode_text(["EDEMA"]), model.encode_text(["edema"]))
    long = " ".join(["mass"] * 75)
    assert torch.allclose(
        model.encode_text([long]), model.encode_text([f"{long} edema"]), atol=1e-6
    )
    assert model.text.tokenize([f"{long} edema"])["input_ids"].shape == (1, 77)


def test_prompt_vectors_that_equal_words_act_as_these_words(models, tower):
    context = assert_prompts_act_as_their_words(models[tower])
    assert nearest_words(context, models[tower], 1) == [["a"], ["photo"], ["of"]]


def test_cls_pooling_is_an_option_of_the_ablation(models, states, folders):
    model = models["resnet50"]
    other = with_pooling(model, "cls")
    assert with_pooling(model, "mean") is model and other.text_key != model.text_key
    hidden, _ = bert_states(states["resnet50"], folders["resnet50"], TEXTS)
    wanted = projected(hidden[2][:, 0], states["resnet50"])
    assert torch.allclose(other.encode_text(TEXTS), wanted, atol=1e-5)


# --- preprocessing


def published(pixels: np.ndarray) -> torch.Tensor:
    """`ZeroShotImageDataset` of the package, on an 8-bit film: (1, 224, 224)."""
    film = Image.fromarray(pixels)
    side = max(224, *film.size)
    square = Image.new("L", (side, side), 0)
    square.paste(film, (int((side - film.width) / 2), int((side - film.height) / 2)))
    small = transforms.ToTensor()(transforms.Resize((224, 224))(square))
    return transforms.Normalize([0.5862785803043838], [0.27950088968644304])(small)


@pytest.mark.parametrize("shape", [(224, 224), (300, 300), (512, 401), (277, 613)])
def test_preprocessing_is_the_published_one(models, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = models["vit"].preprocess(pixels.astype(np.float32) / 255)
    assert found.shape == (1, 224, 224) and found.dtype == torch.float32
    assert torch.equal(found, published(pixels))
    assert_other_than_films_are_refused(models["vit"])


# --- files


def test_names_of_the_full_model_are_those_of_the_released_file(tmp_path, tower):
    write_base_model(tmp_path / "bioclinicalbert", layers=12, intermediate=3072)
    with torch.device("meta"):
        model = MedCLIP(tmp_path, tower)
    layout = medclip_layout(model)
    found = {layout.released(k): tuple(v.shape) for k, v in model.state_dict().items()}
    assert found == medclip_shapes(tower, 12, 3072)


def test_safetensors_give_the_same_model(models, states, folders, tmp_path):
    shutil.copytree(folders["resnet50"] / "bioclinicalbert", tmp_path / "bioclinicalbert")
    save_file(states["resnet50"], tmp_path / "medclip.safetensors")
    model = MedCLIP.load(tmp_path / "medclip.safetensors")
    assert state_hash(model) == state_hash(models["resnet50"])
    assert model.name == "MedCLIP (ResNet-50, BioClinicalBERT)"
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.text_key == models["resnet50"].text_key
    assert model.image_key == models["resnet50"].image_key != models["vit"].image_key


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("resnet50", "vision_model.projection_head.weight", "Swin-tiny, where ResNet-50 is wanted"),
        ("vit", "vision_model.model.fc.weight", "choose the encoder medclip-resnet50"),
    ],
)
def test_the_other_tower_is_named(tmp_path, kind, name, says):
    write_base_model(tmp_path / "bioclinicalbert", LAYERS)
    torch.save({name: torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=says):
        check_checkpoint(f"medclip-{kind}", tmp_path)


def test_the_supervised_reference_is_for_the_stand_in(models):
    assert load_references(None, (models["vit"],)) == (), "the row is left out"


@pytest.fixture
def paper(tmp_path) -> Workspace:
    """A run of the paper's profile whose data and checkpoint are this test's folder."""
    return Workspace(PROFILES["paper"], tmp_path, tmp_path, tmp_path, torch.device("cpu"))


def test_the_base_models_files_are_asked_for_at_the_start(paper, tmp_path, monkeypatch):
    monkeypatch.setattr("rctpl_utils.encoders.medclip._cached", lambda name: None)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    base = tmp_path / "bioclinicalbert"
    address = re.escape("https://huggingface.co/emilyalsentzer/Bio_ClinicalBERT")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        says = rf"^{base}: .*Download config.json and vocab.txt from {address}"
        with pytest.raises(InputError, match=says):
            check_encoder(replace(paper, checkpoint=path))
    write_base_model(base, 1)
    (base / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"vocab.txt: the text model's file is missing"):
        check_encoder(paper)
    (base / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    (base / "config.json").write_text("{")
    with pytest.raises(InputError, match="not a BERT's configuration"):
        check_encoder(paper)


@given(mutated(b'{"model_type": "bert", "vocab_size": 30, "hidden_size": 12}', b"[1]", b"{}"))
@settings(fuzz, max_examples=60)
def test_mutated_configurations_are_read_or_named(tmp_path, content):
    write_base_model(tmp_path, 1)
    (tmp_path / "config.json").write_bytes(content)
    with contextlib.suppress(InputError), torch.device("meta"):
        untrained_bert(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", "version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        ("config.json", "<!DOCTYPE html><html>", "an HTML page"),
        ("vocab.txt", "", "empty"),
        ("vocab.txt", "Entry not found", r"it lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
        ("vocab.txt", "\ufeff[PAD]\n[UNK]\n[CLS]\n[SEP]\n", r"it lacks \[PAD\]\."),
        ("vocab.txt", "[PAD] [UNK] [CLS] [SEP] a b".replace(" ", "\n"), "words, where config.json"),
    ],
)
def test_what_is_no_vocabulary_is_not_read_as_words(tmp_path, name, content, message):
    """A page would pass for words, and every text for the same few of them."""
    write_base_model(tmp_path, 1)
    untrained_bert(tmp_path)
    if message.startswith("words"):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 3}))
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        untrained_bert(tmp_path)


def test_a_copy_in_the_cache_of_transformers_serves(folders, tmp_path, monkeypatch):
    """The hub's cache layout: models--owner--name/snapshots/<commit>/, refs/main."""
    repository = tmp_path / "models--emilyalsentzer--Bio_ClinicalBERT"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folders["vit"] / "bioclinicalbert", repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    alone = tmp_path / "weights"
    alone.mkdir()
    os.link(folders["vit"] / "pytorch_model.bin", alone / "pytorch_model.bin")
    check_checkpoint("medclip-vit", alone)


def test_the_paper_profile_loads_its_checkpoint_and_prompts_name_it(models, folders, tmp_path):
    (tmp_path / "data").mkdir()
    checkpoint = tmp_path / "weights"
    shutil.copytree(folders["resnet50"], checkpoint, copy_function=os.link)
    workspace = Workspace.open(
        "paper", output=tmp_path, data_root=tmp_path / "data", checkpoint=checkpoint, device="cpu"
    )
    check_encoder(workspace)
    encoder = load_encoders(workspace)[0]
    assert encoder.text_key == models["resnet50"].text_key
    metadata = {"text_key": encoder.text_key, **encoder_notes(workspace, 0)}
    assert metadata["encoder_file"] == "../../../weights"
    context = torch.randn(4, 768, generator=torch.Generator().manual_seed(0))
    path = Prompts(context, -context, metadata).save(workspace.prompts / "p.safetensors")
    model = RCTPL.load(path)
    scores = model.classify([np.random.default_rng(0).random((80, 64))], ["Edema", "COVID-19"])
    assert scores.shape == (1, 2) and (np.abs(scores) <= 1).all()
    checkpoint.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"encoder \(medclip-resnet50\) is not where"):
        RCTPL.load(path)
    assert RCTPL.load(path, encoder).encoder is encoder


def test_what_cannot_be_opened_is_refused_at_the_start(paper, tmp_path):
    with pytest.raises(InputError, match=r"needs a checkpoint\. Give it with --checkpoint"):
        check_encoder(replace(paper, checkpoint=None))
    check_encoder(replace(paper, profile=PROFILES["embedded"], checkpoint=None))
    with pytest.raises(InputError, match="no encoder 'clip'"):
        open_encoder("clip", tmp_path)
    with pytest.raises(InputError, match="'standin' has no checkpoint"):
        check_checkpoint("standin", tmp_path)
    biovil = replace(PROFILES["paper"], encoder="biovil")
    with pytest.raises(InputError, match=r"config\.json: the text model's file is missing"):
        check_encoder(replace(paper, profile=biovil))


# --- the published package


@pytest.fixture
def package(monkeypatch):
    """PyPI's `medclip` 0.0.3, building its towers without a download.

    It imports a name that transformers 5 no longer has, for its processor, which takes no part.
    """
    import transformers

    reason = "MedCLIP's package is absent (CONTRIBUTING.md: the peers)"
    pytest.importorskip("nltk", reason=reason)
    monkeypatch.setattr(transformers, "CLIPFeatureExtractor", object, raising=False)
    found = pytest.importorskip("medclip.modeling_medclip", reason=reason)
    make = torchvision.models.resnet50
    monkeypatch.setattr(found.torchvision.models, "resnet50", lambda pretrained: make(weights=None))
    return found


@pytest.fixture
def theirs(package, states, folders, monkeypatch, tower):
    folder = folders[tower] / "bioclinicalbert"

    def from_pretrained(name: str, **options):
        if "swin" in name:
            return SwinModel(SwinConfig())
        return BertModel(BertConfig.from_pretrained(folder, **options))

    tokenizer = BertTokenizerFast.from_pretrained(folder)
    monkeypatch.setattr(package.AutoModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(package.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    vision = {"resnet50": package.MedCLIPVisionModel, "vit": package.MedCLIPVisionModelViT}[tower]
    model = package.MedCLIPModel(vision_cls=vision)
    state = {}
    for name, value in states[tower].items():
        if name.startswith("vision_model") and name not in model.state_dict():
            for renamed, old in SWIN_NAMES.items():
                name = name.replace(old, renamed)
        if not name.endswith(("position_ids", "relative_position_index")):
            state[name] = value
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def test_images_are_encoded_as_by_the_published_package(models, theirs, films, tower):
    found = models[tower].encode_image(films)
    assert torch.allclose(found.global_features, theirs.encode_image(films), atol=1e-5)


@torch.no_grad()
def test_texts_are_encoded_as_by_the_published_package(models, theirs, tower):
    def encode(texts: list[str]) -> torch.Tensor:
        tokenizer = theirs.text_model.tokenizer
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        found = theirs.text_model(tokens["input_ids"], tokens["attention_mask"])
        return found / found.norm(dim=-1, keepdim=True)  # its `encode_text` insists on CUDA

    model = models[tower]
    alone = torch.cat([encode([text]) for text in TEXTS])
    assert torch.allclose(model.encode_text(TEXTS), alone, atol=1e-5)
    equal = ["edema in both lungs", "a photo of mass"]  # as many tokens: no padding
    assert torch.allclose(model.encode_text(equal), encode(equal), atol=1e-5)
    padded = encode(TEXTS)
    # With padding: what theirs averages, from our tower's own hidden states.
    tokens = model.text.tokenize(TEXTS)
    states = model.text.bert(**tokens, output_hidden_states=True).hidden_states
    pooled = torch.stack([states[1], states[2], states[-1]]).mean(dim=(0, 2))
    assert torch.allclose(model.text.project(pooled), padded, atol=1e-5)
    assert (padded - alone).abs().max() > 1e-3  # theirs depends on the batch
