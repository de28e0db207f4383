"""Draws all the world's cases from the real sources, each of which is read once a process."""

from functools import cache

import numpy as np

from rctpl_utils.datasets.openi import OpenIReport, openi_archive, read_openi
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation.casebook import Casebook
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.geometry import Geometry
from rctpl_utils.simulation.illustrator import Illustrator
from rctpl_utils.simulation.label_tables import chestxray14_patients
from rctpl_utils.simulation.mimic_cases import (
    Study,
    mimic_films,
    real_studies,
    reported_places,
    select_studies,
    templated_studies,
)

ENOUGH = (
    80  # training reports of a concept in a world of all reports; with fewer, templates fill up
)


@cache
def openi_reports() -> tuple[OpenIReport, ...]:
    """The Open-I reports."""
    return tuple(read_openi(openi_archive()))


@cache
def load_illustrator() -> Illustrator:
    """Places lesions as the real annotations and codes do."""
    return Illustrator(Geometry.load(), reported_places(openi_reports()))


def test_set_cases(name: str, size: WorldSize) -> list[Case]:
    """The films of a test set and its validation split, by the name of its layout."""
    return getattr(Casebook(size, load_illustrator()), name.replace("-", "_"))()


def training_films(size: WorldSize) -> list[tuple[Study, Case]]:
    """The films of the training studies, real and templated."""
    rng, illustrator = np.random.default_rng([size.seed, 0]), load_illustrator()
    everything = real_studies(openi_reports())
    studies = select_studies(everything, size.studies)
    enough = max(2, round(ENOUGH * len(studies) / len(everything)))
    companions = [labels for patient in chestxray14_patients() for labels in patient if labels]
    made = templated_studies(studies, enough, companions, illustrator, rng)
    return mimic_films([*studies, *made], size.pretraining, illustrator, rng)
