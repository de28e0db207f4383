"""The release: what is frozen is shipped, and checked before it is used.

`data/release/` holds the stand-ins, the eight baselines trained on each, and the supervised
references, one safetensors file a model and seed, matrices in half precision. `manifest.json`
says of each what it was trained on, for how long, its learning curve, its SHA-256, and what it
answers to a fixed probe: weights that answer otherwise were made for other code.
`simulation.stand_ins` makes all of it. What is absent, damaged or another's raises an InputError.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, read_json, sha256_file, write_json
from rctpl_utils.workspace import PACKAGE_DATA

RELEASE = PACKAGE_DATA / "release"
MANIFEST = "manifest.json"
SAME = 2e-3  # how far answers to a probe may differ, another processor's rounding included
CURE = (
    "Released weights: restore them (git checkout, or install the package again), or train anew "
    "with --retrain. A run's own: run notebooks 03 and 04b."
)


def manifest(folder: Path = RELEASE) -> dict[str, Any]:
    """What a release says of itself."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError("there are no weights", CURE, file=path)
    try:
        return read_json(path)
    except ValueError as error:
        raise InputError(f"not a release's manifest ({error})", CURE, file=path) from error


def released_file(name: str, folder: Path = RELEASE) -> Path:
    """A released file, its size and hash verified against the manifest."""
    files = manifest(folder)["files"]
    path = folder / name
    if name not in files:
        raise InputError(f"the release has no {name}", CURE, file=folder / MANIFEST)
    if not path.is_file():
        raise InputError("the released weights are not there", CURE, file=path)
    size, wanted = path.stat().st_size, files[name]["bytes"]
    if size < wanted:
        raise InputError(f"truncated: {size} of {wanted} bytes", CURE, file=path)
    if sha256_file(path) != files[name]["sha256"]:
        raise InputError("its SHA-256 is not the manifest's", CURE, file=path)
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, half precision as single."""
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise InputError(f"not a file of weights ({error})", CURE, file=path) from error
    return {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}


def fit(model: torch.nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a model of their architecture."""
    own = model.state_dict()
    unlike = [name for name, value in own.items()
              if name not in weights or weights[name].shape != value.shape]  # fmt: skip
    unlike += [name for name in weights if name not in own]
    if unlike:
        problem = f"weights of another architecture ({unlike[0]} and {len(unlike) - 1} more)"
        raise InputError(problem, CURE, file=path)
    model.load_state_dict(weights)


def add_file(folder: Path, name: str, weights: Mapping[str, Tensor], notes: Mapping[str, Any],
             answer: Callable[[Path], np.ndarray]) -> None:  # fmt: skip
    """Add a model to a release, or replace it: the file first, then the manifest that names it.

    `notes` has kind, seed, views, seconds, curve and more; `answer` gives from the written file
    what its model answers to the probe. Matrices are stored in half precision.
    """
    path, stored = folder / name, {}
    for key, value in weights.items():
        value = value.detach().cpu().contiguous()
        stored[key] = value.half() if value.is_floating_point() and value.ndim >= 2 else value
    with atomic_path(path) as temporary:
        save_file(stored, temporary)
    _note(path, notes, probe=[round(float(value), 5) for value in answer(path)])


def add_plain(folder: Path, source: Path, notes: Mapping[str, Any]) -> None:
    """Add a file as it is to a release, or replace it: a small one, without a probe."""
    path = folder / source.name
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
    _note(path, notes)


def _note(path: Path, notes: Mapping[str, Any], **more: Any) -> None:
    """Put a file into the manifest beside it."""
    known = manifest(path.parent) if (path.parent / MANIFEST).is_file() else {"files": {}}
    size = path.stat().st_size
    known["files"][path.name] = {**notes, "sha256": sha256_file(path), "bytes": size, **more}
    known["files"] = dict(sorted(known["files"].items()))
    write_json(path.parent / MANIFEST, known)


def is_current(folder: Path, name: str, key: str) -> bool:
    """Whether a folder of weights holds a file that was made from what `key` stands for."""
    if not (folder / MANIFEST).is_file():
        return False
    notes = manifest(folder)["files"].get(name, {})
    path = folder / name
    return notes.get("key") == key and path.is_file() and sha256_file(path) == notes["sha256"]


def check_probe(name: str, answer: np.ndarray, folder: Path = RELEASE) -> None:
    """Compare what a loaded model answers to the probe with what it answered when it was made."""
    wanted = np.array(manifest(folder)["files"][name]["probe"])
    far = np.abs(answer - wanted).max() if answer.shape == wanted.shape else np.inf
    if not far <= SAME:
        raise InputError(
            f"made for other code: it answers a probe {far:.3g} away from what it did then",
            "Use the version of this package that made it, or train anew with --retrain.",
            file=folder / name,
        )


def probe_films(side: int) -> Tensor:
    """Two made-up films for probes, smooth and not alike: (2, 1, side, side), standardized."""
    line = torch.linspace(-1, 1, side)
    across, down = line.expand(side, side), line[:, None].expand(side, side)
    films = torch.stack([torch.sin(5 * across) * down, torch.cos(7 * down + across)])
    films = (films - films.mean(dim=(1, 2), keepdim=True)) / films.std(dim=(1, 2), keepdim=True)
    return films[:, None]
