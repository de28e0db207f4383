"""CheXzero from a file of the released layout: the same vectors as transformers' and open_clip's
CLIP, scores by the published rule, films and texts prepared as by the published code."""

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from released import CASES, MERGES, PIECES, SMALL_CLIP, clip_shapes, loaded
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

from rctpl_utils.baselines.released import chexzero
from rctpl_utils.baselines.released.chexzero import CheXzero, ClipSize
from rctpl_utils.errors import InputError

REASON = "open_clip is absent: pip install --no-deps open_clip_torch timm ftfy wcwidth"
TEXTS = ["Edema", "no Edema", "mass, 3 cm: no edema"]
TRANSFORMERS_NAMES = {
    r"^visual\.transformer\.resblocks": "vision_model.encoder.layers",
    r"^transformer\.resblocks": "text_model.encoder.layers",
    r"\.attn\.": ".self_attn.", r"\.ln_(\d)": r".layer_norm\1",
    r"\.mlp\.c_fc": ".mlp.fc1", r"\.mlp\.c_proj": ".mlp.fc2",
    r"^visual\.ln_pre": "vision_model.pre_layrnorm",
    r"^visual\.ln_post": "vision_model.post_layernorm",
    r"^ln_final": "text_model.final_layer_norm",
    r"^visual\.conv1": "vision_model.embeddings.patch_embedding",
    r"^visual\.class": "vision_model.embeddings.class",
    r"^visual\.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    r"^positional_embedding": "text_model.embeddings.position_embedding.weight",
    r"^token_embedding": "text_model.embeddings.token_embedding",
    r"^visual\.proj$": "visual_projection.weight", r"^text_projection$": "text_projection.weight",
}  # fmt: skip


