"""What the doctor looks at besides data: the frozen encoder's weights and the machine."""

import platform
import shutil
from pathlib import Path

import psutil
import torch

from rctpl_utils.encoders.loading import check_checkpoint
from rctpl_utils.encoders.weight_files import weights_files
from rctpl_utils.profiles import PROFILES
from rctpl_utils.run.doctor_checks import ABSENT, COMPLETE, UNUSABLE, Finding, attempt
from rctpl_utils.workspace import choose_device


def check_weights(path: Path | None, profile: str = "paper") -> Finding:
    """The frozen encoder of a profile: all of loading it except building the model.

    Args:
        path: a file, a folder or an archive as `encoders.checkpoint` reads it.
        profile: one that reads a checkpoint.
    """
    kind = PROFILES[profile].encoder
    title = f"{kind} (Wang et al., EMNLP 2022), with BioClinicalBERT's vocabulary beside it"
    terms = (
        ("licence", "the repositories' terms; not verified"),
        (
            "get",
            "https://github.com/RyanWangZf/MedCLIP (`MedCLIPModel.from_pretrained` fetches it)",
        ),
    )
    if path is None:
        return Finding("checkpoint", title, ABSENT, (("give", "--checkpoint FILE"), *terms))
    problems: list[str] = []
    files = attempt(problems, weights_files, path)
    attempt(problems, check_checkpoint, kind, path)
    if files is None or problems:
        return Finding("checkpoint", title, UNUSABLE, (("problem", problems[0]), *terms))
    file = files[0]
    fact = ("file", f"{file.name}, {file.stat().st_size / 1e6:,.0f} MB, every name and shape fits")
    return Finding("checkpoint", title, COMPLETE, (fact, *terms), ("checkpoint",))


def machine(data_root: Path) -> tuple[tuple[str, str], ...]:
    """Python, torch, the device, memory and disk, as (label, text) pairs."""
    device = choose_device()
    shown = str(device)
    if device.type == "cuda":
        cards = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        shown += ": " + ", ".join(f"{c.name} ({c.total_memory / 1e9:.0f} GB)" for c in cards)
    memory = psutil.virtual_memory()
    place = next(folder for folder in (data_root, *data_root.parents) if folder.exists())
    return (
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("device", shown),
        ("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"),
        ("disk", f"{shutil.disk_usage(place).free / 1e9:,.0f} GB free at {place}"),
    )
