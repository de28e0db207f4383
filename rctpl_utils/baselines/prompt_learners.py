"""The prompt learners of a run, on RC-TPL's frozen encoders: learned once, kept by content.

CoOp, CoCoOp and DualCoOp learn from a few labeled films a class, and RC-TPL does not: training
films of MIMIC-CXR with the labels of their reports' triplets (1 present, 0 absent or unmentioned,
NaN uncertain), the same that RC-TPL's reports carry. Their rows say so: they are not zero-shot.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.baselines.learners import CoCoOp, CoOp, DualCoOp, PromptModel, TaIDPT
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.datasets import DATASETS, ChestXrayDataset
from rctpl_utils.datasets.chexpert import open_mimic_cxr
from rctpl_utils.datasets.splits import REPORTS, can_run_on_training_films, open_split
from rctpl_utils.encoders.base import Encoder, ImageFeatures, per_encoder
from rctpl_utils.encoders.features import (
    ImageFeatureFile,
    image_features,
    make_arrays,
    text_features,
)
from rctpl_utils.encoders.release import add_plain, released_file
from rctpl_utils.encoders.text_tower import MAX_TOKENS
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.metrics import macro_auc
from rctpl_utils.files import atomic_path, hash_of, read_json
from rctpl_utils.profiles import PromptLearnerTraining
from rctpl_utils.prompts.training import TextCorpus, shuffled_batches
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

TOKEN_BATCH, TOKEN_SHARD = 64, 16  # texts in a pass; passes in a shard, 20 MB at d = 128
Judge = Callable[[PromptModel], float]  # validation AUC of a model, higher is better
_LABELED: dict[str, type[PromptModel]] = {"coop": CoOp, "cocoop": CoCoOp, "dualcoop": DualCoOp}


@dataclass(frozen=True)
class LabeledFilms:
    """n films as cached features of a frozen encoder; labels: 1 present, 0 absent, NaN unknown."""

    features: ImageFeatureFile
    labels: np.ndarray  # (n, L)

    def __len__(self) -> int:
        """Number of films."""
        return len(self.features)

    @property
    def key(self) -> str:
        """A hash of features and labels."""
        digest = hashlib.sha256()
        for array in (self.features.global_features, self.features.dense_features, self.labels):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def batch(self, rows: np.ndarray, device: torch.device) -> tuple[ImageFeatures, Tensor]:
        """The named films and their labels (B, L)."""
        labels = torch.from_numpy(self.labels[rows].astype(np.float32)).to(device)
        return self.features.batch(rows, device), labels


class Learner(NamedTuple):
    """A method with a number of labels: the stem of its files, its class, the labels a class."""

    slug: str
    kind: type[PromptModel]
    shots: int | None

    @property
    def record(self) -> str:
        """The file of what is kept of its runs."""
        return f"{self.slug}.peer.json"

    def file(self, seed: int) -> str:
        """The file of a seed's tensors."""
        return f"{self.slug}-{seed}.safetensors"


def learners_of(workspace: Workspace) -> list[Learner]:
    """Those of the run's profile, the text-only one first."""
    settings = workspace.profile.prompt_learners
    return [Learner("tai-dpt", TaIDPT, None)] + [
        Learner(f"{slug}-{shots}", _LABELED[slug], shots)
        for slug in settings.labeled
        for shots in settings.shots
    ]


