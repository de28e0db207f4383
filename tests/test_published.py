"""MedCLIP and BioViL from files of the released layout: the same numbers as torchvision's,
transformers' and the published packages' own towers."""

import contextlib
import json
import os
import re
import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from mutations import fuzz, mutated
from PIL import Image
from released import CASES, Loaded, loaded, reference_bert, stripped, write_base_model
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torchvision import transforms
from transformers import BertConfig, BertModel, BertTokenizerFast, SwinConfig, SwinModel

from rctpl_utils.baselines.supervised import load_references
from rctpl_utils.encoders import loading, published
from rctpl_utils.encoders.gradcam import gradcam_maps
from rctpl_utils.encoders.loading import check_checkpoint, check_encoder
from rctpl_utils.encoders.published import IMAGE_WEIGHTS, eight_bits, stretched
from rctpl_utils.encoders.text_tower import untrained_bert
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.ablations import with_pooling
from rctpl_utils.evaluation.prompt_maps import blocks, randomize
from rctpl_utils.profiles import PROFILES
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.workspace import Workspace

KINDS = ("medclip-resnet50", "medclip-vit", "biovil")
TEXTS = ["Edema", "a photo of pleural effusion in both lungs, no mass", "no evidence of mass."]
FILM = torch.randn(2, 1, 480, 480, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Loaded]:
    return {kind: loaded(CASES[kind], tmp_path_factory) for kind in KINDS}


@pytest.fixture(params=KINDS[:2])
def medclip(models, request) -> Loaded:
    return models[request.param]


@pytest.fixture
def biovil(models) -> Loaded:
    return models["biovil"]


# --- images


