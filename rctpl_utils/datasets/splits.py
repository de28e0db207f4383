"""A split of a data set, as a run's options and profile ask for it (paper 4.1.2)."""

from rctpl_utils.datasets import ChestXrayDataset, open_dataset
from rctpl_utils.workspace import Workspace


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
