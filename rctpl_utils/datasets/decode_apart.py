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
    """The stored values of a DICOM file's frame, as pydicom's `pixel_array`.

    Raises:
        ValueError: the stream is damaged, whether the decoder says so or dies of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pixels.npy"
        child = subprocess.run(
            [sys.executable, "-m", __name__, path, target],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
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
