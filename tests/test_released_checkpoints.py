"""Training checkpoints: the weights come out, nothing is executed, what is foreign is named."""

import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rctpl_utils.baselines.released.base import released_names
from rctpl_utils.encoders.checkpoint import Blank, read_state
from rctpl_utils.errors import InputError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([7.0, 8.0])}
NAME = "model.ckpt"


def read(folder: Path) -> dict[str, torch.Tensor]:
    return read_state(folder, released_names(NAME))


def lightning(**more: object) -> dict[str, object]:
    """A checkpoint as PyTorch Lightning 1.1 writes it."""
    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.1.4",
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}],
        "lr_schedulers": [{"best": 1.5, "patience": 5}],
        "state_dict": STATE,
        **more,
    }


def assert_is_state(found: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(STATE)
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_entry_is_taken_out(tmp_path, zipped):
    torch.save(lightning(), tmp_path / NAME, _use_new_zipfile_serialization=zipped)
    assert_is_state(read(tmp_path))
    assert_is_state(read(tmp_path / NAME))


def test_weights_alone_are_taken_as_they_are(tmp_path):
    torch.save(STATE, tmp_path / NAME)
    assert_is_state(read(tmp_path))
    (tmp_path / NAME).unlink()
    save_file(STATE, tmp_path / "model.safetensors")
    assert_is_state(read(tmp_path))


@pytest.fixture
def omegaconf(monkeypatch):
    """A library of the name, whose objects say when they are made; gone before the file is read."""
    module = types.ModuleType("omegaconf.dictconfig")
    made = []

    class DictConfig:
        def __init__(self, content):
            self.content = content

        def __reduce__(self):
            return DictConfig, (self.content,)

        def __setstate__(self, state):
            made.append(state)

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module.DictConfig = DictConfig
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    return DictConfig, made, monkeypatch


def test_a_configuration_is_read_as_a_blank_and_not_imported(tmp_path, omegaconf):
    kind, made, monkeypatch = omegaconf
    more = {"hyper_parameters": kind({"lr": 1e-4}), "hparams_type": kind, "kind": int}
    torch.save(lightning(**more), tmp_path / NAME)
    monkeypatch.delitem(sys.modules, "omegaconf.dictconfig")
    monkeypatch.delitem(sys.modules, "omegaconf")
    allowed = set(torch.serialization.get_safe_globals())
    assert_is_state(read(tmp_path))
    assert not made and "omegaconf.dictconfig" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == allowed  # nothing stays so


def test_a_blank_takes_anything_and_keeps_nothing():
    blank = Blank(1, key=2)
    blank.__setstate__({"a": 1})
    assert vars(blank) == {} and not isinstance(blank, dict)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_other_objects_are_refused_and_not_executed(tmp_path, zipped):
    target = tmp_path / "executed"
    torch.save(
        lightning(callbacks=Payload(target)), tmp_path / NAME, _use_new_zipfile_serialization=zipped
    )
    # only the newer format lets the objects be named beforehand
    message = r"pickled objects, .*pathlib" if zipped else "not readable as weights"
    with pytest.raises(InputError, match=message):
        read(tmp_path)
    assert not target.exists()
    torch.load(tmp_path / NAME, weights_only=False)  # the payload does work
    assert target.exists()


def test_builtins_that_could_do_something_are_refused(tmp_path):
    torch.save(lightning(callbacks=eval), tmp_path / NAME)
    with pytest.raises(InputError, match=r"pickled objects, .*eval"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": [1, 2]},
        {"state_dict": {"a": 1}},
        {"state_dict": {3: torch.zeros(1)}},
        {"epoch": 3},
        [torch.zeros(2)],
        torch.zeros(2),
    ],
)
def test_other_than_named_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / NAME)
    with pytest.raises(InputError, match="expected named tensors"):
        read(tmp_path)


def test_a_blank_among_the_weights_is_refused(tmp_path, omegaconf):
    torch.save({"state_dict": STATE | {"b": omegaconf[0](1)}}, tmp_path / NAME)
    with pytest.raises(InputError, match="expected named tensors"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", b"PK\x03\x04"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match=r"model\.ckpt: not readable as weights"):
        read(tmp_path)


def test_a_cut_file_and_a_foreign_archive_are_named(tmp_path):
    torch.save(lightning(), tmp_path / NAME)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not readable as weights"):
        read(tmp_path)
    with zipfile.ZipFile(tmp_path / NAME, "w") as archive:
        archive.writestr("readme.md", "not weights")
    with pytest.raises(InputError, match="not readable as weights"):
        read(tmp_path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none of model\.ckpt, model\.safetensors"):
        read(tmp_path)
