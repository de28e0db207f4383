"""What a machine may do to a run: kernels, locales, homes, paths, disks, a second run."""

import errno
import json
import os
import sys

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from toy_project import FIRST, SECOND, begin, finish, start, write_notebook

from rctpl_utils.errors import InputError, one_line
from rctpl_utils.files import atomic_path
from rctpl_utils.run.execution import own_kernel


def test_notebooks_run_in_the_runners_own_interpreter(tmp_path, monkeypatch):
    """Another kernel of the same name stands in front of ours."""
    foreign = tmp_path / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["/no/python3"], "display_name": "Python 3", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    def program():
        return KernelSpecManager().get_kernel_spec("python3").argv[0]

    assert program() == "/no/python3"
    with own_kernel():
        assert program() == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path)


def test_an_error_is_one_line_and_a_full_disk_names_its_file(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("before")
    with pytest.raises(OSError, match="No space left") as caught, atomic_path(target) as part:
        part.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = one_line(caught.value)
    assert said.startswith(f"error: {target}: no space left on device. Free some space")
    assert "\n" not in said and target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target], "no part of a file is left"
    own = InputError("no\nfilm", "Look again.", file="a.png")
    assert one_line(own) == "error: a.png: no film. Look again."
    assert "permission denied" in one_line(PermissionError(errno.EACCES, "Permission denied", "/x"))


def test_no_home_no_utf8_and_a_folder_of_umlauts(tmp_path):
    """A home that cannot be written, the C locale, spaces and letters beyond ASCII in the path."""
    project = tmp_path / "Gr\u00f6\u00dfe und Ma\u00df \u80ba" / "notebooks"
    project.parent.mkdir()
    write_notebook(project, "00_first", FIRST, SECOND, "print('l\u00e4sst sich drucken \u80ba')")
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME"), "/dev/null/home")  # for root neither
    status, said = finish(begin(project, **nowhere, LC_ALL="C", LANG="C"))
    assert status == 0, said
    assert (project.parent / "out" / "build" / "smoke" / "second.txt").read_text() == "a,b\n1,2\n"


def test_of_two_runs_at_once_one_runs_and_one_says_so(tmp_path, in_process):
    project = tmp_path / "notebooks"
    write_notebook(project, "00_first", "import time", "time.sleep(1)")
    both = [finish(each) for each in [begin(project) for _ in range(2)]]
    statuses = sorted(status for status, _ in both)
    assert statuses in ([0, 0], [0, 2]), both
    assert statuses == [0, 0] or any("another run" in said for _, said in both), both
    assert start(project) == 0
