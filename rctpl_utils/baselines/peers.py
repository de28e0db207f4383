"""The prompt learners of a run, on RC-TPL's frozen encoder: learned once, kept by content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file

from rctpl_utils.availability import can_run_on_training_films, has_training_films
from rctpl_utils.baselines import cocoop, coop, dualcoop, tai_dpt
from rctpl_utils.baselines.few_shot import SHOTS, few_shot_films, film_labels
from rctpl_utils.baselines.prompt_learning import PromptModel, PromptSettings
from rctpl_utils.baselines.rows import Competitor, Reader
from rctpl_utils.baselines.tokens import token_corpus
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.features import image_features
from rctpl_utils.files import atomic_path, hash_of
from rctpl_utils.metrics import macro_auc
from rctpl_utils.reports import Report
from rctpl_utils.table1 import open_split
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

Learn = Callable[..., tuple[PromptModel, list[dict[str, float]]]]
# with labels: the class and the function that learns it
_LABELED: dict[str, tuple[type[PromptModel], Learn, PromptSettings]] = {
    "coop": (coop.CoOp, coop.learn_coop, coop.SETTINGS),
    "cocoop": (cocoop.CoCoOp, cocoop.learn_cocoop, cocoop.SETTINGS),
    "dualcoop": (dualcoop.DualCoOp, dualcoop.learn_dualcoop, dualcoop.SETTINGS),
}
_TEXT_ONLY = "tai-dpt"


def learn_peers(
    workspace: Workspace, encoder: Encoder, reports: Sequence[Report], triplets: pd.DataFrame
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Learn all of them for every seed, or find them current.

    A method's rate is chosen once, with the most labels and the first seed.

    Args:
        reports: those of the training split that RC-TPL learns from.
        triplets: of all reports.

    Returns:
        the runs by name (history, rate, rates, unit), and how many labeled films were drawn; none
        where no film of MIMIC-CXR is there.
    """
    if not can_run_on_training_films(workspace, "Prompt learners"):
        return {}, pd.DataFrame(columns=["shots", "seed", "concept", "drawn"])
    seeds = workspace.profile.seeds
    corpus = token_corpus(encoder, list(reports), triplets, TRAINING_CONCEPTS, workspace.features)
    films = open_split(workspace, "mimic-cxr", "train")
    labels = film_labels(films, triplets, TRAINING_CONCEPTS)
    drawn, counts = few_shot_films(
        encoder, films, labels, TRAINING_CONCEPTS, workspace.features, seeds
    )
    shared = _Runs(workspace, encoder)
    runs = dict([shared.run(_TEXT_ONLY, tai_dpt.learn_tai_dpt, tai_dpt.SETTINGS, {
        seed: corpus for seed in seeds
    })])  # fmt: skip
    for slug, (_, learn, settings) in _LABELED.items():
        rate = None
        for shots in sorted(SHOTS, reverse=True):
            data = {seed: drawn[shots, seed] for seed in seeds}
            name, run = shared.run(f"{slug}-{shots}", learn, settings, data, rate)
            runs[name], rate = run, run["rate"]
    return runs, counts


def load_peers(workspace: Workspace, encoder: Encoder) -> list[Competitor]:
    """The learned ones, ready for the tables; none without films of MIMIC-CXR."""
    if not has_training_films(workspace):
        return []
    seeds = workspace.profile.seeds
    films = feature_reader(workspace, encoder)
    rows = [Competitor(tai_dpt.TaIDPT.method, tuple(
        _read(tai_dpt.TaIDPT(encoder, seed), workspace, _TEXT_ONLY, seed) for seed in seeds
    ), films)]  # fmt: skip
    for slug, (kind, _, _) in _LABELED.items():
        for shots in SHOTS:
            models = tuple(
                _read(kind(encoder, seed, shots=shots), workspace, f"{slug}-{shots}", seed)
                for seed in seeds
            )
            rows.append(Competitor(models[0].name, models, films, labeled=shots))
    return rows


def feature_reader(workspace: Workspace, encoder: Encoder) -> Reader:
    """From a data set to its films as the frozen encoder's cached features."""

    def films(dataset: Any) -> Callable[[np.ndarray], Any]:
        file = image_features(encoder, dataset, workspace.features)
        return lambda rows: file.batch(rows, encoder.device)

    return films


def _path(workspace: Workspace, slug: str, seed: int) -> Any:
    return workspace.prompts / f"{slug}-{seed}.safetensors"


def _read(model: PromptModel, workspace: Workspace, slug: str, seed: int) -> PromptModel:
    return model.load(load_file(_path(workspace, slug, seed))).to(model.encoder.device)


class _Runs:
    """Learns methods one after the other with the same grid, trial and cache."""

    def __init__(self, workspace: Workspace, encoder: Encoder) -> None:
        self.workspace, self.encoder = workspace, encoder
        self.validation = open_split(workspace, "mimic-cxr", "validation")

    def run(
        self,
        slug: str,
        learn: Learn,
        settings: PromptSettings,
        data: Mapping[int, Any],
        rate: float | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """Choose a rate unless one is given, then learn every seed; or read what is current."""
        options = self.workspace.profile.peers
        keys = [each.key for each in data.values()]  # one corpus may serve all seeds
        code = code_of(type(self), learn, type(self.encoder))
        key = hash_of(
            self.encoder.text_key, self.encoder.image_key, keys, settings, options, rate, code
        )
        record = self.workspace.prompts / f"{slug}.peer.json"
        weights = {seed: _path(self.workspace, slug, seed) for seed in data}
        make = partial(self.learn, weights, partial(learn, self.encoder), settings, data, rate)
        stored = kept(record, list(weights.values()), key, make)
        return stored["name"], stored

    def learn(
        self,
        weights: Mapping[int, Path],
        learn: Learn,
        settings: PromptSettings,
        data: Mapping[int, Any],
        rate: float | None,
    ) -> dict[str, Any]:
        """Choose a rate unless one is given, then learn every seed and write its weights."""
        options = self.workspace.profile.peers
        first = next(iter(data))
        rates = []
        for value in options.rates if rate is None else ():
            trial = _scaled(settings, options.trial_share, value)
            model, _ = learn(data[first], trial, first)
            rates.append({"learning_rate": value, "auc": self.auc(model)})
        chosen = rate or max(rates, key=lambda each: each["auc"])["learning_rate"]
        history = []
        for seed, each in data.items():
            model, curve = learn(each, _scaled(settings, options.share, chosen), seed)
            history += [{"seed": seed, **row} for row in curve]
            with atomic_path(weights[seed]) as temporary:
                save_file(model.state(), temporary)
        return {
            "name": model.name,
            "unit": "step",
            "parameters": sum(each.numel() for each in model.parameters()),
            "rate": chosen,
            "rates": rates,
            "history": history,
        }

    def auc(self, model: PromptModel) -> float:
        """Macro AUC on MIMIC-CXR's validation films, without an interval."""
        file = image_features(self.encoder, self.validation, self.workspace.features)
        concepts = self.validation.concepts
        films = file.batch(np.arange(len(file)), self.encoder.device)
        scores = model.classify(films, concepts).cpu().numpy()
        labels = self.validation.records[list(concepts)].to_numpy(float)
        return macro_auc(labels, scores)


def _scaled(settings: PromptSettings, share: float, rate: float) -> PromptSettings:
    return replace(settings, steps=max(1, round(share * settings.steps)), learning_rate=rate)
