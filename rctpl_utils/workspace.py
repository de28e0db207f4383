"""The one module that knows paths: where a run reads from and writes to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rctpl_utils.errors import InputError
from rctpl_utils.profiles import Profile, get_profile

if TYPE_CHECKING:  # imported where it is used: rendering workers need no torch
    import torch

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS = PROJECT / "notebooks"
FETCHED = PROJECT / "build" / "cache"  # where run_all.sh puts what it fetches, whatever --output is
PACKAGE_DATA = Path(__file__).resolve().parent / "data"


@dataclass(frozen=True)
class Workspace:
    """A profile with its folders: `build/<profile>/` and `figures/<profile>/`."""

    profile: Profile  # sizes, learning rates, seeds
    output: Path  # holds build/ and figures/ (the project itself by default)
    data_root: Path  # data sets in their official layouts; the embedded world's own by default
    checkpoint: Path | None  # a pre-trained encoder's file; None: the profile makes its own
    device: "torch.device"  # where tensors live; chosen once, here
    skip_bad: bool = False  # real data: leave out bad rows, images, reports; counted and listed
    allow_partial: bool = False  # real data: accept incomplete sets; what is missing is counted

    @classmethod
    def open(
        cls,
        profile: str = "embedded",
        output: str | Path | None = None,
        data_root: str | Path | None = None,
        checkpoint: str | Path | None = None,
        device: str = "auto",
        skip_bad: bool = False,
        allow_partial: bool = False,
    ) -> "Workspace":
        """Check the arguments (an `InputError` says what does not fit) and make the folders."""
        chosen = get_profile(profile)
        output = Path(output).resolve() if output else PROJECT
        if chosen.world is None:
            data_root = _existing(data_root, "data root", "--data-root DIR")
            checkpoint = _existing(checkpoint, "checkpoint", "--checkpoint FILE")
        elif data_root or checkpoint or skip_bad or allow_partial:
            raise InputError(
                f"profile {profile!r} makes its own data and encoder, so --data-root, "
                "--checkpoint, --skip-bad and --allow-partial have no use",
                "Leave them out, or choose --profile paper.",
            )
        else:
            data_root = output / "build" / chosen.name / "world"
        workspace = cls(
            chosen, output, data_root, checkpoint, choose_device(device), skip_bad, allow_partial
        )
        for folder in (workspace.build, workspace.figures):
            folder.mkdir(parents=True, exist_ok=True)
        return workspace

    @property
    def build(self) -> Path:
        """Intermediate files of this profile; safe to delete."""
        return self.output / "build" / self.profile.name

    @property
    def figures(self) -> Path:
        """Tables and figures of this profile."""
        return self.output / "figures" / self.profile.name

    @property
    def cache(self) -> Path:
        """What all profiles share: unpacked sources, projected anatomy."""
        return self.output / "build" / "cache"

    @property
    def executed(self) -> Path:
        """Executed copies of the notebooks and their completion markers."""
        return self.build / "executed"

    @property
    def triplets(self) -> Path:
        """The (concept, location, positive) triplets of the training reports."""
        return self.build / "triplets.parquet"

    @property
    def descriptions(self) -> Path:
        """The knowledge-rich sentences, one row a distinct text."""
        return self.build / "descriptions.parquet"

    @property
    def weights(self) -> Path:
        """The stand-ins, baselines and supervised references with their manifest."""
        source = self.profile.weights
        if source == "package":
            return PACKAGE_DATA / "release"
        name = self.profile.name if source == "self" else source
        return self.output / "build" / name / "weights"

    def encoder(self, seed: int) -> Path:
        """The weights of a seed's frozen stand-in."""
        return self.weights / f"standin-{seed}.safetensors"

    @property
    def features(self) -> Path:
        """Cached text and image features."""
        return self.build / "features"

    @property
    def prompts(self) -> Path:
        """Learned prompts, one small file a method and seed."""
        return self.build / "prompts"

    @property
    def results(self) -> Path:
        """Tidy result rows, one file a notebook."""
        return self.build / "results"


def choose_device(name: str = "auto") -> "torch.device":
    """`auto` takes CUDA, then Apple's MPS, then the CPU; any other name is torch's own."""
    import torch

    has = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, present in has.items() if present)
    kind = name.split(":")[0]
    if not has.get(kind, False):
        present = ", ".join(kind for kind, there in has.items() if there)
        raise InputError(
            f"no device {name!r} on this machine", f"Choose auto or one of: {present}."
        )
    return torch.device(name)


def _existing(path: str | Path | None, what: str, option: str) -> Path:
    if path is None:
        raise InputError(f"this profile needs a {what}", f"Give it with {option}.")
    path = Path(path).expanduser().resolve()
    if not path.exists():
        raise InputError(f"the {what} does not exist", f"Check {option}.", file=path)
    return path
