"""Decode a film in a process of its own: on some damaged streams GDCM aborts the whole process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom

PLUGIN = "gdcm"


def decode_apart(path: Path) -> np.ndarray:
    """A film's stored values, as pydicom's `pixel_array`; a `ValueError` if the decoder dies."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pixels.npy"
        paths = os.pathsep.join(filter(None, sys.path))
        child = subprocess.run(
            [sys.executable, __file__, path, target],  # not as a module: the package takes longer
            env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if child.returncode:
            said = child.stderr.strip().splitlines()
            raise ValueError(said[-1] if said else f"the decoder died ({child.returncode})")
        return np.load(target)


if __name__ == "__main__":
    dicom = pydicom.dcmread(sys.argv[1], force=True)
    dicom.pixel_array_options(decoding_plugin=PLUGIN, correct_unused_bits=False)
    np.save(sys.argv[2], dicom.pixel_array)
