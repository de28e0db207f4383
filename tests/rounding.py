"""Which settings change the last bits of the products that results come from: a look, not a test.

`python tests/rounding.py` runs the image tower's convolutions, MiniLM's matrix products and
NumPy's in fresh processes, once as they are and once under each set of settings (instruction sets,
threads), and prints the largest relative difference from the first.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SETS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE")
AVX2 = dict(zip(SETS, ("avx2", "AVX2", "AVX2", "Haswell"), strict=True))
OLDER = dict(zip(SETS, ("default", "SSE41", "SSE4_2", "Nehalem"), strict=True))
THREADS = {n: {"OMP_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n} for n in ("2", "8")}
SETTINGS = {
    "again": {},
    "AVX2": AVX2,
    "older (SSE4)": OLDER,
    "2 threads": THREADS["2"],
    "8 threads": THREADS["8"],
    "AVX2, 2 threads": AVX2 | THREADS["2"],
}


def measure(target: Path) -> None:
    """Write the products of this process's settings to an .npz file."""
    import torch

    from rctpl_utils.encoders.standin import StandIn
    from rctpl_utils.scoring import concept_scores

    torch.manual_seed(0)
    encoder = StandIn(128).eval()
    films = torch.rand(64, 1, 128, 128)
    texts = [f"There is a {size} effusion, number {k}." for k, size in enumerate(["small"] * 64)]
    left, right = np.random.default_rng(0).normal(size=(2, 1000, 384))
    found = {
        f"NumPy product, {kind.__name__}": left.astype(kind) @ right.astype(kind).T
        for kind in (np.float32, np.float64)
    }
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                kind = str(dtype).removeprefix("torch.")
                image = encoder.image(films)
                found[f"image tower, {kind}"] = image.global_features.float().numpy()
                found[f"image tower's map, {kind}"] = image.dense_features.float().numpy()
                names = encoder.text(texts)
                found[f"MiniLM, {kind}"] = names.float().numpy()
                scores = concept_scores(image.dense_features.flatten(1, 2), names[:20], 1 / 40)
                found[f"scores of films, {kind}"] = scores.float().numpy()
    np.savez(target, **found)


def run(settings: dict[str, str], target: Path) -> dict[str, np.ndarray]:
    """The products of a fresh process with one thread, or what the settings say."""
    given = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **settings}
    subprocess.run([sys.executable, __file__, str(target)], env=given, check=True)
    with np.load(target) as stored:
        return dict(stored)


def main() -> None:
    """Print a line a kind of product, and a column a set of settings."""
    with TemporaryDirectory() as folder:
        plain = run({}, Path(folder) / "plain.npz")
        others = {name: run(each, Path(folder) / "one.npz") for name, each in SETTINGS.items()}
    print(f"{'':28}" + "".join(f"{name:>18}" for name in others))
    for kind, values in plain.items():
        scale = np.abs(values).max()
        cells = [np.abs(each[kind] - values).max() / scale for each in others.values()]
        print(f"{kind:28}" + "".join(f"{cell:18.1e}" for cell in cells))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        main()
