"""Released weights: what is verified, what is refused, and that what is shipped is in order."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from weights import save_stand_in

from rctpl_utils.baselines.miniatures import MINIATURES, load_miniature, weights_name
from rctpl_utils.baselines.supervised import load_reference, reference_name
from rctpl_utils.encoders.release import MANIFEST, RELEASE, is_current, manifest, released_file
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json, sha256_file, write_json
from rctpl_utils.profiles import get_profile
from rctpl_utils.simulation.stand_ins import publish, stand_in_name

NAME = stand_in_name(0)


@pytest.fixture
def folder(encoder, tmp_path):
    save_stand_in(encoder, tmp_path / "made" / NAME)
    return tmp_path / "made"


def change(folder, **notes):
    about = read_json(folder / MANIFEST)
    about["files"][NAME] |= notes
    write_json(folder / MANIFEST, about)


def refused(path, says):
    with pytest.raises(InputError, match=says):
        StandIn.load(path)


def test_without_a_manifest_there_is_no_release(tmp_path):
    refused(tmp_path / NAME, "no weights")
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(InputError, match="not a release"):
        manifest(tmp_path)


def test_an_absent_a_truncated_a_changed_and_an_unfit_file_are_named(folder):
    path, whole = folder / NAME, (folder / NAME).read_bytes()
    state, answer = load(whole), read_json(folder / MANIFEST)["files"][NAME]["probe"]
    refused(folder / "standin-9.safetensors", "the release has no standin-9")
    path.write_bytes(whole[:-10])
    refused(path, f"truncated: {len(whole) - 10} of {len(whole)} bytes")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(path, "SHA-256")
    path.write_bytes(whole)
    change(folder, probe=[answer[0] + 0.01, *answer[1:]])
    refused(path, "made for other code")
    save_file(state | {"text.projection.weight": torch.zeros(3, 384)}, path)
    change(folder, sha256=sha256_file(path), bytes=path.stat().st_size)
    refused(path, "another architecture")
    path.write_bytes(b"not safetensors")
    change(folder, sha256=sha256_file(path), bytes=15)
    refused(path, "not a file of weights")
    path.unlink()
    refused(path, "not there")


def test_what_is_current_depends_on_key_and_bytes(folder):
    change(folder, key="k")
    assert is_current(folder, NAME, "k") and not is_current(folder, NAME, "other")
    (folder / NAME).write_bytes(b"damaged")
    assert not is_current(folder, NAME, "k")
    assert not is_current(folder / "nowhere", NAME, "k")


def test_publishing_replaces_the_release_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    target = tmp_path / "release"

    def hashes():
        return {path.name: sha256_file(path) for path in target.iterdir()}

    publish(folder, target)
    before = hashes()
    assert set(before) == {NAME, MANIFEST}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space"):
            publish(folder, target)
    assert hashes() == before
    (folder / NAME).write_bytes(b"damaged")
    with pytest.raises(InputError):
        publish(folder, target)
    assert hashes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "release"]


def test_what_is_shipped_is_whole_and_small_and_says_what_it_was_trained_on():
    seeds, files = get_profile("embedded").seeds, manifest()["files"]
    wanted = {name(seed) for name in (stand_in_name, reference_name) for seed in seeds}
    wanted |= {weights_name(make, seed) for make in MINIATURES for seed in seeds}
    learners = ("tai-dpt", "coop-1", "coop-16", "dualcoop-1", "dualcoop-16")
    wanted |= {f"{slug}-{seed}.safetensors" for slug in learners for seed in seeds}
    wanted |= {f"{slug}.peer.json" for slug in learners}
    assert set(files) == wanted
    paths = [released_file(name) for name in wanted]
    assert sum(path.stat().st_size for path in RELEASE.iterdir()) < 40e6
    assert {path.name for path in RELEASE.iterdir()} == {MANIFEST, *(path.name for path in paths)}
    for name, notes in files.items():
        if notes["kind"] == "prompt learner":
            continue  # its record is a file of its own
        assert {"kind", "seed", "views", "seconds", "device", "curve", "trained_on"} <= set(notes)
        assert notes["curve"][-1]["views"] >= notes["views"] > 0, name


def test_what_is_shipped_opens_with_the_code_beside_it():
    encoder = StandIn.load(RELEASE / NAME)
    for make in MINIATURES:
        model = load_miniature(make, encoder, 0, RELEASE)
        assert not any(each.requires_grad for each in model.parameters())
    network = load_reference(encoder, 0, RELEASE).network
    assert np.isfinite(network.head.weight.numpy()).all()