def learn_prompt_learners(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    reports: Sequence[Report],
    triplets: pd.DataFrame,
) -> tuple[dict[str, dict[str, Any]], pd.DataFrame]:
    """Learn all of them for every seed, each on its own encoder; or read the released ones.

    `reports` are those that RC-TPL learns from, `triplets` those of all reports. To the runs by
    name and how many labeled films were drawn; none where no film of MIMIC-CXR is there.
    """
    if not can_run_on_training_films(workspace, "Prompt learners"):
        return {}, pd.DataFrame(columns=["shots", "seed", "concept", "drawn"])
    seeds, folder = workspace.profile.seeds, workspace.features
    shots = workspace.profile.prompt_learners.shots
    if workspace.allow_partial:
        films = open_split(workspace, "mimic-cxr", "train")
    else:  # by tables alone
        root = workspace.data_root / DATASETS[REPORTS][0]
        films = open_mimic_cxr(root, "train", by_tables=True, skip_bad=workspace.skip_bad)
    labels = film_labels(films, triplets, TRAINING_CONCEPTS)
    drawn = draw_table(labels, TRAINING_CONCEPTS, shots, seeds)
    if workspace.profile.weights == "package":
        files = [released_file(each.record, workspace.weights) for each in learners_of(workspace)]
        return {record["name"]: record for record in map(read_json, files)}, drawn
    corpora = token_corpora(encoders, list(reports), triplets, TRAINING_CONCEPTS, folder)
    encoded = []
    for seed, encoder in zip(seeds, encoders, strict=True):
        draws = {each: draw_films(labels, TRAINING_CONCEPTS, each, seed) for each in shots}
        encoded.append(few_shot_films(encoder, films, labels, folder, draws))
    held_out = open_split(workspace, "mimic-cxr", "validation")
    judges = per_encoder(encoders, lambda each: _judge(workspace, each, held_out))
    runs = {}
    for each in learners_of(workspace):
        data = [one[each.shots] for one in encoded] if each.shots else corpora
        run = _learn(workspace, each, list(zip(seeds, encoders, judges, data, strict=True)))
        runs[run["name"]] = run
    return runs, drawn


def _learn(
    workspace: Workspace,
    learner: Learner,
    seeds: Sequence[tuple[int, Encoder, Judge, TextCorpus | LabeledFilms]],
) -> dict[str, Any]:
    """Learn a method for every seed, from its encoder, judge and examples; or read what is kept."""
    limits, kind = workspace.profile.prompt_learners, learner.kind
    weights = [workspace.prompts / learner.file(seed) for seed, *_ in seeds]
    keys = [(seed, each.text_key, each.image_key, data.key) for seed, each, _, data in seeds]
    code = code_of(learn_prompt_learners, kind, type(seeds[0][-1]))

    def make() -> dict[str, Any]:
        history, stops = [], []
        for (seed, encoder, judge, data), path in zip(seeds, weights, strict=True):
            model = kind(encoder, seed, TRAINING_CONCEPTS, learner.shots)
            curve = learn(model, data, limits, seed, judge)
            history += [{"seed": seed, **row} for row in curve]
            stops.append({"seed": seed, **stop(curve, limits)})
            with atomic_path(path) as temporary:
                save_file(model.state(), temporary)
        return {
            "name": model.name,
            "unit": "step",
            "parameters": sum(each.numel() for each in model.parameters()),
            "rate": kind.learning_rate,
            "history": history,
            "stops": stops,
        }

    key = hash_of(keys, TRAINING_CONCEPTS, kind.batch_size, kind.learning_rate, limits, code)
    return kept(workspace.prompts / learner.record, weights, key, make)


