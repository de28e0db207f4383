"""The runner on a project of three tiny notebooks: fresh, resumed, failing, busy, refused."""

import base64
import hashlib
import io
import json
import os
import time

import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_output
from PIL import Image
from toy_project import SECOND, THIRD, InProcess, begin, finish, start, statuses, write_notebook

from rctpl_utils.errors import InputError
from rctpl_utils.run import command as runner
from rctpl_utils.run import execution, schedule
from rctpl_utils.run.command import exclusive_run
from rctpl_utils.workspace import PROJECT


def test_a_second_run_is_skipped_and_a_change_reaches_what_follows(project, in_process, capsys):
    assert start(project) == 0
    printed = capsys.readouterr().out
    assert statuses(printed) == {"00_first": "done", "01_second": "done", "02_third": "done"}
    assert "figures/smoke/: first.csv" in printed
    assert "1 file in build/smoke/" in printed

    assert start(project) == 0
    assert set(statuses(capsys.readouterr().out).values()) == {"up to date"}

    write_notebook(project, "01_second", SECOND + "# changed")
    assert start(project) == 0
    again = statuses(capsys.readouterr().out)
    assert again == {"00_first": "up to date", "01_second": "done", "02_third": "done"}

    (project.parent / "out" / "figures" / "smoke" / "first.csv").unlink()
    assert start(project) == 0
    again = statuses(capsys.readouterr().out)
    assert again == {"00_first": "done", "01_second": "up to date", "02_third": "up to date"}

    marker = next((project.parent / "out").rglob("02_third.done.json"))
    marker.write_text('{"notebook": "02_thi', encoding="utf-8")  # damaged
    assert start(project, "--only", "02") == 0
    assert statuses(capsys.readouterr().out) == {"02_third": "done"}


def test_a_failing_notebook_stops_the_run_and_the_next_run_continues_there(
    project, capsys, monkeypatch
):
    write_notebook(project, "01_second", "x = 1", "raise ValueError('the tube is cold')")
    assert start(project) == 1
    captured = capsys.readouterr()
    assert statuses(captured.out) == {
        "00_first": "done",
        "01_second": "failed",
        "02_third": "not reached",
    }
    assert "01_second.ipynb, cell 3 failed" in captured.err
    assert "ValueError: the tube is cold" in captured.err
    assert "run the same command again" in captured.err

    monkeypatch.setattr(runner, "workers", InProcess)
    write_notebook(project, "01_second", SECOND)
    assert start(project) == 0
    again = statuses(capsys.readouterr().out)
    assert again == {"00_first": "up to date", "01_second": "done", "02_third": "done"}

    # The manifest tells versions, hashes and costs.
    manifest = json.loads(
        (project.parent / "out/figures/smoke/manifest.json").read_text(encoding="utf-8")
    )
    assert manifest["simulated"] is True
    assert manifest["seeds"]["runs"] == [0, 1]
    assert manifest["versions"]["python"].split(".")[0] == "3"
    assert manifest["notebooks"]["00_first"]["seconds"] > 0
    assert manifest["notebooks"]["00_first"]["peak_memory_gb"] > 0.01  # a kernel takes 50 MB
    digest = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    assert manifest["files"] == {"first.csv": digest}


def test_a_kernel_that_dies_is_told_apart_from_an_error(project, capsys):
    write_notebook(project, "00_first", "import os", "os._exit(9)")
    assert start(project) == 1
    captured = capsys.readouterr()
    assert statuses(captured.out)["00_first"] == "failed"
    assert "Its kernel died without a word; it had used" in captured.err
    assert "Most often the memory ran out" in captured.err


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
    expected = {"00_first": "up to date", "01_second": "done", "02_third": "done"}
    assert statuses(capsys.readouterr().out) == expected


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
    with exclusive_run(project.parent / "out"):
        assert start(project) == 2
    message = capsys.readouterr().err
    assert f"busy in this folder (process {os.getpid()})" in message
    assert start(project, "--only", "02") == 0  # free again


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only", "77"], "--only 77 matches no notebook. There are: 00_first, 01_second"),
        (["--from", "x"], "--from x matches no notebook"),
        (
            ["--profile", "big"],
            "no profile 'big'. Choose one of: embedded, paper, paper-vit, release, retrained",
        ),
        (["--profile", "paper"], "needs a data root. Give it with --data-root DIR"),
        (["--profile", "paper", "--data-root", "nowhere"], "the data root does not exist"),
        (["--profile", "paper", "--data-root", "."], "needs a checkpoint. Give it with"),
        (
            ["--profile", "paper", "--data-root", ".", "--checkpoint", "."],
            "does not hold its text model's configuration",
        ),
        (["--data-root", "."], "makes its own data"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--save-outputs"], "keeps the outputs of profile embedded"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(project, capsys, options, says):
    assert start(project, *options) == 2
    assert says in capsys.readouterr().err
    assert not list((project.parent / "out").rglob("*.done.json"))


@pytest.mark.parametrize("options", [["--profil", "smoke"], ["--only", "1", "--from", "1"]])
def test_unknown_and_contradicting_options_are_refused(project, capsys, options):
    with pytest.raises(SystemExit) as caught:
        start(project, *options)
    assert caught.value.code == 2
    assert "See ./run_all.sh --help" in capsys.readouterr().err


def test_an_unwritable_folder_is_refused(project, capsys, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert runner.main(["--profile", "smoke", "--output", str(tmp_path / "file")], project) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_notebook_with_other_parameters_is_refused_before_anything_runs(project, capsys):
    write_notebook(project, "02_third", THIRD, device="gadget = 1")
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
