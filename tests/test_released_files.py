"""Every model that is read from released files: each name accounted for, each tensor as stored."""

import contextlib
import re

import pytest
import torch
from released import CASES, Case, Loaded, loaded, write_entities
from safetensors.torch import save_file

from rctpl_utils.baselines.released.medklip import TEXTS, MedKLIP, MeDSLIP, pretrained_bert
from rctpl_utils.encoders.base import state_hash
from rctpl_utils.encoders.checkpoint import SHOWN, Layout, released_names
from rctpl_utils.errors import InputError


def layouts(model, states) -> list[tuple[torch.nn.Module, Layout]]:
    """What each file fills, and how it names that."""
    if hasattr(model, "parts"):
        return [(module, layout) for module, _, layout in model.parts()]
    return [(model, model.layout(states[0]))]


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def found(case, tmp_path_factory) -> Loaded:
    return loaded(case, tmp_path_factory)


def test_names_and_shapes_of_the_full_model_are_those_of_the_released_file(case, tmp_path):
    case.beside(tmp_path, True)
    reads_texts = issubclass(case.make, MedKLIP)  # which its frozen BERT encodes at once
    with contextlib.nullcontext() if reads_texts else torch.device("meta"):
        model = case.make(tmp_path, **case.options)
    full = case.shapes(True)
    for (module, layout), shapes in zip(layouts(model, full), full, strict=True):
        own = {layout.released(k): tuple(v.shape) for k, v in module.state_dict().items()}
        assert own == {k: shape for k, shape in shapes.items() if not layout.is_unused(k)}
        unused = {k for k in shapes if layout.is_unused(k)}
        assert unused == {k for k in shapes if k.startswith(case.unused)}


def test_every_tensor_is_the_stored_one_and_frozen(found):
    filled = layouts(found.model, found.states)
    for (module, layout), state in zip(filled, found.states, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[layout.released(name)])
    assert not found.model.training
    assert not any(parameter.requires_grad for parameter in found.model.parameters())


def test_safetensors_give_the_same_model(case, found, tmp_path):
    case.beside(tmp_path, False)
    for name, state in zip(case.files, found.states, strict=True):
        alone = "model.safetensors" if name == "pytorch_model.bin" else released_names(name)[1]
        save_file(state, tmp_path / alone)
    assert state_hash(case.load(tmp_path)) == state_hash(found.model)


def test_missing_unexpected_and_wrong_tensors_are_listed(case, found, tmp_path):
    own = zip(layouts(found.model, found.states), case.shapes(False), strict=True)
    for k, ((_, layout), shapes) in enumerate(own):
        used = [name for name in shapes if not layout.is_unused(name)]
        kept = {*used[-2:], *(name for name in used if name.endswith("embedding_layer.weight"))}
        state = {name: torch.zeros(3) for name in kept} | {"other.part": torch.zeros(1)}
        if k == 0:
            state |= {name: value + 1 for name, value in case.constants.items()}
        case.write(tmp_path, *(state if j == k else each for j, each in enumerate(found.states)))
        with pytest.raises(InputError) as caught:
            case.load(tmp_path)
        said = str(caught.value)
        missing = len(used) - len(kept)
        assert re.search(rf"missing: \S+, .* and {missing - SHOWN} more; unexpected: other", said)
        for name in kept:
            assert f"{name} has shape (3,), not {shapes[name]}" in said
        assert (len(case.constants) > 0 and k == 0) == ("not what the architecture fixes" in said)


def test_half_precision_is_read_as_single(tmp_path):
    case = CASES["chexzero"]
    state = {name: value.half() for name, value in case.states()[0].items()}
    own = case.load(case.write(tmp_path, state)).state_dict()
    layout = case.make.layout(None, state)
    assert all(torch.equal(value, state[layout.released(k)].float()) for k, value in own.items())


def test_bert_files_with_the_older_names_of_a_normalization(tmp_path):
    bert = write_entities(tmp_path)
    folder, ids = tmp_path / "bioclinicalbert", torch.tensor([[2, 8, 9, 3]])
    wanted = pretrained_bert(folder)[0](ids).last_hidden_state
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    pattern = re.compile("|".join(names))
    old = {pattern.sub(lambda found: names[found[0]], name): value for name, value in bert.items()}
    torch.save(old, folder / "pytorch_model.bin")
    assert torch.equal(pretrained_bert(folder)[0](ids).last_hidden_state, wanted)
    torch.save({k: v for k, v in bert.items() if "query" not in k}, folder / "pytorch_model.bin")
    says = r"missing: bert\.encoder\.layer\.0\.attention\.self\.query"
    with pytest.raises(InputError, match=says):
        pretrained_bert(folder)


def test_medslip_refuses_medklips_file_and_has_the_size_that_the_hub_states(tmp_path):
    (dual,) = CASES["medslip"].states()
    # huggingface.co/pykale/MeDSLIP lists MeDSLIP_resnet50.pth with 85.2 MB: the weights alone
    file = tmp_path / MeDSLIP.weights[0]
    torch.save({"model": dual}, file)
    assert file.stat().st_size / 1e6 == pytest.approx(85.2, abs=0.05)
    write_entities(tmp_path)
    torch.save({k: v for k, v in dual.items() if "mask" not in k}, file)
    with pytest.raises(InputError, match=r"missing: mask_generator\.weight, mask_generator\.bias"):
        MeDSLIP.load(tmp_path)
    (tmp_path / TEXTS).write_text("{}", "utf-8")
    with pytest.raises(InputError, match="got 0"):
        MeDSLIP.load(tmp_path)
