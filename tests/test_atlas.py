"""The map of tables and figures: made from the manifest alone, and up to date where committed."""

import json
from pathlib import Path

import pytest

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json, replace_section, write_json
from rctpl_utils.run import manifest as atlas
from rctpl_utils.run.manifest import write_manifest
from rctpl_utils.run.schedule import Marker
from rctpl_utils.workspace import PROJECT, Workspace


def manifest(**changes: object) -> dict:
    """A run of two notebooks; one file is gone since, one was made by none of them."""
    made = {
        "05_zero_shot_classification": ("table1.csv", "table1.md", "gone.csv"),
        "06_zero_shot_grounding": ("extra/odd.txt", "table2.csv"),
    }
    notebooks = {
        name: {"seconds": seconds, "made": [f"figures/smoke/{each}" for each in made[name]]}
        for name, seconds in zip(made, (12.4, 3.6), strict=True)
    }
    notebooks["05_zero_shot_classification"]["made"].append("build/smoke/results/t1.parquet")
    files = ("extra/odd.txt", "stray.png", "table2.csv", "table1.md", "table1.csv")
    return {
        "profile": {"name": "smoke"}, "simulated": True, "device": "cpu", "notebooks": notebooks,
        "machine": {"system": "Linux", "cores": 2}, "files": dict.fromkeys(files, ""), **changes,
    }  # fmt: skip


ROWS = [
    "| Table 1 | zero-shot classification | `table1.csv`, `table1.md` "
    "| `05_zero_shot_classification` | `./run_all.sh --only 05` | 12 |",
    "| Table 2 | grounding, RSNA pneumonia | `table2.csv` "
    "| `06_zero_shot_grounding` | `./run_all.sh --only 06` | 4 |",
    "| other |  | `extra/odd.txt` | `06_zero_shot_grounding` | `./run_all.sh --only 06` | 4 |",
    "| other |  | `stray.png` | not recorded | |  |",
]


def rows_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_each_result_is_traced_to_its_notebook():
    table = atlas.map_table(manifest())
    assert rows_of(table)[1:] == ROWS
    assert {line.count("|") for line in table.splitlines()} == {7}  # six cells


def test_the_readme_of_the_figures_holds_every_profile(tmp_path):
    assert "## " not in atlas.figures_readme(tmp_path)
    for name in ("smoke", "embedded"):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "manifest.json", manifest(profile={"name": name}))
    text = atlas.figures_readme(tmp_path)
    assert text.index("## `embedded/`") < text.index("## `smoke/`")
    assert text.count("Simulated radiographs: nothing here was measured on patients.") == 2
    assert ROWS[0] in text
    assert "Real radiographs." in atlas.results_section(manifest(simulated=False))


@pytest.mark.parametrize("text", ["no marker", "S", "ES", "ESE", "SESE", "SSE"])
def test_a_readme_without_its_pair_of_markers_is_refused(text):
    page = text.replace("S", atlas.START).replace("E", atlas.END)
    with pytest.raises(InputError, match="no single pair"):
        replace_section(page, "new", (atlas.START, atlas.END), "the map")


def test_a_run_leaves_the_map_and_touches_no_other_readme_unless_told(tmp_path):
    workspace = Workspace.open("smoke", output=tmp_path, device="cpu")
    (workspace.figures / "table1.csv").write_text("a\n", encoding="utf-8")
    made = ("figures/smoke/table1.csv",)
    write_manifest(workspace, [Marker("05_some", "hash", 1.6, 1, 10**9, made)])
    assert atlas.write_figures_readme(workspace) == tmp_path / "figures" / "README.md"
    text = (tmp_path / "figures" / "README.md").read_text(encoding="utf-8")
    assert "| `table1.csv` | `05_some` | `./run_all.sh --only 05` | 2 |" in text
    readme = tmp_path / "README.md"
    section = atlas.results_section(read_json(workspace.figures / "manifest.json"))
    for before in ("old", section):  # only the text between the markers changes, and only once
        readme.write_text(f"# Title\n{atlas.START}\n{before}\n{atlas.END}\n\nafter\n")
        atlas.write_results_map(workspace, readme)
        now = readme.read_text(encoding="utf-8")
        assert now == f"# Title\n{atlas.START}\n{section}\n{atlas.END}\n\nafter\n"


def committed(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def test_the_committed_maps_are_what_the_manifests_give_and_every_file_is_there():
    stored = json.loads(committed("figures/embedded/manifest.json"))
    shown = committed("RESULTS.md").split(atlas.START)[1].split(atlas.END)[0]
    # but for their seconds, which a run on another machine changes
    shown, expected = (
        [row.rsplit("|", 2)[0] for row in rows_of(text)]
        for text in (shown, atlas.map_table(stored))
    )
    assert shown == expected
    stems = {Path(name).stem for name in stored["files"]}
    assert stems & set(atlas.ITEMS), "the mapping fits no file of the run"
    folder = PROJECT / "figures" / "embedded"
    assert [name for name in stored["files"] if not (folder / name).exists()] == []
    assert committed("figures/README.md") == atlas.figures_readme(PROJECT / "figures")
