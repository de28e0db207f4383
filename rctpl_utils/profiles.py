"""The profiles: how much data, which frozen encoder, how long to train.

A profile is a frozen dataclass; `data/profiles.json` holds them. No other module branches on its
name.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json


@dataclass(frozen=True)
class WorldSize:
    """How many simulated radiographs the embedded world holds; sizes in pixels and images."""

    image_size: int = 128
    studies: int = 4000  # real reports, at most; 3,802 can be drawn
    pretraining: int = 0  # simulated MIMIC-CXR films, all splits; at least one a study
    chestxray14: int = 1600  # test images; validation sets are a third of the test set
    chexpert: int = 1200
    chexpert_5x200: int = 200  # images a class
    covidx: int = 900
    rsna: int = 800
    siim: int = 500
    covid_rural: int = 220
    seed: int = 2024


@dataclass(frozen=True)
class Pretraining:
    """How the stand-in for MedCLIP is pre-trained."""

    views: int = 1_536_000  # of films: 75 minutes of two cores
    batch_size: int = 256
    learning_rate: float = 3e-3
    local_weight: float = 1.5  # of the loss on the map's cells
    local_temperature: float = 0.03  # tau of its spatial softmax
    looks: int = 1  # attribute sentences drawn for a film


@dataclass(frozen=True)
class PromptLearning:
    """How the prompts are learned (paper 4.1.5; where the paper is silent, TaI-DPT's values)."""

    context_length: int = 12  # M
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 3e-3
    margin: float = 1.0


@dataclass(frozen=True)
class BaselineTraining:
    """How the paper's baselines are trained on the stand-in's frozen lower layers.

    Views are of films, and multiples of `batch_size`; every method has the same.
    """

    films: int = 30_000  # at most; their cached maps take 3 GB
    views: int = 230_400  # the limit; a method stops before it when its plateau is reached
    look_every: int = 12_800  # views between looks at the validation films
    patience: int = 6  # looks without an improvement of the AUC by `tolerance`: the plateau
    tolerance: float = 0.002
    overfit: float = 0.05  # of AUC, that the last look may be below the best one
    cool_down: int = 51_200  # views after the plateau, in which the rate falls to zero
    batch_size: int = 128
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)  # the first seed chooses, on validation films


@dataclass(frozen=True)
class ReferenceTraining:
    """How the supervised reference is trained, from the stand-in's image tower."""

    views: int = 512_000  # of films
    batch_size: int = 128
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class PromptLearnerTraining:
    """How TaI-DPT, CoOp, CoCoOp and DualCoOp learn: until validation AUC stops improving."""

    labeled: tuple[str, ...] = ("coop", "cocoop", "dualcoop")  # which of those with labels
    shots: tuple[int, ...] = (1, 4, 16)  # labeled films a class
    steps: int = 2000  # at most
    every: int = 20  # steps between two looks at the validation films
    patience: int = 5  # looks without a better one, after which a run ends


@dataclass(frozen=True)
class Profile:
    """One way to run the whole companion."""

    name: str
    encoder: str  # "standin", "medclip-resnet50", "medclip-vit" or "biovil"
    world: WorldSize | None = None  # None: real data under a data root
    pretraining: Pretraining | None = None
    prompts: PromptLearning = field(default_factory=PromptLearning)
    ablations: PromptLearning = field(default_factory=PromptLearning)  # shorter: there are many
    prompt_learners: PromptLearnerTraining = field(default_factory=PromptLearnerTraining)
    baselines: BaselineTraining | None = None  # None: released checkpoints only
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)
    # Whose stand-ins, baselines and references: "package" (the release), "self" (the run trains
    # them), or a profile's name.
    weights: str = "self"
    # Seed k is stand-in k, prompts k, baseline k: intervals hold all that chance touches. A
    # checkpoint is one encoder for all seeds.
    seeds: tuple[int, ...] = (0, 1, 2)
    bootstrap: int = 1000  # resamples behind each 95 % interval
    # At most so many films of a validation split, drawn by a hash of their names; None: all.
    # Only thresholds, calibration and the choice of a rule look at them.
    validation_films: int | None = None

    @property
    def simulated(self) -> bool:
        """Whether the radiographs are simulated, which every table and figure must then say."""
        return self.world is not None


_PARTS = {
    "world": WorldSize,
    "pretraining": Pretraining,
    "prompts": PromptLearning,
    "ablations": PromptLearning,
    "prompt_learners": PromptLearnerTraining,
    "baselines": BaselineTraining,
    "reference": ReferenceTraining,
}


def _read_profiles() -> dict[str, Profile]:
    """The profiles of `data/profiles.json`, each with its own fields or `like` another's."""
    raw = read_json(Path(__file__).parent / "data" / "profiles.json")["profiles"]
    found = {}
    for name, own in raw.items():
        fields = {"name": name}
        for key, value in {**raw.get(own.get("like"), {}), **own}.items():
            if key in _PARTS:
                fields[key] = _PARTS[key](**{k: _frozen(v) for k, v in value.items()})
            elif key not in ("like", "note"):
                fields[key] = _frozen(value)
        found[name] = Profile(**fields)
    return found


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


PROFILES = _read_profiles()


def get_profile(name: str) -> Profile:
    """Look a profile up by name; an unknown name is an `InputError` that lists the known ones."""
    if name not in PROFILES:
        raise InputError(
            f"there is no profile {name!r}", f"Choose one of: {', '.join(sorted(PROFILES))}."
        )
    return PROFILES[name]
