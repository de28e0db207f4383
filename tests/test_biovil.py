"""BioViL from files of the released layout: the same numbers as hand-made references and as
hi-ml-multimodal's own towers."""

import shutil
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
from hypothesis import strategies as st
from PIL import Image
from released import (
    biovil_image_shapes,
    biovil_text_shapes,
    random_state,
    stripped,
    write_base_model,
)
from safetensors.torch import save_file
from torch.nn import functional

from rctpl_utils.encoders.base import state_hash
from rctpl_utils.encoders.biovil import IMAGE_LAYOUT, BioViL, text_layout
from rctpl_utils.encoders.frame import SQUARE, Frame, frame_of, on_film, on_square
from rctpl_utils.encoders.loading import check_checkpoint, open_encoder
from rctpl_utils.encoders.published import IMAGE_WEIGHTS, stretched
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.ablations import with_pooling
from rctpl_utils.evaluation.grounding_metrics import peak
from rctpl_utils.evaluation.prompt_maps import blocks
from rctpl_utils.prompts.model import RCTPL
from rctpl_utils.prompts.prompts import Prompts

LAYERS = 2
TEXTS = ["Edema", "a photo of pleural effusion in both lungs, no mass", "no evidence of mass."]
CXR_BERT = {"model_type": "cxr-bert", "architectures": ["CXRBertModel"], "projection_size": 128}


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Of the text tower and of the image tower."""
    text = random_state(biovil_text_shapes(LAYERS), 0)
    text["bert.embeddings.position_ids"] = torch.arange(512)[None]
    text |= {
        "cls.predictions.bias": torch.zeros(9),
        "cls.predictions.transform.dense.weight": torch.zeros(768, 768),
    }
    return text, random_state(biovil_image_shapes(), 1)


@pytest.fixture(scope="module")
def folder(states, tmp_path_factory) -> Path:
    found = write_base_model(tmp_path_factory.mktemp("cxr-bert"), LAYERS, **CXR_BERT)
    torch.save(states[0], found / "pytorch_model.bin")
    torch.save(states[1], found / IMAGE_WEIGHTS[0])
    return found


@pytest.fixture(scope="module")
def model(folder) -> BioViL:
    check_checkpoint("biovil", folder)
    return open_encoder("biovil", folder)


@pytest.fixture(scope="module")
def film() -> torch.Tensor:
    return torch.rand(1, 1, 480, 480, generator=torch.Generator().manual_seed(1))


# --- images


def patches(state: dict[str, torch.Tensor], film: torch.Tensor) -> torch.Tensor:
    """The projected map (1, 128, 15, 15), by torchvision and plain functions."""
    resnet = torchvision.models.resnet50(weights=None).eval()
    resnet.load_state_dict(stripped("encoder.encoder.", state))
    resnet.avgpool, resnet.fc = torch.nn.Identity(), torch.nn.Identity()
    s = stripped("projector.model.", state)
    with torch.no_grad():
        cells = resnet(film.expand(-1, 3, -1, -1)).reshape(1, 2048, 15, 15)
        x = functional.conv2d(cells, s["0.weight"])
        x = functional.batch_norm(
            x, s["1.running_mean"], s["1.running_var"], s["1.weight"], s["1.bias"]
        )
        return functional.conv2d(x.relu(), s["3.weight"], s["3.bias"])


def test_images_are_encoded_as_by_hand(model, states, film):
    wanted, seen = patches(states[1], film), []
    hook = model.saliency_layer.register_forward_hook(lambda *args: seen.append(args[-1].shape))
    found = model.encode_image(film)
    hook.remove()
    assert seen == [(1, 2048, 15, 15)]  # Grad-CAM's map is the one before the projection
    assert found.global_features.shape == (1, 128)
    assert found.dense_features.shape == (1, 15, 15, 128)
    pooled = functional.normalize(wanted.mean(dim=(2, 3)), dim=-1)
    assert torch.allclose(found.global_features, pooled, atol=1e-5)
    dense = functional.normalize(wanted.permute(0, 2, 3, 1), dim=-1)
    assert torch.allclose(found.dense_features, dense, atol=1e-5)
    assert (dense[0, 2, 3] - dense[0, 9, 5]).abs().max() > 1e-3  # cells are told apart
    assert list(blocks(model.image_module))[-2:] == ["trunk.layer4.2", "projection"]


# --- texts


def cls_vectors(state: dict[str, torch.Tensor], texts: list[str], folder: Path) -> torch.Tensor:
    """(n, 128) unit vectors of each text alone, by transformers and plain functions."""
    bert, tokenizer = reference_bert(state, "bert.", folder)
    s = stripped("cls_projection_head.", state)
    with torch.no_grad():
        alone = [bert(**tokenizer(text, return_tensors="pt")) for text in texts]
        x = torch.cat([each.last_hidden_state[:, 0] for each in alone])
        x = functional.gelu(x @ s["dense_to_hidden.weight"].T + s["dense_to_hidden.bias"])
        x = functional.layer_norm(x, (128,), s["LayerNorm.weight"], s["LayerNorm.bias"], 1e-12)
        x = x @ s["dense_to_output.weight"].T + s["dense_to_output.bias"]
    return functional.normalize(x, dim=-1)


def test_texts_are_encoded_as_by_hand_without_their_last_mark(model, states, folder):
    wanted = cls_vectors(states[0], [text.rstrip(".") for text in TEXTS], folder)
    assert torch.allclose(model.encode_text(TEXTS), wanted, atol=1e-5)  # whatever the batch
    with_mark = cls_vectors(states[0], TEXTS[2:], folder)
    assert (with_mark - wanted[2:]).abs().max() > 1e-3
    # both arms of the pooling ablation are its own
    assert with_pooling(model, "cls") is model and with_pooling(model, "mean") is model


def test_prompt_vectors_that_equal_words_act_as_these_words(model):
    assert_prompts_act_as_their_words(model)


# --- preprocessing


def test_preprocessing_by_hand(model):
    film = np.zeros((1024, 1024), np.float32)
    film[100, 100] = 1
    found = model.preprocess(film)
    assert found.shape == (1, 480, 480) and found.dtype == torch.float32
    # Halving: a triangle of support 2 around 2 k + 1 weighs .125, .375, .375, .125; each of the
    # two passes rounds to 8 bits: 255 -> 32, 96 -> 4, 12, 12, 36. Then 16 pixels are cut off.
    wanted = torch.zeros(480, 480)
    wanted[33:35, 33:35] = torch.tensor([[4.0, 12.0], [12.0, 36.0]])
    assert torch.equal((found[0] * 255).round(), wanted)
    wide = np.zeros((512, 900), np.float32)  # the shorter side is 512 already
    wide[:, 449:451] = 1  # the two columns in the middle
    found = model.preprocess(wide)[0]
    assert found[:, 239:241].min() == 1 and found.sum() == 2 * 480
    assert_other_than_films_are_refused(model)


def test_gray_levels_are_stretched_to_the_films_own_range():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(stretched(levels.astype(np.float32) / 255), levels)
    assert stretched(np.array([[0.25, 0.5, 0.75]])).tolist() == [[0, 127, 255]]
    assert stretched(np.full((2, 2), 0.3)).tolist() == [[0, 0], [0, 0]]


# --- files


def test_names_of_the_full_model_are_those_of_the_released_files(tmp_path):
    write_base_model(tmp_path, 12, 3072, **CXR_BERT)
    with torch.device("meta"):
        full = BioViL(tmp_path)
    for module, layout, wanted in (
        (full.text, text_layout(full), biovil_text_shapes(12, 3072)),
        (full.image, IMAGE_LAYOUT, biovil_image_shapes()),
    ):
        found = {layout.released(k): tuple(v.shape) for k, v in module.state_dict().items()}
        assert found == {k: shape for k, shape in wanted.items() if not layout.is_unused(k)}
    assert [name for name in biovil_image_shapes() if IMAGE_LAYOUT.is_unused(name)] == [
        "encoder.encoder.fc.weight", "encoder.encoder.fc.bias",
    ]  # fmt: skip


def test_safetensors_give_the_same_model(model, states, folder, tmp_path):
    for name in ("config.json", "vocab.txt"):
        shutil.copy(folder / name, tmp_path)
    save_file(states[0], tmp_path / "model.safetensors")
    save_file(states[1], tmp_path / IMAGE_WEIGHTS[1])
    assert state_hash(BioViL.load(tmp_path)) == state_hash(model)


def test_absent_and_foreign_files_are_named(states, folder, tmp_path):
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        shutil.copy(folder / name, tmp_path)

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            check_checkpoint("biovil", tmp_path)

    refused("none of biovil_image_resnet50")
    torch.save({"other": torch.zeros(1)}, tmp_path / IMAGE_WEIGHTS[0])
    refused(r"missing: encoder.encoder.conv1.weight, .* more")
    torch.save(states[1] | {"classifier.fc": torch.zeros(1)}, tmp_path / IMAGE_WEIGHTS[0])
    refused(r"unexpected: classifier\.fc")
    (tmp_path / "vocab.txt").unlink()
    refused(r"vocab\.txt: the text model's file is missing")


# --- the published package

REASON = "hi-ml-multimodal is absent (CONTRIBUTING.md: the peers)"


@torch.no_grad()
def test_images_are_encoded_as_by_the_published_package(model, states, film):
    package = pytest.importorskip("health_multimodal.image.model.pretrained", reason=REASON)
    theirs = package.get_biovil_image_encoder(pretrained=False)
    theirs.load_state_dict(states[1])
    theirs.eval()
    found = model.encode_image(film)
    batch = film.expand(-1, 3, -1, -1)
    pooled = functional.normalize(theirs(batch).projected_global_embedding, dim=-1)
    assert torch.allclose(found.global_features, pooled, atol=1e-5)
    dense = theirs.get_patchwise_projected_embeddings(batch, normalize=True)
    assert torch.allclose(found.dense_features, dense, atol=1e-5)


@torch.no_grad()
def test_texts_are_encoded_as_by_the_published_package(model, states, folder):
    package = pytest.importorskip("health_multimodal.text", reason=REASON)
    config = package.CXRBertConfig.from_pretrained(folder)
    theirs = package.CXRBertModel(config).eval()
    outcome = theirs.load_state_dict(
        {k: v for k, v in states[0].items() if not k.startswith("cls.")}, strict=False
    )
    assert all(name.startswith("cls.predictions") for name in outcome.missing_keys)
    tokenizer = package.CXRBertTokenizer.from_pretrained(folder)
    # a method that transformers 5 no longer has, by what replaced it
    tokenizer.batch_encode_plus = lambda batch_text_or_text_pairs, **options: tokenizer(
        batch_text_or_text_pairs, **options
    )
    engine = package.TextInferenceEngine(tokenizer, theirs)
    found = engine.get_embeddings_from_prompt(TEXTS, verbose=False)
    assert torch.allclose(model.encode_text(TEXTS), found, atol=1e-5)


@pytest.mark.parametrize("shape", [(512, 512), (700, 513), (600, 1100)])
def test_films_are_prepared_as_by_the_published_package(model, tmp_path, shape):
    package = pytest.importorskip("health_multimodal.image.data.transforms", reason=REASON)
    io = pytest.importorskip("health_multimodal.image.data.io", reason=REASON)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    transform = package.create_chest_xray_transform_for_inference(512, 480)
    wanted = transform(io.load_image(tmp_path / "film.png"))  # (3, 480, 480)
    found = model.preprocess(pixels.astype(np.float32) / 255)
    assert torch.equal(found.expand(3, -1, -1), wanted)


# --- where the map lies


@given(
    size=st.tuples(st.integers(150, 500), st.integers(150, 500)),
    place=st.tuples(st.floats(0.12, 0.88), st.floats(0.12, 0.88)),
)
@settings(max_examples=15)
def test_a_cell_lands_on_the_film_where_its_pixels_came_from(model, size, place):
    height, width = size
    short, middle = min(size), (height / 2, width / 2)
    # a bright spot at a share of the crop, 15/16 of the shorter side around the film's center
    row, column = (
        m + (share - 0.5) * 15 / 16 * short for m, share in zip(middle, place, strict=True)
    )
    down, across = np.mgrid[:height, :width] + 0.5
    spot = np.exp(-((down - row) ** 2 + (across - column) ** 2) / (2 * (short / 20) ** 2))
    seen = model.preprocess(spot.astype(np.float32))  # (1, 480, 480), resized and cropped
    cells = functional.avg_pool2d(seen[None], 32)[0]  # (1, 15, 15), as the ResNet's strides do
    heat = on_film(on_square(cells, size, frame_of(model)), size)[0].numpy()
    found = peak(heat)
    cell = 15 / 16 * short / 15
    assert abs(found[0] + 0.5 - row) < 0.75 * cell and abs(found[1] + 0.5 - column) < 0.75 * cell


def test_outside_the_crop_a_map_has_its_minimum(model):
    cells = 1 + torch.rand(1, 15, 15, generator=torch.Generator().manual_seed(0))
    heat = on_film(on_square(cells, (400, 800), frame_of(model)), (400, 800))[0]
    side = 400 * 15 / 16
    assert frame_of(model) == Frame("short", 15 / 16)
    inside = np.flatnonzero((heat[200] > cells.min() + 1e-6).numpy())
    assert inside[0] == pytest.approx(400 - side / 2, abs=8)
    assert inside[-1] == pytest.approx(400 + side / 2, abs=8)
    assert torch.equal(heat[:, :190], torch.full((400, 190), float(cells.min())))
    assert on_square(cells, (400, 800), None) is cells  # an encoder that sees the padded square


def test_the_whole_model_grounds_on_the_padded_film(model):
    films = [np.random.default_rng(k).random(size) for k, size in enumerate(((60, 90), (80, 50)))]
    prompts = Prompts(torch.zeros(2, 768), torch.ones(2, 768), {"text_key": model.text_key})
    maps = RCTPL(model, prompts).ground(films, "Edema")
    assert maps.shape == (2, SQUARE, SQUARE)
    middle = slice(SQUARE // 2 - 30, SQUARE // 2 + 30)
    for film, found in zip(films, maps, strict=True):
        # the strips beside the crop along the longer side are the minimum, the middle is not
        edge = found[:, :18] if film.shape[0] < film.shape[1] else found[:18]
        assert np.ptp(edge) == 0 and edge.min() == found.min()
        assert np.ptp(found[middle, middle]) > 0
