"""The runner on a project of three tiny notebooks: fresh, resumed, failing, busy, refused."""

import base64
import csv
import hashlib
import io
import os
import time
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_output
from PIL import Image
from toy_project import SECOND, THIRD, begin, finish, manifest_of, start, statuses, write_notebook

from rctpl_utils.errors import InputError
from rctpl_utils.run import command as runner
from rctpl_utils.run import execution, schedule
from rctpl_utils.workspace import PROJECT

DONE = {"00_first": "done", "01_second": "done", "02_third": "done"}
REFUSED = [*csv.DictReader((Path(__file__).parent / "cases" / "run_refused.csv").open())]


def test_a_second_run_is_skipped_and_a_change_reaches_what_follows(project, in_process, capsys):
    def run(*options: str) -> dict[str, str]:
        assert start(project, *options) == 0
        return statuses(capsys.readouterr().out)

    assert start(project) == 0
    printed = capsys.readouterr().out
    assert statuses(printed) == DONE
    assert "figures/smoke/: first.csv" in printed and "1 file in build/smoke/" in printed
    assert set(run().values()) == {"up to date"}
    write_notebook(project, "01_second", SECOND + "# changed")
    assert run() == DONE | {"00_first": "up to date"}
    out = project.parent / "out"
    (out / "figures" / "smoke" / "first.csv").unlink()
    assert run() == dict.fromkeys(DONE, "up to date") | {"00_first": "done"}
    next(out.rglob("02_third.done.json")).write_text('{"notebook": "02_thi')  # damaged
    assert run("--only", "02") == {"02_third": "done"}


def test_what_fails_stops_the_run_and_the_next_run_continues_there(project, capsys, request):
    """An error and a kernel that dies, at the same time, are told apart."""
    write_notebook(project, "01_second", "x = 1", "raise ValueError('cold')", needs=["00_first"])
    write_notebook(project, "02_third", "import os", "os._exit(9)", needs=["00_first"])
    write_notebook(project, "03_fourth", THIRD)
    assert start(project, "--jobs", "2") == 1
    captured = capsys.readouterr()
    failed = {"01_second": "failed", "02_third": "failed", "03_fourth": "not reached"}
    assert statuses(captured.out) == {"00_first": "done", **failed}
    for said in ("01_second.ipynb, cell 3 failed", "ValueError: cold", "run the same command again",
                 "02_third.ipynb failed", "Its kernel died without a word; it had used",
                 "Most often the memory ran out"):  # fmt: skip
        assert said in captured.err

    request.getfixturevalue("in_process")
    write_notebook(project, "01_second", SECOND)
    write_notebook(project, "02_third", THIRD)
    assert start(project) == 0
    expected = DONE | {"00_first": "up to date", "03_fourth": "done"}
    assert statuses(capsys.readouterr().out) == expected
    manifest = manifest_of(project)
    assert manifest["simulated"] is True and manifest["seeds"]["runs"] == [0, 1]
    assert manifest["versions"]["python"].split(".")[0] == "3"
    assert manifest["notebooks"]["00_first"]["seconds"] > 0
    assert manifest["notebooks"]["00_first"]["peak_memory_gb"] > 0.01  # a kernel takes 50 MB
    assert manifest["files"] == {"first.csv": hashlib.sha256(b"a,b\n1,2\n").hexdigest()}


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_an_interrupted_run_leaves_no_process_and_resumes(project, in_process, capsys, how):
    if os.name == "nt" and how == "terminate":
        pytest.skip("signals of POSIX")
    note = project.parent / "kernel.pid"
    source = f"import os, pathlib, time\npathlib.Path({str(note)!r}).write_text(str(os.getpid()))"
    assert start(project, "--only", "0") == 0
    write_notebook(project, "01_second", source + "\ntime.sleep(120)")
    process = begin(project)
    kernel = int(wait_for(lambda: note.exists() and note.read_text(encoding="utf-8")))
    family = psutil.Process(process.pid).children(recursive=True)
    assert kernel in [each.pid for each in family] and len(family) > 1  # a worker, at least
    getattr(process, how)()
    killed = 1 if os.name == "nt" else -9
    assert finish(process)[0] == (killed if how == "kill" else 130)
    assert wait_for(lambda: not any(alive(each.pid) for each in family))

    write_notebook(project, "01_second", SECOND)
    capsys.readouterr()
    assert start(project) == 0
    assert statuses(capsys.readouterr().out) == DONE | {"00_first": "up to date"}


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_busy_folder_is_refused_with_the_process_that_holds_it(project, in_process, capsys):
    with runner.exclusive_run(project.parent / "out"):
        assert start(project) == 2
    assert f"busy in this folder (process {os.getpid()})" in capsys.readouterr().err
    assert start(project, "--only", "02") == 0  # free again


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row["options"])
def test_what_cannot_work_is_refused_before_anything_runs(project, capsys, monkeypatch, row):
    monkeypatch.chdir(project)
    (project.parent / "file").write_text("in the way", encoding="utf-8")
    try:
        status = start(project, *row["options"].split())
    except SystemExit as caught:
        status = caught.code
    assert status == 2 and row["says"] in capsys.readouterr().err
    assert not list(project.parent.rglob("*.done.json"))