FILMS = torch.randn(3, 1, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def chexzero_files(tmp_path_factory):
    return loaded(CASES["chexzero"], tmp_path_factory)


@pytest.fixture(scope="module")
def model(chexzero_files):
    return chexzero_files.model


@pytest.fixture(scope="module")
def state(chexzero_files):
    return chexzero_files.states[0]


def ids_by_hand(text: str) -> list[int]:
    """Byte pairs of a text of the small vocabulary, merged in the order of the merges."""
    found = ["<|startoftext|>"]
    for word in text.lower().replace(",", " , ").replace(":", " : ").split():
        parts = [*word[:-1], word[-1] + "</w>"]
        for first, second in map(str.split, MERGES):
            for k in range(len(parts) - 2, -1, -1):
                if parts[k : k + 2] == [first, second]:
                    parts[k : k + 2] = [first + second]
        found += parts
    return [PIECES.index(part) for part in [*found, "<|endoftext|>"]]


def transformers_clip(state):
    """transformers' own CLIP with the same weights: another implementation."""
    end = SMALL_CLIP.vocabulary - 1
    shared = {"num_hidden_layers": 2, "hidden_act": "quick_gelu", "projection_dim": 32}
    config = CLIPConfig(
        text_config=shared | {
            "vocab_size": SMALL_CLIP.vocabulary, "hidden_size": 64, "intermediate_size": 256,
            "num_attention_heads": 1, "max_position_embeddings": 77,
            "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end,
        },
        vision_config=shared | {
            "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2,
            "image_size": 224, "patch_size": 32,
        },
        projection_dim=32,
    )  # fmt: skip
    found = {}
    for name, value in state.items():
        for own, other in TRANSFORMERS_NAMES.items():
            name = re.sub(own, other, name)
        if "in_proj" in name:
            parts = (name.replace("in_proj_", f"{part}_proj.") for part in "qkv")
            found |= dict(zip(parts, value.chunk(3), strict=True))
        else:
            found[name] = value.T if name.endswith("_projection.weight") else value
    theirs = CLIPModel(config).eval()
    theirs.load_state_dict(found)
    return theirs


def rows(texts: list[str]) -> torch.Tensor:
    """Ids padded with zeros to 77, as `clip.tokenize` does."""
    ids = [ids_by_hand(text) for text in texts]
    return torch.tensor([row + [0] * (77 - len(row)) for row in ids])


@torch.no_grad()
def test_vectors_are_those_of_transformers_clip(model, state):
    theirs = transformers_clip(state)
    vision = theirs.vision_model(FILMS.expand(-1, 3, -1, -1)).last_hidden_state
    tokens = theirs.visual_projection(theirs.vision_model.post_layernorm(vision))
    tokens = functional.normalize(tokens, dim=-1)  # (n, 1 + 49, d)
    assert torch.allclose(model.embed_images(FILMS), tokens[:, 0], atol=1e-5)
    hidden = theirs.text_model(rows(TEXTS)).pooler_output
    texts = functional.normalize(theirs.text_projection(hidden), dim=-1)
    assert torch.allclose(model.embed_texts(TEXTS), texts, atol=1e-5)
    maps = (tokens[:, 1:] @ texts[0]).reshape(3, 7, 7)
    assert torch.allclose(model.ground(FILMS, "Edema"), maps, atol=1e-5)
    assert maps.std() > 0.01


@torch.no_grad()
def test_vectors_are_those_of_open_clip(model, state):
    package = pytest.importorskip("open_clip.model", reason=REASON)
    theirs = package.CLIP(
        32,
        {"layers": 2, "width": 128, "head_width": 64, "patch_size": 32, "image_size": 224},
        {
            "context_length": 77, "vocab_size": SMALL_CLIP.vocabulary, "width": 64, "heads": 1,
            "layers": 2,
        },
        quick_gelu=True,
    ).eval()  # fmt: skip
    theirs.load_state_dict(state)  # the very names
    images = theirs.encode_image(FILMS.expand(-1, 3, -1, -1), normalize=True)
    assert torch.allclose(model.embed_images(FILMS), images, atol=1e-5)
    texts = theirs.encode_text(rows(TEXTS), normalize=True)
    assert torch.allclose(model.embed_texts(TEXTS), texts, atol=1e-5)


def test_names_are_those_of_open_clips_vit_b_32():
    package = pytest.importorskip("open_clip", reason=REASON)
    config = package.get_model_config("ViT-B-32-quickgelu")
    with torch.device("meta"):
        theirs = package.model.CLIP(**config)
    wanted = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert wanted == clip_shapes(ClipSize())
    assert sum(math.prod(shape) for shape in wanted.values()) == 151_277_313


@torch.no_grad()
def test_scores_are_the_softmax_over_a_pair(model):
    found = model.classify(FILMS, ["Edema", "Mass"])
    image = model.embed_images(FILMS).double().numpy()
    for column, name in enumerate(("Edema", "Mass")):
        positive, negative = model.embed_texts([name, f"no {name}"]).double().numpy()
        for row in range(3):
            up, down = np.exp(image[row] @ positive), np.exp(image[row] @ negative)
            assert found[row, column].item() == pytest.approx(up / (up + down), abs=1e-6)


def test_a_text_depends_on_neither_batch_nor_case_and_is_cut_before_its_end_mark(model, state):
    alone = torch.cat([model.embed_texts([text.upper()]) for text in TEXTS])
    assert torch.allclose(model.embed_texts(TEXTS), alone, atol=1e-5)
    long = "mass " * 100
    ids = ids_by_hand(long)
    cut = torch.tensor([[*ids[:76], ids[-1]]])
    with torch.no_grad():
        wanted = transformers_clip(state).text_model(cut).pooler_output @ state["text_projection"]
    assert torch.allclose(
        model.embed_texts([long]), functional.normalize(wanted, dim=-1), atol=1e-5
    )


# --- preparation


@pytest.mark.parametrize("shape", [(400, 300), (301, 517), (320, 320)])
def test_films_are_prepared_as_by_the_published_steps(model, shape):
    levels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(levels).convert("RGB")  # data_process.py
    ratio = 320 / max(image.size)
    size = tuple(int(side * ratio) for side in image.size)
    square = Image.new("L", (320, 320))
    place = ((320 - size[0]) // 2, (320 - size[1]) // 2)
    square.paste(image.resize(size, Image.Resampling.LANCZOS), place)
    pixels = torch.from_numpy(np.asarray(square, np.float32)).expand(3, -1, -1)  # zero_shot.py
    pixels = (pixels - 101.48761) / 83.43944
    wanted = bicubic_by_hand(pixels[0].numpy())
    found = model.preprocess(levels.astype(np.float32) / 255)
    assert found.shape == (1, 224, 224)
    assert np.allclose(found[0].numpy(), wanted, atol=1e-3)


def bicubic_by_hand(image: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution (1981) with a = -0.75, four neighbors a side, edges repeated."""

    def weight(x: np.ndarray) -> np.ndarray:
        x, a = np.abs(x), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        return np.where(x <= 1, near, np.where(x < 2, a * (x**3 - 5 * x**2 + 8 * x - 4), 0))

    matrix = np.zeros((224, 320))
    for row in range(224):
        center = (row + 0.5) * 320 / 224 - 0.5
        for k in range(math.floor(center) - 1, math.floor(center) + 3):
            matrix[row, min(max(k, 0), 319)] += weight(np.array(center - k))
    return matrix @ image @ matrix.T


def test_texts_are_split_as_by_open_clip_with_the_real_vocabulary(tmp_path):
    package = pytest.importorskip("open_clip.tokenizer", reason=REASON)
    lines = gzip.decompress(Path(package.default_bpe()).read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = list(package.bytes_to_unicode().values())
    tokens = [*letters, *(each + "</w>" for each in letters)]
    tokens += ["".join(each.split()) for each in merges] + ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == ClipSize().vocabulary
    ids = {token: k for k, token in enumerate(tokens)}
    (tmp_path / "vocab.json").write_text(json.dumps(ids), "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    texts = [
        "no Pleural Effusion",
        "COVID-19; it's 3.5 cm, Ärger",
        "cardiomegaly  is\nseen",
        "x " * 99,
    ]
    theirs = package.SimpleTokenizer()(texts, context_length=77).tolist()
    ours = chexzero._tokenizer(tmp_path)(texts, truncation=True, max_length=77)["input_ids"]
    for found, wanted in zip(ours, theirs, strict=True):
        assert found == wanted[: len(found)] and not any(wanted[len(found) :])


def test_the_tokenizers_files_are_asked_for(tmp_path):
    with pytest.raises(InputError, match=r"vocab\.json: CLIP's tokenizer is missing"):
        CheXzero.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{", "utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    with pytest.raises(InputError, match="not CLIP's vocabulary and merges"):
        CheXzero.load(tmp_path)