def learn(
    model: PromptModel,
    data: TextCorpus | LabeledFilms,
    limits: PromptLearnerTraining,
    seed: int,
    judge: Judge,
) -> list[dict[str, float]]:
    """Minimize the model's loss until validation stops improving; keep the best state.

    `seed` decides the order of the examples (the model's constructor takes its own); `judge`, the
    validation AUC, is asked before the first step too. Returns one row a step: step, seconds since
    the start, loss (step 0 has none), and validation_auc where the films were looked at.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=model.learning_rate)
    start, best = time.perf_counter(), _looked(model, data, judge)
    history = [{"step": 0, "seconds": 0.0, "validation_auc": best[0]}]
    passes = (shuffled_batches(len(data), model.batch_size, generator) for _ in itertools.count())
    batches = itertools.islice(itertools.chain.from_iterable(passes), limits.steps)
    for step, rows in enumerate(
        tqdm(batches, total=limits.steps, desc=f"{model.name}, seed {seed}", unit="step"), start=1
    ):
        model.train()
        loss = model.loss(data.batch(rows, model.encoder.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        row = {"step": step, "loss": loss.item()}
        if step % limits.every == 0 or step == limits.steps:
            found = _looked(model, data, judge)
            row["validation_auc"] = found[0]
            best = max(best, found, key=lambda each: each[0])  # of equals the earlier one
        history.append(row | {"seconds": time.perf_counter() - start})
        if stop(history, limits)["plateau"]:
            break
    model.load(best[1])
    return history


def _looked(model: PromptModel, data: Any, judge: Judge) -> tuple[float, dict[str, Tensor]]:
    model.eval()
    model.settle(data)
    return judge(model), {name: value.clone() for name, value in model.state().items()}


def stop(history: Sequence[Mapping[str, float]], limits: PromptLearnerTraining) -> dict[str, Any]:
    """How one seed's run ended: steps, best_step, its validation_auc, and whether on a plateau.

    A plateau is `limits.patience` looks in a row without a better one.
    """
    looks = [row for row in history if "validation_auc" in row]
    best = max(looks, key=lambda row: row["validation_auc"])
    since = len(looks) - 1 - looks.index(best)
    return {
        "steps": history[-1]["step"],
        "best_step": best["step"],
        "validation_auc": best["validation_auc"],
        "plateau": since >= limits.patience,
    }


def _judge(workspace: Workspace, encoder: Encoder, held_out: ChestXrayDataset) -> Judge:
    """What tells a model's macro AUC on MIMIC-CXR's validation films, without an interval."""
    file, concepts = image_features(encoder, held_out, workspace.features), held_out.concepts
    films = file.batch(np.arange(len(file)), encoder.device)
    labels = held_out.records[list(concepts)].to_numpy(float)
    return lambda model: macro_auc(labels, model.classify(films, concepts).cpu().numpy())


def film_labels(
    dataset: ChestXrayDataset, triplets: pd.DataFrame, concepts: Sequence[str]
) -> np.ndarray:
    """The labels of MIMIC-CXR films by their reports (column `study`): (n, L) float32."""
    studies = dataset.records["study"]
    by_report = report_labels(triplets, list(studies.unique()), concepts)
    return by_report.loc[studies].to_numpy(np.float32)


def draw_films(labels: np.ndarray, concepts: Sequence[str], shots: int, seed: int) -> np.ndarray:
    """Draw films for each class among those that show it, all where there are fewer: rows, once.

    A film that shows several classes may be drawn for each, so that there are at most shots x L.
    Draws nest: those of few shots are among those of more, with the same seed; a class's draw does
    not depend on the other classes.
    """
    rows = []
    for column, concept in enumerate(concepts):
        positive = np.flatnonzero(labels[:, column] == 1)
        generator = np.random.default_rng([seed, *concept.encode()])
        rows.append(generator.permutation(positive)[:shots])
    return np.unique(np.concatenate(rows))


def draw_table(
    labels: np.ndarray, concepts: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
) -> pd.DataFrame:
    """How many films `draw_films` draws for each class: shots, seed, concept, drawn.

    An `InputError` tells of less than one shot, or that no film shows any class.
    """
    if any(each < 1 for each in shots):
        raise InputError(f"{min(shots)} labeled films a class", "Ask for one at least.")
    if not (labels == 1).any():
        raise InputError(
            f"no film shows any of {', '.join(concepts)}", "Use a training set with labels."
        )
    there = dict(zip(concepts, (labels == 1).sum(axis=0).tolist(), strict=True))
    return pd.DataFrame([
        {"shots": each, "seed": seed, "concept": concept, "drawn": min(each, count)}
        for each in shots
        for seed in seeds
        for concept, count in there.items()
    ])  # fmt: skip


def few_shot_films(
    encoder: Encoder,
    dataset: ChestXrayDataset,
    labels: np.ndarray,
    folder: Path,
    draws: Mapping[int, np.ndarray],
) -> dict[int, LabeledFilms]:
    """By shots, the films that were drawn for one seed, encoded once; no others are opened.

    `dataset` holds n training films, `labels` (n, L) are theirs, `folder` is the feature cache.
    """
    pool = np.unique(np.concatenate(list(draws.values())))
    records = dataset.records.iloc[pool]
    chosen = ChestXrayDataset(dataset.name, dataset.split, dataset.concepts, records)
    encoded = image_features(encoder, chosen, folder)
    films = {}
    for shots, rows in draws.items():
        place = np.searchsorted(pool, rows)
        part = ImageFeatureFile(encoded.global_features[place], encoded.dense_features[place])
        films[shots] = LabeledFilms(part, labels[rows])
    return films


def token_features(
    encoders: Sequence[Encoder], texts: Sequence[str], folder: Path
) -> dict[Encoder, tuple[np.ndarray, np.ndarray]]:
    """Token features of distinct texts, made once, in batches of like length.

    Encoders that share their BERT (`pooled_key`) read the texts together. For each encoder: (n, 77,
    d) float16, memory-mapped, unit vectors, zero after a text's last token, and the counts (n,).
    """
    groups: dict[str, list[Encoder]] = {}
    for encoder in dict.fromkeys(encoders):
        shared = getattr(encoder, "pooled_key", encoder.text_key)
        groups.setdefault(shared, []).append(encoder)
    found = {}
    for group in groups.values():
        *states, counts = _read_tokens(group, texts, folder)
        found |= {encoder: (each, counts) for encoder, each in zip(group, states, strict=True)}
    return found


def _read_tokens(group: list[Encoder], texts: Sequence[str], folder: Path) -> list[np.ndarray]:
    """One array of states an encoder of one BERT, then the counts."""
    stems = [hash_of("tokens", each.text_key, list(texts))[:20] for each in group]
    paths = [folder / f"tokens-{stem}-states.npy" for stem in stems]
    order = np.array(sorted(range(len(texts)), key=lambda i: (len(texts[i]), i)), int)
    tower = group[0].text

    @torch.no_grad()
    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        tokens = tower.tokenize([texts[i] for i in rows.tolist()])
        seen = tokens["attention_mask"].bool()
        layers = tower.bert(**tokens, output_hidden_states=True).hidden_states
        states = torch.stack([layers[layer] for layer in tower.layers]).mean(dim=0)  # as it pools
        made = []
        for encoder in group:
            projected = encoder.text.project(states) * seen.unsqueeze(-1)
            padded = np.zeros((len(rows), MAX_TOKENS, projected.shape[-1]), np.float16)
            padded[:, : projected.shape[1]] = projected.cpu().numpy()
            made.append(padded)
        return *made, seen.sum(dim=1).cpu().numpy()

    size = {"batch": TOKEN_BATCH, "shard": TOKEN_SHARD}
    paths.append(folder / f"tokens-{hash_of(stems)[:20]}-counts.npy")
    return make_arrays(paths, order, encode, **size, label="encoding tokens", unit="text")


def token_corpora(
    encoders: Sequence[Encoder],
    reports: list[Report],
    triplets: pd.DataFrame,
    concepts: tuple[str, ...],
    folder: Path,
) -> tuple[TextCorpus, ...]:
    """The corpus of `prompts.encode.build_corpus` by encoder, tokens in place of descriptions.

    Only reports with a present concept are taken apart into tokens; the others have no loss.
    """
    labels = report_labels(triplets, [report.report_id for report in reports], concepts)
    labels = labels.to_numpy(np.float32)
    positive = (labels == 1).any(axis=1)
    codes, texts = pd.factorize(np.array([report.text for report in reports], object))
    rows, texts = codes[positive], texts.tolist()
    used, own = np.unique(rows, return_inverse=True)
    tokens = token_features(encoders, [texts[row] for row in used], folder)

    def corpus(encoder: Encoder) -> TextCorpus:
        states, counts = tokens[encoder]
        return TextCorpus(
            text_features(encoder, texts, folder)[rows],
            states.reshape(-1, states.shape[-1]),
            [MAX_TOKENS * row + np.arange(counts[row]) for row in own],
            labels[positive],
        )

    return per_encoder(encoders, corpus)


def release_prompt_learners(workspace: Workspace) -> None:
    """Put what `learn_prompt_learners` learned here into the run's folder of weights."""
    for each in learners_of(workspace):
        about = {"kind": "prompt learner", "method": each.kind.method}
        about["labels_a_class"] = each.shots or 0
        add_plain(workspace.weights, workspace.prompts / each.record, about)
        for seed in workspace.profile.seeds:
            path = workspace.prompts / each.file(seed)
            add_plain(workspace.weights, path, about | {"seed": seed})