def test_a_notebook_with_other_parameters_is_refused_before_anything_runs(project, capsys):
    notebook = project / "02_third.ipynb"
    notebook.write_text(notebook.read_text().replace("device = ", "gadget = "))
    assert start(project) == 2
    message = capsys.readouterr().err
    assert "does not know 'device', has 'gadget', which the runner does not set" in message
    assert not list((project.parent / "out").rglob("*.done.json"))


def test_only_and_from_and_force_choose(project, in_process, capsys):
    assert start(project, "--only", "2") == 0
    printed = capsys.readouterr().out
    assert statuses(printed) == {"02_third": "done"}
    assert "note: 00_first is not run yet" in printed
    assert start(project, "--from", "01") == 1  # 01 reads what 00 would have made
    assert statuses(capsys.readouterr().out) == {"01_second": "failed", "02_third": "not reached"}
    assert start(project) == 0
    capsys.readouterr()
    assert start(project, "--only", "02_third", "--only", "0", "--force") == 0
    assert statuses(capsys.readouterr().out) == {"00_first": "done", "02_third": "done"}
    write_notebook(project, "01_second", "1 / 0")
    assert start(project) == 1
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["01_second", "failed"] in rows  # without what it took and made before


def test_a_change_of_the_package_makes_all_run_again(project, in_process, capsys, monkeypatch):
    assert start(project, "--list") == 0
    assert "00_first   not run yet" in capsys.readouterr().out
    assert not list((project.parent / "out").rglob("*.done.json"))
    assert start(project, "--only", "02") == 0
    monkeypatch.setattr(schedule, "package_hash", lambda: "another")
    capsys.readouterr()
    assert start(project, "--list") == 0
    assert "02_third   to be run again" in capsys.readouterr().out


def test_saved_outputs_leave_the_source_as_it_was(project, tmp_path):
    notebook = write_notebook(project, "02_third", THIRD, "'last'")
    before = schedule.source_hash(notebook)
    copy = tmp_path / "copy.ipynb"
    parameters = {"profile": "smoke", "output": str(tmp_path)}
    execution.run_notebook(notebook, copy, parameters, {})
    assert "injected-parameters" in copy.read_text(encoding="utf-8")

    execution.save_outputs(notebook, copy)
    saved = nbformat.read(notebook, as_version=4)
    assert schedule.source_hash(notebook) == before
    assert [cell.cell_type for cell in saved.cells] == ["markdown", "code", "code", "code"]
    assert saved.cells[2].outputs == [new_output("stream", name="stdout", text="2\n")]
    assert saved.cells[3].outputs[0].data["text/plain"] == "'last'"
    assert saved.cells[3].execution_count == saved.cells[3].outputs[0].execution_count == 3
    assert "papermill" not in notebook.read_text(encoding="utf-8")

    write_notebook(project, "02_third", "print(3)")
    with pytest.raises(InputError, match="another version of the notebook"):
        execution.save_outputs(notebook, copy)


def test_package_hash_sees_content_and_names(tmp_path):
    assert schedule.package_hash.__defaults__ == (PROJECT / "rctpl_utils",)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    first = schedule.package_hash(tmp_path)
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"1")
    assert schedule.package_hash(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert schedule.package_hash(tmp_path) != first


def test_saved_pictures_are_smaller_and_keep_every_color():
    slope = np.add.outer(np.arange(100), np.arange(100))[..., None] + np.array([0, 20, 40])
    noisy = np.uint8(slope + np.random.default_rng(0).integers(0, 8, slope.shape))
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "PNG", compress_level=1)
    before = base64.b64encode(buffer.getvalue()).decode()
    after = execution.smaller_png(before)
    assert len(after) < len(before)
    with Image.open(io.BytesIO(base64.b64decode(after))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), noisy)
    assert execution.smaller_png(after) == after
