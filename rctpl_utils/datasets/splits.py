"""Which data sets a workspace has, what a run says of those it lacks, and a split of one (4.1.2).

A data set is absent when its folder below the data root does not exist. Its cells in tables are
then "not run", claims on it "not tested", its figures left out, and the rest runs. MIMIC-CXR cannot
be absent: prompts are learned from its reports. Its films are another download, and may be: only a
check of the encoder, the prompt learners with labels and Figure 1 look at them.
"""

from collections.abc import Iterable

from rctpl_utils.datasets import DATASETS, ChestXrayDataset, open_dataset, present_datasets
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.errors import InputError
from rctpl_utils.workspace import Workspace

REPORTS = "mimic-cxr"


def open_split(workspace: Workspace, name: str, split: str) -> ChestXrayDataset:
    """A split of a data set, opened as the run's options and profile say.

    CheXpert's two depend on how many films a class 5x200 takes; of a validation split at most
    `Profile.validation_films` are kept.
    """
    options = {"skip_bad": workspace.skip_bad, "allow_partial": workspace.allow_partial}
    if workspace.profile.world is not None and name in ("chexpert", "chexpert5x200"):
        options["per_class"] = workspace.profile.world.chexpert_5x200
    dataset = open_dataset(name, workspace.data_root, split, **options)
    limit = workspace.profile.validation_films if split == "validation" else None
    return dataset if limit is None else dataset.sample(limit)


def present(workspace: Workspace, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` (in `DATASETS` or `QUESTIONS`) that the workspace has, in their order."""
    names = tuple(names)
    if workspace.profile.simulated:
        return names
    films = {name: QUESTIONS[name].dataset if name in QUESTIONS else name for name in names}
    there = present_datasets(dict.fromkeys(films.values()), workspace.data_root)
    return tuple(name for name in names if films[name] in there)


def absent(workspace: Workspace, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that it lacks, in their order."""
    names = tuple(names)
    there = present(workspace, names)
    return tuple(name for name in names if name not in there)


def can_run(workspace: Workspace, what: str, *names: str) -> bool:
    """Whether the data sets `names` are there; where not, print that `what` is not run."""
    missing = absent(workspace, names)
    if missing:
        print(f"{what}: not run, {absence(missing)}.")
    return not missing


def has_training_films(workspace: Workspace) -> bool:
    """Whether any film of MIMIC-CXR is there."""
    films = (workspace.data_root / DATASETS[REPORTS][0]).glob("files/p*/p*/s*/*.jpg")
    return workspace.profile.simulated or next(films, None) is not None


def can_run_on_training_films(workspace: Workspace, what: str) -> bool:
    """Whether any film of MIMIC-CXR is there; where not, print that `what` is not run."""
    there = has_training_films(workspace)
    if not there:
        print(f"{what}: not run, no film of MIMIC-CXR is there.")
    return there


def absence(names: Iterable[str]) -> str:
    """The reason in words, for one data set or several."""
    names = tuple(names)
    return f"data set{'s' * (len(names) > 1)} {', '.join(names)} absent"


def require_reports(workspace: Workspace) -> None:
    """Refuse a data root without MIMIC-CXR."""
    folder = workspace.data_root / DATASETS[REPORTS][0]
    if absent(workspace, [REPORTS]):
        problem = f"data set {REPORTS!r} is absent, and prompts are learned from its reports"
        cure = "Put it there in its official layout; every other data set may be absent."
        raise InputError(problem, cure, file=folder)