def reference_cells(kind: str, loaded: Loaded, folder) -> tuple[Tensor, Tensor, int]:
    """Pooled (n, d) and projected (n, h, w, d) vectors by torchvision or transformers, and k."""
    films = FILM if kind == "biovil" else FILM[:, :, :224, :224]
    films, state = films.expand(-1, 3, -1, -1), loaded.states[-1]
    if kind == "medclip-vit":
        SwinConfig().save_pretrained(folder)
        own = stripped("vision_model.model.", state)
        save_file(own, folder / "model.safetensors", {"format": "pt"})
        out = SwinModel.from_pretrained(folder)(films)  # which knows the released names
        head = state["vision_model.projection_head.weight"]
        cells = out.last_hidden_state.unflatten(1, (7, 7))
        return out.pooler_output @ head.T, cells @ head.T, 768
    resnet = torchvision.models.resnet50(weights=None).eval()
    prefix = "encoder.encoder." if kind == "biovil" else "vision_model.model."
    own = stripped(prefix, state)
    if kind != "biovil":
        resnet.fc = torch.nn.Linear(2048, 512, bias=False)
    resnet.load_state_dict(own)
    pooled = resnet(films)
    side = films.shape[-1] // 32
    resnet.avgpool, resnet.fc = torch.nn.Identity(), torch.nn.Identity()
    cells = resnet(films).unflatten(1, (2048, side, side))
    if kind != "biovil":
        return pooled, cells.permute(0, 2, 3, 1) @ own["fc.weight"].T, 2048
    s = stripped("projector.model.", state)
    x = functional.conv2d(cells, s["0.weight"])
    normalization = (s[f"1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    x = functional.batch_norm(x, *normalization)
    x = functional.conv2d(x.relu(), s["3.weight"], s["3.bias"])
    return x.mean(dim=(2, 3)), x.permute(0, 2, 3, 1), 2048


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_images_are_encoded_as_by_torchvision_and_transformers(models, kind, tmp_path):
    model, seen = models[kind].model, []
    pooled, cells, channels = reference_cells(kind, models[kind], tmp_path)
    hook = model.saliency_layer.register_forward_hook(lambda *args: seen.append(args[-1].shape))
    side = cells.shape[1]
    found = model.encode_image(FILM[:, :, : 32 * side, : 32 * side])
    hook.remove()
    assert seen == [(2, channels, side, side)]  # Grad-CAM's map is the one before the projection
    for ours, theirs in zip(found, (pooled, cells), strict=True):
        assert ours.shape == theirs.shape and ours.shape[-1] == model.dimension
        assert torch.allclose(ours, functional.normalize(theirs, dim=-1), atol=1e-5)
    assert (found.global_features[0] - found.global_features[1]).abs().max() > 1e-3
    assert (found.dense_features[0, 2, 3] - found.dense_features[0, 5, 5]).abs().max() > 1e-3


def test_grad_cam_reads_the_map(medclip):
    embeddings = medclip.model.encode_text(["edema", "mass"])
    maps = gradcam_maps(medclip.model, FILM[:1, :, :224, :224], embeddings)
    assert maps.shape == (1, 2, 224, 224) and np.isfinite(maps).all() and maps.max() > 0


def test_blocks_go_stage_by_stage_and_the_position_index_is_torchvisions(models):
    stages = [f"trunk.layer{s}.{k}" for s, n in enumerate((3, 4, 6, 3), 1) for k in range(n)]
    resnet = ["trunk.conv1", "trunk.bn1", *stages, "projection"]
    layers = [f"trunk.model.encoder.layers.{k}" for k in range(4)]
    swin = ["trunk.model.embeddings", *layers, "trunk.model.layernorm", "projection"]
    for kind, wanted in zip(KINDS, (resnet, swin, resnet), strict=True):
        assert list(blocks(models[kind].model.image_module)) == wanted
    tower = models["medclip-vit"].model.image
    randomize(other := deepcopy(tower))  # every parameter of every block is drawn anew
    assert not any(map(torch.equal, other.parameters(), tower.parameters()))
    block = torchvision.models.swin_t(weights=None).features[1][0]
    assert torch.equal(
        published.relative_position_index().flatten(), block.attn.relative_position_index
    )


# --- texts


def bert_states(loaded: Loaded, texts: list[str]) -> tuple[Tensor, Tensor]:
    """BERT's three hidden states (3, n, T, 768) and the mask, by transformers alone."""
    folder = loaded.folder / "bioclinicalbert"
    bert, tokenizer = reference_bert(loaded.states[0], "text_model.model.", folder)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = bert(tokens["input_ids"], tokens["attention_mask"], output_hidden_states=True)
    return torch.stack([out.hidden_states[k] for k in (1, 2, -1)]), tokens["attention_mask"]


def projected(pooled: Tensor, loaded: Loaded) -> Tensor:
    head = loaded.states[0]["text_model.projection_head.weight"]
    return functional.normalize(pooled @ head.T, dim=-1)


def test_a_vector_is_a_mean_of_three_states_without_padding_unlike_medclips(models):
    medclip = models["medclip-resnet50"]
    model = medclip.model
    found, (hidden, mask) = model.encode_text(TEXTS), bert_states(medclip, TEXTS)
    per_token = hidden.mean(dim=0)  # (n, T, 768), over the three
    theirs = projected(per_token.mean(dim=1), medclip)  # padding included
    ours = torch.stack([per_token[k][mask[k].bool()].mean(dim=0) for k in range(len(TEXTS))])
    assert torch.allclose(found, projected(ours, medclip), atol=1e-5)
    longest, short = int(mask.sum(dim=1).argmax()), int(mask.sum(dim=1).argmin())
    assert torch.allclose(found[longest], theirs[longest], atol=1e-5)
    assert (found[short] - theirs[short]).abs().max() > 1e-3
    other = with_pooling(model, "cls")  # an option of the ablation
    assert with_pooling(model, "mean") is model and other.text_key != model.text_key
    assert torch.allclose(other.encode_text(TEXTS), projected(hidden[2][:, 0], medclip), atol=1e-5)


def test_texts_are_lowercased_and_cut_after_77_tokens(models):
    model = models["medclip-vit"].model
    assert torch.equal(model.encode_text(["EDEMA"]), model.encode_text(["edema"]))
    long = " ".join(["mass"] * 75)
    found, longer = model.encode_text([long]), model.encode_text([f"{long} edema"])
    assert torch.allclose(found, longer, atol=1e-6)
    assert model.text.tokenize([f"{long} edema"])["input_ids"].shape == (1, 77)


def test_biovils_texts_are_encoded_as_by_hand_without_their_last_mark(biovil):
    def cls_vectors(texts: list[str]) -> Tensor:
        """(n, 128) unit vectors of each text alone, by transformers and plain functions."""
        bert, tokenizer = reference_bert(biovil.states[0], "bert.", biovil.folder)
        s = stripped("cls_projection_head.", biovil.states[0])
        with torch.no_grad():
            alone = [bert(**tokenizer(text, return_tensors="pt")) for text in texts]
            x = torch.cat([each.last_hidden_state[:, 0] for each in alone])
            x = functional.gelu(x @ s["dense_to_hidden.weight"].T + s["dense_to_hidden.bias"])
            x = functional.layer_norm(x, (128,), s["LayerNorm.weight"], s["LayerNorm.bias"], 1e-12)
            x = x @ s["dense_to_output.weight"].T + s["dense_to_output.bias"]
        return functional.normalize(x, dim=-1)

    model = biovil.model
    wanted = cls_vectors([text.rstrip(".") for text in TEXTS])
    assert torch.allclose(model.encode_text(TEXTS), wanted, atol=1e-5)  # whatever the batch
    assert (cls_vectors(TEXTS[2:]) - wanted[2:]).abs().max() > 1e-3
    # both arms of the pooling ablation are its own, and it has no supervised reference
    assert load_references(None, (model,)) == (), "the row is left out"
    assert with_pooling(model, "cls") is model and with_pooling(model, "mean") is model


# --- preprocessing


@pytest.mark.parametrize("shape", [(224, 224), (300, 300), (512, 401), (277, 613)])
def test_medclips_preprocessing_is_the_published_one(models, shape):
    """`ZeroShotImageDataset` of the package, on an 8-bit film."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    film, side = Image.fromarray(pixels), max(224, *shape)
    square = Image.new("L", (side, side), 0)
    square.paste(film, (int((side - film.width) / 2), int((side - film.height) / 2)))
    small = transforms.ToTensor()(transforms.Resize((224, 224))(square))
    wanted = transforms.Normalize([0.5862785803043838], [0.27950088968644304])(small)
    found = models["medclip-vit"].model.preprocess(pixels.astype(np.float32) / 255)
    assert found.shape == (1, 224, 224) and found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert eight_bits(np.array([[0, 0.5, 0.999, 1]])).tolist() == [[0, 128, 255, 255]]


def test_biovils_preprocessing_by_hand(biovil):
    film = np.zeros((1024, 1024), np.float32)
    film[100, 100] = 1
    found = biovil.model.preprocess(film)
    assert found.shape == (1, 480, 480) and found.dtype == torch.float32
    # Halving: a triangle of support 2 around 2 k + 1 weighs .125, .375, .375, .125; each of the
    # two passes rounds to 8 bits: 255 -> 32, 96 -> 4, 12, 12, 36. Then 16 pixels are cut off.
    wanted = torch.zeros(480, 480)
    wanted[33:35, 33:35] = torch.tensor([[4.0, 12.0], [12.0, 36.0]])
    assert torch.equal((found[0] * 255).round(), wanted)
    wide = np.zeros((512, 900), np.float32)  # the shorter side is 512 already
    wide[:, 449:451] = 1  # the two columns in the middle
    found = biovil.model.preprocess(wide)[0]
    assert found[:, 239:241].min() == 1 and found.sum() == 2 * 480
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)  # stretched to the film's own range
    assert np.array_equal(stretched(levels.astype(np.float32) / 255), levels)
    assert stretched(np.array([[0.25, 0.5, 0.75]])).tolist() == [[0, 127, 255]]
    assert stretched(np.full((2, 2), 0.3)).tolist() == [[0, 0], [0, 0]]


# --- files (their tensors: `test_released_files`)


def test_the_other_tower_and_absent_files_are_named(biovil, tmp_path):
    def refused(kind: str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            check_checkpoint(kind, tmp_path)

    write_base_model(tmp_path / "bioclinicalbert", 3)
    other = "Swin-tiny, where ResNet-50 is wanted", "choose the encoder medclip-resnet50"
    names = "projection_head.weight", "model.fc.weight"
    for kind, name, says in zip(KINDS[:2], names, other, strict=True):
        torch.save({f"vision_model.{name}": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
        refused(kind, says)
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        shutil.copy(biovil.folder / name, tmp_path)
    refused("biovil", "none of biovil_image_resnet50")
    shutil.copy(biovil.folder / IMAGE_WEIGHTS[0], tmp_path)
    check_checkpoint("biovil", tmp_path)
    (tmp_path / "vocab.txt").unlink()
    refused("biovil", r"vocab\.txt: the text model's file is missing")


@pytest.fixture
def paper(tmp_path) -> Workspace:
    """A run of the paper's profile whose data and checkpoint are this test's folder."""
    return Workspace(PROFILES["paper"], tmp_path, tmp_path, tmp_path, torch.device("cpu"))


def test_the_base_models_files_are_asked_for_at_the_start(paper, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nothing"))
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


def test_a_copy_in_the_cache_of_transformers_serves(models, tmp_path, monkeypatch):
    """The hub's cache layout: models--owner--name/snapshots/<commit>/, refs/main."""
    repository, commit = tmp_path / "models--emilyalsentzer--Bio_ClinicalBERT", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    folder, weights = models["medclip-vit"].folder, tmp_path / "weights"
    shutil.copytree(folder / "bioclinicalbert", repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    weights.mkdir()
    os.link(folder / "pytorch_model.bin", weights / "pytorch_model.bin")
    check_checkpoint("medclip-vit", weights)


def test_the_paper_profile_loads_its_checkpoint_and_prompts_name_it(models, tmp_path):
    (tmp_path / "data").mkdir()
    checkpoint, medclip = tmp_path / "weights", models["medclip-resnet50"]
    shutil.copytree(medclip.folder, checkpoint, copy_function=os.link)
    workspace = Workspace.open(
        "paper", output=tmp_path, data_root=tmp_path / "data", checkpoint=checkpoint, device="cpu"
    )
    check_encoder(workspace)
    encoder = loading.load_encoders(workspace)[0]
    assert encoder.text_key == medclip.model.text_key
    assert encoder.image_key == medclip.model.image_key != models["medclip-vit"].model.image_key
    assert encoder.name == "MedCLIP (ResNet-50, BioClinicalBERT)"
    metadata = {"text_key": encoder.text_key, **loading.encoder_notes(workspace, 0)}
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
        loading.open_encoder("clip", tmp_path)
    with pytest.raises(InputError, match="'standin' has no checkpoint"):
        check_checkpoint("standin", tmp_path)
    biovil = replace(PROFILES["paper"], encoder="biovil")
    with pytest.raises(InputError, match=r"config\.json: the text model's file is missing"):
        check_encoder(replace(paper, profile=biovil))


# --- the published packages


@pytest.fixture
def theirs(medclip, monkeypatch):
    """PyPI's `medclip` 0.0.3, its towers built without a download and filled with our weights.

    It imports a name that transformers 5 no longer has, for its processor, which takes no part.
    """
    import transformers

    reason = "MedCLIP's package is absent (CONTRIBUTING.md: the peers)"
    pytest.importorskip("nltk", reason=reason)
    monkeypatch.setattr(transformers, "CLIPFeatureExtractor", object, raising=False)
    package = pytest.importorskip("medclip.modeling_medclip", reason=reason)
    make, folder = torchvision.models.resnet50, medclip.folder / "bioclinicalbert"
    models = package.torchvision.models
    monkeypatch.setattr(models, "resnet50", lambda pretrained: make(weights=None))

    def from_pretrained(name: str, **options):
        if "swin" in name:
            return SwinModel(SwinConfig())
        return BertModel(BertConfig.from_pretrained(folder, **options))

    tokenizer = BertTokenizerFast.from_pretrained(folder)
    monkeypatch.setattr(package.AutoModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(package.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    swin = "vision_model.projection_head.weight" in medclip.states[0]
    vision = package.MedCLIPVisionModelViT if swin else package.MedCLIPVisionModel
    model, state = package.MedCLIPModel(vision_cls=vision), {}
    for name, value in medclip.states[0].items():
        if name.startswith("vision_model") and name not in model.state_dict():
            for renamed, old in published.SWIN_NAMES.items():
                name = name.replace(old, renamed)
        if not name.endswith(("position_ids", "relative_position_index")):
            state[name] = value
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def test_medclip_encodes_as_the_published_package(medclip, theirs):
    def encode(texts: list[str]) -> Tensor:
        tokenizer = theirs.text_model.tokenizer
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        found = theirs.text_model(tokens["input_ids"], tokens["attention_mask"])
        return found / found.norm(dim=-1, keepdim=True)  # its `encode_text` insists on CUDA

    model, films = medclip.model, FILM[:, :, :224, :224]
    found = model.encode_image(films).global_features
    assert torch.allclose(found, theirs.encode_image(films), atol=1e-5)
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


REASON = "hi-ml-multimodal is absent (CONTRIBUTING.md: the peers)"


@torch.no_grad()
def test_biovil_encodes_as_the_published_package(biovil):
    package = pytest.importorskip("health_multimodal.image.model.pretrained", reason=REASON)
    theirs = package.get_biovil_image_encoder(pretrained=False)
    theirs.load_state_dict(biovil.states[1])
    theirs.eval()
    found, batch = biovil.model.encode_image(FILM), FILM.expand(-1, 3, -1, -1)
    pooled = functional.normalize(theirs(batch).projected_global_embedding, dim=-1)
    assert torch.allclose(found.global_features, pooled, atol=1e-5)
    dense = theirs.get_patchwise_projected_embeddings(batch, normalize=True)
    assert torch.allclose(found.dense_features, dense, atol=1e-5)
    package = pytest.importorskip("health_multimodal.text", reason=REASON)
    config = package.CXRBertConfig.from_pretrained(biovil.folder)
    theirs = package.CXRBertModel(config).eval()
    outcome = theirs.load_state_dict(
        {k: v for k, v in biovil.states[0].items() if not k.startswith("cls.")}, strict=False
    )
    assert all(name.startswith("cls.predictions") for name in outcome.missing_keys)
    tokenizer = package.CXRBertTokenizer.from_pretrained(biovil.folder)
    # a method that transformers 5 no longer has, by what replaced it
    tokenizer.batch_encode_plus = lambda batch_text_or_text_pairs, **options: tokenizer(
        batch_text_or_text_pairs, **options
    )
    engine = package.TextInferenceEngine(tokenizer, theirs)
    found = engine.get_embeddings_from_prompt(TEXTS, verbose=False)
    assert torch.allclose(biovil.model.encode_text(TEXTS), found, atol=1e-5)


@pytest.mark.parametrize("shape", [(512, 512), (700, 513), (600, 1100)])
def test_biovils_films_are_prepared_as_by_the_published_package(biovil, tmp_path, shape):
    package = pytest.importorskip("health_multimodal.image.data.transforms", reason=REASON)
    io = pytest.importorskip("health_multimodal.image.data.io", reason=REASON)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    transform = package.create_chest_xray_transform_for_inference(512, 480)
    wanted = transform(io.load_image(tmp_path / "film.png"))  # (3, 480, 480)
    found = biovil.model.preprocess(pixels.astype(np.float32) / 255)
    assert torch.equal(found.expand(3, -1, -1), wanted)
