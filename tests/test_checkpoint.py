"""Released weights: every kind of file, nothing executed, every name accounted for."""

import io
import re
import sys
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from mutations import fuzz, mutated, survives
from released import lightning, prefixed
from safetensors.torch import save, save_file
from tiny_world import table_of_cases
from torch import nn

from rctpl_utils.encoders.checkpoint import (
    SHOWN,
    WEIGHTS,
    Blank,
    Layout,
    match_state,
    read_state,
    released_names,
)
from rctpl_utils.errors import InputError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7.0, 8.0])}


def binary(state: object, **options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def old_form(state: object) -> bytes:
    return binary(state, _use_new_zipfile_serialization=False)


def zip_of(*files: str | tuple[str, bytes]) -> bytes:
    """An archive of files with these names, each with a content or none to speak of."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in files:
            archive.writestr(*((each, "x") if isinstance(each, str) else each))
    return stream.getvalue()


def equal(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


BIN = ("pytorch_model.bin", binary(STATE))
FORMS = {
    "pytorch_model.bin": BIN[1],
    "weights.pt": old_form(STATE),
    "model.safetensors": save(STATE),
    "told by its content, pytorch_model.bin": save(STATE),
    "told by its content, model.safetensors": binary(STATE),
    "the old form, model.safetensors": old_form(STATE),
    "medclip.zip": zip_of("readme.md", (f"medclip/{BIN[0]}", BIN[1])),
    "of a Mac.zip": zip_of(BIN, "__MACOSX/._model.bin", ".DS_Store"),
    "of the old form.zip": zip_of(("pytorch_model.bin", old_form(STATE))),
    "of safetensors.zip": zip_of(("model.safetensors", save(STATE))),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_released_form_gives_the_same_tensors(tmp_path, name):
    file = tmp_path / name.split(", ")[-1]
    file.write_bytes(FORMS[name])
    (tmp_path / "notes.txt").write_text("not weights")
    assert equal(read_state(file))
    if file.name in WEIGHTS:
        assert equal(read_state(tmp_path))
    named = tmp_path / released_names("other.ckpt")[file.suffix == ".safetensors"]
    if file.suffix != ".zip":
        file.rename(named)
        assert equal(read_state(tmp_path, released_names("other.ckpt")))


def test_an_archive_is_read_and_not_unpacked(tmp_path):
    file = tmp_path / "in" / "evil.zip"
    file.parent.mkdir()
    file.write_bytes(zip_of(("../../pytorch_model.bin", binary(STATE))))
    assert equal(read_state(file))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


PAYLOADS = {
    "alone": lambda payload: binary({"a": payload}),
    "beside weights": lambda payload: binary(lightning(STATE, callbacks=payload)),
    "in an archive": lambda payload: zip_of(("pytorch_model.bin", binary({"a": payload}))),
    "of the old form": lambda payload: old_form(lightning(STATE, callbacks=payload)),
}


@pytest.mark.parametrize("form", PAYLOADS)
def test_code_in_a_file_is_not_executed(tmp_path, form):
    target, file = tmp_path / "executed", tmp_path / "weights"
    file.write_bytes(PAYLOADS[form](Payload(target)))
    # only the newer format lets the objects be named beforehand
    named = ".*" if "old" in form else r": it holds pickled objects, .*pathlib"
    with pytest.raises(InputError, match=f"not readable as weights and nothing else{named}"):
        read_state(file)
    assert not target.exists()
    torch.load(io.BytesIO(binary(Payload(target))), weights_only=False)  # the payload does work
    assert target.exists()


def test_a_configuration_is_read_as_a_blank_and_not_imported(tmp_path, monkeypatch):
    """A library of the name, whose objects say when they are made; gone before the file is read."""
    name, made = "omegaconf.dictconfig", []

    class DictConfig:
        __module__ = name

        def __init__(self, content):
            self.content = content

        def __reduce__(self):
            return DictConfig, (self.content,)

        def __setstate__(self, state):
            made.append(state)

    DictConfig.__qualname__ = "DictConfig"
    more = {"hyper_parameters": DictConfig({"lr": 1e-4}), "hparams_type": DictConfig, "kind": int}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, name, types.SimpleNamespace(DictConfig=DictConfig))
        torch.save(lightning(STATE, **more), tmp_path / "weights")
        torch.save({"state_dict": STATE | {"b": DictConfig(1)}}, tmp_path / "among")
    allowed = set(torch.serialization.get_safe_globals())
    assert equal(read_state(tmp_path / "weights"))
    with pytest.raises(InputError, match="expected named tensors"):
        read_state(tmp_path / "among")
    assert not made and name not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == allowed  # nothing stays so
    blank = Blank(1, key=2)
    blank.__setstate__({"a": 1})
    assert vars(blank) == {} and not isinstance(blank, dict)


def test_what_is_absent_or_ambiguous_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_state(tmp_path / "nowhere")
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"none of pytorch_model\.bin, model\.saf.*there are: \S+2\.bin"
    ):
        read_state(tmp_path)
    (tmp_path / "two.zip").write_bytes(zip_of("a/pytorch_model.bin", "b/pytorch_model.bin"))
    with pytest.raises(InputError, match=r"several files of weights: a/pytorch_model\.bin, b/"):
        read_state(tmp_path / "two.zip")


LAYOUT = Layout({"": "old."}, unused=(r"extra\.\d",), constants={r"ids": torch.arange(3)})


def released() -> dict[str, torch.Tensor]:
    return {f"old.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}


def test_names_are_translated_the_rest_is_dropped_and_every_wrong_name_is_listed():
    state = released() | {"extra.1": torch.zeros(5), "ids": torch.arange(3)}
    found = match_state(nn.Linear(3, 2), state, LAYOUT, "f")
    assert set(found) == {"weight", "bias"}
    assert found["weight"] is state["old.weight"]
    module = nn.ModuleDict({f"m{k}": nn.Linear(2, 1, bias=False) for k in range(8)})
    state = {k: v for k, v in module.state_dict().items() if k[1] not in "257"}
    state |= {name: torch.zeros(1) for name in ("z", "m2", "m2.bias")}
    says = "; missing: m2.weight, m5.weight, m7.weight; unexpected: z, m2, m2.bias. Give the check"
    with pytest.raises(InputError, match=re.escape(says)):
        match_state(module, state, Layout(), "f")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"ids": torch.arange(1, 4)}, "wrong: ids is not what the architecture fixes"),
        ({"old.bias": torch.zeros(4)}, "old.bias has shape (4,), not (2,)"),
        ({"old.bias": torch.tensor([0, torch.nan])}, "old.bias holds other than finite numbers"),
        ({"old.bias": torch.tensor([torch.inf, 0]).half()}, "old.bias holds other than finite"),
        ({"old.weight": torch.zeros(2, 3).to_sparse()}, "old.weight holds other than finite"),
        ({"old.bias": torch.zeros(2).to(torch.int8)}, "old.bias is torch.int8, not torch.float32"),
        ({f"x{k}": torch.zeros(1) for k in range(SHOWN + 5)}, f"x{SHOWN - 1} and 5 more"),
    ],
)
def test_what_does_not_fit_is_told(other, message):
    with pytest.raises(InputError, match=re.escape(message)):
        match_state(nn.Linear(3, 2), released() | other, LAYOUT, "f")


def test_a_constant_that_the_module_stores_too_keeps_its_own_value():
    module = nn.Linear(3, 2)
    module.register_buffer("index", torch.arange(3))
    state = {name: torch.zeros_like(v) for name, v in nn.Linear(3, 2).state_dict().items()}
    found = match_state(module, state, Layout(constants={"index": torch.arange(3)}), "f")
    assert torch.equal(found["index"], torch.arange(3))
    module.load_state_dict(found)


TOWER = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
TOWER_LAYOUT = Layout({"": "text_model."}, unused=(r"logit_scale",))
PLAIN = {f"text_model.{name}": value for name, value in TOWER.state_dict().items()}
PLAIN["logit_scale"] = torch.tensor(2.0)


def under(prefix: str) -> dict[str, torch.Tensor]:
    return prefixed(prefix, PLAIN)


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}
NAMED_OPTIMIZER = {"state": {"a": {"exp_avg": torch.ones(2)}}}
WRAPPED = {
    "as it is": PLAIN,
    "state_dict": {"state_dict": PLAIN, "epoch": 3},
    "Lightning": {"state_dict": under("model."), "callbacks": {}, "optimizer_states": [OPTIMIZER]},
    "Lightning, deep": {"state_dict": under("model.clip_model.net."), "loops": {"fit_loop": {}}},
    "model": {"model": PLAIN, "optimizer": OPTIMIZER, "lr_scheduler": {"last": torch.ones(1)}},
    "an optimizer by name": {"model": PLAIN, "optimizer": NAMED_OPTIMIZER},
    "model_state_dict": {"model_state_dict": PLAIN, "loss": torch.tensor(0.5), "epoch": 2},
    "an entry in an entry": {"checkpoint": {"net": PLAIN}, "arch": "resnet50"},
    "any other entry": {"weights": PLAIN},
    "module.": under("module."),
    "module. twice": under("module.module."),
    "torch.compile": under("_orig_mod."),
    "torch.compile of a part": {k.replace(".", "._orig_mod.", 1): v for k, v in PLAIN.items()},
    "compiled and parallel": {"state_dict": under("module._orig_mod.")},
    "parallel and compiled": {"state_dict": under("_orig_mod.module.")},
    "FSDP": under("_fsdp_wrapped_module.model."),
    "Lightning, parallel": {"state_dict": under("model.module.")},
    "parameters": {name: nn.Parameter(value) for name, value in PLAIN.items()},
    "beside numbers and texts": PLAIN | {"epoch": 3, "version": "1.0", "arguments": None},
    "numbers in the entry": {"state_dict": PLAIN | {"epoch": 3}},
    "beside its optimizer": PLAIN | {"optimizer": OPTIMIZER},
    "beside measures": {"model": PLAIN, "metrics": {"auc": torch.tensor(0.5), "epoch": 3}},
    "turned in memory": {k: v.T.contiguous().T if v.dim() == 2 else v for k, v in PLAIN.items()},
    "bfloat16": {name: value.bfloat16() for name, value in PLAIN.items()},
    "half precision": {name: value.half() for name, value in PLAIN.items()},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", WRAPPED)
def test_weights_are_found_in_every_wrapping(tmp_path, form, zipped):
    file = tmp_path / "weights.pt"
    torch.save(WRAPPED[form], file, _use_new_zipfile_serialization=zipped)
    found = match_state(TOWER, read_state(file), TOWER_LAYOUT, file)
    assert found.keys() == TOWER.state_dict().keys()
    for name, value in TOWER.state_dict().items():
        kinds = {"half precision": torch.half, "bfloat16": torch.bfloat16}
        assert torch.equal(found[name], value.to(kinds.get(form, torch.float)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": PLAIN, "model_ema": PLAIN}, "several sets of weights: model, model_ema"),
        ({"state_dict": {"student": PLAIN, "teacher": PLAIN}}, "state_dict.student, state_dict.te"),
        (under("student.") | under("teacher."), "under 'student.' and 'teacher.'"),
        (PLAIN | {"_orig_mod.logit_scale": torch.zeros(())}, "a wrapper's prefix only"),
        (under("model.") | {"head.weight": torch.zeros(1)}, "unexpected: head.weight"),
        ({k: v for k, v in under("model.").items() if "1.bias" not in k},
         "missing: text_model.1.bias. "),
        ({k: v.to(torch.int8) for k, v in PLAIN.items()}, "0.weight is torch.int8, not torch.fl"),
        *[(other, "expected named tensors") for other in (
            {"state_dict": {}}, {"state_dict": [1, 2]}, {"state_dict": {"a": 1}},
            {"state_dict": {3: torch.zeros(1)}}, {"optimizer": NAMED_OPTIMIZER}, [PLAIN],
            {"a": 1}, {3: torch.zeros(1)}, torch.zeros(2),
        )],
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_short_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        match_state(TOWER, read_state(tmp_path / "weights.pt"), TOWER_LAYOUT, "f")
    assert "Download" not in str(caught.value) or "expected" in message


def script() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(TOWER), stream)
    return stream.getvalue()


def plain_files() -> Iterator[tuple[bytes, str]]:
    for text, zeros, packed_as, message in table_of_cases("no_weights"):
        content = text.encode().decode("unicode_escape").encode("latin-1") + bytes(int(zeros or 0))
        yield (
            (zip_of(*((n, content) for n in packed_as.split())) if packed_as else content),
            message,
        )


OTHERS = [
    *plain_files(),
    (binary(STATE)[:200], "not readable as weights"),
    (zip_of(), "a zip archive of "),
    (binary([STATE]), "expected named tensors.*save the weights alone"),
    (binary({}), "expected named tensors"),
    (binary(nn.Linear(1, 1)), "it holds pickled objects.*torch.nn.*save the weights alone"),
    (binary(lightning(STATE, callbacks=eval)), "it holds pickled objects, .*eval"),
    (binary(lightning(STATE))[:700], "not readable as weights"),
    (script(), "a TorchScript archive.*torch.jit.load"),
]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize(("content", "message"), OTHERS, ids=[message for _, message in OTHERS])
def test_what_is_no_weights_is_called_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=rf"{name}: .*{message}"):
            read_state(path)


def test_safetensors_beside_the_same_pickle(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(binary(STATE))
    tied = {"a.weight": STATE["a.weight"]}  # safetensors keeps a tensor of two names once
    save_file(tied, tmp_path / "model.safetensors")
    assert read_state(tmp_path).keys() == STATE.keys()
    others = [{"a.weight": v} for v in (torch.zeros(2, 3), torch.arange(6), torch.zeros(3))]
    for other in (*others, {"b": torch.zeros(1)}):
        save_file(other, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=r"safetensors: other weights than in pytorch_mod.*Ke"):
            read_state(tmp_path)


@given(mutated(binary(STATE), binary({"state_dict": STATE}), save(STATE), zip_of("a"), b"{}"))
@fuzz
def test_mutated_weights_are_read_or_named(tmp_path, content):
    survives(read_state, tmp_path / "pytorch_model.bin", content)
