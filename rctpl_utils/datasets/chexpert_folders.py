"""Where CheXpert's tables and patients lie: in the small set, or in the full one as it is unpacked.

The full set comes in four archives: "CheXpert-v1.0 batch 1 (validate & csv)" has the tables and
`valid/`, "... batch 2 (train 1)" and so on have the training patients, without `train/` above them.
"""

from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.given_files import child, folders_in

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", ".")


def find_home(root: Path) -> Path:
    """The folder with `train.csv` or `valid.csv`: one of `FOLDERS`, or at most two levels down.

    Raises:
        InputError: there is none.
    """
    tops = folders_in(root)
    inner = [folder for top in tops for folder in folders_in(top)]
    for folder in [*(child(root, name) for name in FOLDERS), *tops, *inner]:
        if any(child(folder, f"{part}.csv").is_file() for part in ("train", "valid")):
            return folder
    cure = f"Put {FOLDERS[0]}/ or {FOLDERS[1]}/ with its train.csv and valid.csv there."
    raise InputError("no CheXpert tables", cure, file=root)


def batched_patients(home: Path) -> dict[str, str]:
    """Part and patient ("train/patient00001") -> folder, of the full set's "batch" folders."""
    near = [*folders_in(home), *folders_in(home.parent)]
    found: dict[str, str] = {}
    for batch in (folder for folder in near if "batch" in folder.name.casefold()):
        bases = [child(batch, part) for part in ("train", "valid", batch.name)]
        for part, base in zip(("train", "valid", "train", "train"), [*bases, batch], strict=True):
            patients = [each for each in folders_in(base) if each.name.startswith("patient")]
            found |= {f"{part}/{each.name}": each.as_posix() for each in patients}
    return found
