"""Which notebooks run beside each other, with how many threads, and who made which file."""

import os

import pytest
from toy_project import THIRD, manifest_of, start, statuses, write_notebook

from rctpl_utils.errors import InputError
from rctpl_utils.run import schedule
from rctpl_utils.run.command import files_made
from rctpl_utils.run.schedule import find_notebooks, needs_of, number_of, threads_for
from rctpl_utils.workspace import NOTEBOOKS, Workspace

# It ends only if the other runs at the same time: each waits for a file that the other writes.
MEETING = """import time
from pathlib import Path
from rctpl_utils.files import write_text
folder = Path(output) / "figures" / profile
write_text(folder / "{mine}", "here")
for _ in range(600):
    if (folder / "{other}").exists():
        break
    time.sleep(0.1)
else:
    raise TimeoutError("alone")
"""
DATA = ["00_x"]


def write_project(folder, **needs):
    return [write_notebook(folder, f"{name[1:]}_x", "1", needs=of) for name, of in needs.items()]


def by_number(needs):
    return {number_of(one): {number_of(each) for each in all_} for one, all_ in needs.items()}


def test_needs_are_read_from_the_metadata_and_followed(tmp_path):
    """One that says nothing needs all before it; one alone too, and all after it need it."""
    notebooks = write_project(
        tmp_path, n00=[], n01=DATA, n01b=DATA, n02=["01_x"], n04=["02_x", "01b_x"], n05=DATA
    )
    notebooks.append(write_notebook(tmp_path, "06_x"))
    expected = {
        "00": set(), "01": {"00"}, "01b": {"00"}, "02": {"00", "01"},
        "04": {"00", "01", "01b", "02"}, "05": {"00"},
        "06": {"00", "01", "01b", "02", "04", "05"},
    }  # fmt: skip
    assert by_number(needs_of(notebooks)) == expected
    write_notebook(tmp_path, "02_x", needs=["01_x"], alone=True)
    before = {"00", "01", "01b"}
    expected |= {"02": before, "05": {*before, "02"}}
    assert by_number(needs_of(notebooks)) == expected


@pytest.mark.parametrize("name", ["07_x", "02_x", "01_x", "00"])
def test_a_need_that_does_not_come_before_is_refused(tmp_path, name):
    notebooks = write_project(tmp_path, n00=[], n01=[name], n02=[])
    with pytest.raises(InputError, match=f"needs {name}, which do not come before"):
        needs_of(notebooks)


def test_only_notebooks_with_company_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "available_cores", lambda: 6)
    notebooks = write_project(tmp_path, n00=[], n01=DATA, n02=DATA, n04=["01_x", "02_x"])
    needs = needs_of(notebooks)
    for jobs, shares in ((2, [6, 3, 3, 6]), (1, [6, 6, 6, 6]), (9, [6, 1, 1, 6])):
        assert [threads_for(one, needs, jobs) for one in notebooks] == shares


def test_the_projects_notebooks_say_what_they_need():
    needs = by_number(needs_of(find_notebooks(NOTEBOOKS)))
    assert needs["00"] == set()
    assert all("00" in each for number, each in needs.items() if number != "00")
    assert needs["05"] >= {"03", "04", "04b"}
    assert "05" not in needs["06"] and "06" not in needs["05"]
    assert needs["10"] >= {"05", "06", "07", "08", "09"}
    assert needs["04"] >= {"03"} and "04b" not in needs["04"] and "04" not in needs["08"]


def test_independent_notebooks_run_at_the_same_time_and_keep_their_files_apart(project, capsys):
    for name, mine, other in (("01_second", "a", "b"), ("02_third", "b", "a")):
        write_notebook(project, name, MEETING.format(mine=mine, other=other), needs=["00_first"])
    assert start(project, "--jobs", "2") == 0
    printed = capsys.readouterr().out
    assert set(statuses(printed).values()) == {"done"}
    assert "3 notebooks done in " in printed
    cores = schedule.available_cores()
    share, records = max(cores // 2, 1), manifest_of(project)["notebooks"]
    assert {name: (r["threads"], *r["made"]) for name, r in records.items()} == {
        "00_first": (cores, "figures/smoke/first.csv"),
        "01_second": (share, "figures/smoke/a"),
        "02_third": (share, "figures/smoke/b"),
    }
    assert not list(project.parent.rglob("*.writes"))


def test_one_job_keeps_the_order(project, in_process, capsys):
    for name in ("01_second", "02_third"):
        write_notebook(project, name, THIRD, needs=["00_first"])
    assert start(project, "--jobs", "1") == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split(":")[0][6:] for line in printed if ": " in line]
    assert lines[:6] == ["00_first"] * 2 + ["01_second"] * 2 + ["02_third"] * 2


def test_a_failure_lets_the_neighbor_finish_and_starts_no_other(project, in_process, capsys):
    gone = 'import os, time\nwhile not os.path.exists(str(output) + "/gone"): time.sleep(0.1)'
    here = 'open(str(output) + "/gone", "w").close()\nraise ValueError("cold")'
    write_notebook(project, "01_second", gone, needs=["00_first"])
    write_notebook(project, "02_third", here, needs=["00_first"])
    write_notebook(project, "04_fourth", THIRD, needs=["01_second", "02_third"])
    assert start(project, "--jobs", "2") == 1
    captured = capsys.readouterr()
    assert statuses(captured.out) == {
        "00_first": "done", "01_second": "done", "02_third": "failed", "04_fourth": "not reached",
    }  # fmt: skip
    assert "02_third.ipynb failed" in captured.err
    assert "ValueError: cold" in captured.err


def test_files_that_went_again_or_lie_elsewhere_are_not_counted_as_made(tmp_path):
    workspace = Workspace.open("smoke", output=tmp_path)
    kept, elsewhere = workspace.figures / "kept.csv", tmp_path / "elsewhere.csv"
    kept.write_text("x")
    elsewhere.write_text("x")
    writes = tmp_path / "writes"
    lines = [kept, workspace.build / "gone.csv", elsewhere, kept]
    writes.write_text("".join(f"{os.fspath(line)}\n" for line in lines), encoding="utf-8")
    assert files_made(workspace, writes) == ("figures/smoke/kept.csv",)
    assert files_made(workspace, tmp_path / "nothing") == ()
