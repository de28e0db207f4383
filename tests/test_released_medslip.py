"""MeDSLIP from files of both of its layouts: pathologies' stream by hand, all names known."""

import json

import pytest
import torch
from released import random_state
from released_queries import (
    attention_by_hand,
    decoder_shapes,
    pair,
    save,
    torch_decoder,
    torchvision_cells,
    trunk_shapes,
    write_texts,
)

from rctpl_utils.baselines.released.entities import CONCEPT_ENTITIES, ENTITIES, TEXTS, EntityTexts
from rctpl_utils.baselines.released.medklip import MeDSLIP
from rctpl_utils.errors import InputError

CONCEPTS = ("Pneumonia", "Pleural Effusion")
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
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("medslip")
    write_texts(folder)
    return folder


@pytest.fixture(scope="module")
def state():
    return random_state(medslip_shapes(NEWER), 5)


@pytest.fixture(scope="module")
def films():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


@pytest.fixture(scope="module")
@torch.no_grad()
def answers(state, folder, films):
    """Probabilities (n, 75) and attention (n, 75, 14, 14) with torch's own modules."""
    x = torchvision_cells(state, films)
    mask = linear(state, "mask_generator", x)
    cells = linear(state, "res_l1_pathology", mask * x).relu()
    cells = linear(state, "res_l2_pathology", cells)
    vectors = EntityTexts(folder).vectors  # tested with MedKLIP
    queries = linear(state, "pathology_embedding_layer", vectors).expand(len(films), -1, -1)
    decoder = torch_decoder(state, "decoder_pathology")
    scores = linear(state, "classifier_pathology", decoder(queries, cells)).softmax(dim=-1)[..., 1]
    return scores, attention_by_hand(decoder, queries, cells).unflatten(2, (14, 14))


@pytest.mark.parametrize("streams", [NEWER, OLDER])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_both_layouts_give_scores_and_maps_by_hand(state, folder, films, answers, streams, prefix):
    named = state
    if streams == OLDER:
        named = dict(zip(medslip_shapes(OLDER), state.values(), strict=True))
    save(named, folder / MeDSLIP.weights, prefix)
    model = MeDSLIP.load(folder)
    found = model.classify(films, CONCEPTS).sigmoid()
    for column, concept in enumerate(CONCEPTS):
        row = ENTITIES.index(CONCEPT_ENTITIES[concept])
        assert torch.allclose(found[:, column], answers[0][:, row], atol=1e-4)
        assert torch.allclose(model.ground(films, concept), answers[1][:, row], atol=1e-5)


def test_names_of_the_model_are_those_of_the_released_files(folder):
    own = {name: tuple(value.shape) for name, value in MeDSLIP(folder).state_dict().items()}
    for streams in (NEWER, OLDER):
        shapes = medslip_shapes(streams)
        layout = MeDSLIP.layout(dict.fromkeys(shapes))
        found = {layout.released(name): shape for name, shape in own.items()}
        assert found == {k: shape for k, shape in shapes.items() if not layout.is_unused(k)}
        unused = {name.split(".")[0] for name in shapes if layout.is_unused(name)}
        other, ours = streams[1], streams[0]
        assert unused == {
            f"res_l1_{other}", f"res_l2_{other}", f"decoder_{other}", f"classifier_{other}",
            f"cl_fc_{other}", f"cl_fc_{ours}",
        }  # fmt: skip


def test_a_file_of_these_tensors_has_the_size_that_the_hub_states(state, tmp_path):
    # huggingface.co/pykale/MeDSLIP lists MeDSLIP_resnet50.pth with 85.2 MB: the weights alone
    torch.save({"model": state}, tmp_path / MeDSLIP.weights)
    assert (tmp_path / MeDSLIP.weights).stat().st_size / 1e6 == pytest.approx(85.2, abs=0.05)


def test_a_file_of_medklip_is_refused(state, folder, tmp_path):
    write_texts(tmp_path)
    save({k: v for k, v in state.items() if "mask" not in k}, tmp_path / MeDSLIP.weights)
    with pytest.raises(InputError, match=r"missing: mask_generator\.weight"):
        MeDSLIP.load(tmp_path)
    save(state | {"pe_fc_e.weight": torch.zeros(768, 256)}, tmp_path / MeDSLIP.weights)
    with pytest.raises(InputError, match=r"unexpected: pe_fc_e\.weight"):
        MeDSLIP.load(tmp_path)
    (tmp_path / TEXTS).write_text(json.dumps({}), "utf-8")
    with pytest.raises(InputError, match="got 0"):
        MeDSLIP.load(tmp_path)
