"""The ablations' arms, three seeds each: learned, then scored on films (paper 4.3.1, 4.3.2)."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets import ChestXrayDataset
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.encoders.frame import cosine_maps, frame_of
from rctpl_utils.evaluation.ablations import CLS_POOLED, POOLING_REPORTS, REFERENCE, Arm, factors
from rctpl_utils.evaluation.grounding import BATCH, GROUNDING_DATASETS, Films
from rctpl_utils.evaluation.grounding_metrics import points_into
from rctpl_utils.evaluation.metrics import macro_aucs, patient_weights, resampled_means, scorable
from rctpl_utils.evaluation.results import Draws
from rctpl_utils.evaluation.table1 import film_features, score_runs
from rctpl_utils.files import hash_of
from rctpl_utils.prompts import handwritten, training
from rctpl_utils.prompts.encode import build_corpus
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import (
    BRANCHES,
    Keeper,
    Learned,
    MeanOfSteps,
    NearestTo,
    Regularizer,
    TextCorpus,
    learn_prompts,
)
from rctpl_utils.prompts.variants import learn_all
from rctpl_utils.prompts.zero_shot import Embedder, Method
from rctpl_utils.scoring import IMAGE_TEMPERATURE, ClassEmbeddings
from rctpl_utils.text.reports import Report
from rctpl_utils.vocabulary import CONCEPTS, TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

CLASSIFIED = ("chexpert", "covidx-normal", "covidx-pneumonia")
GROUNDED = "covid-rural"
Runs = dict[int, Prompts]  # prompts by seed
Reader = Callable[[Encoder], ImageFeatureFile]  # an encoder's features of a data set's films


@dataclass(frozen=True)
class Trial:
    """What is scored on films: prompts with a way to ask. Run k of `embedders` belongs to encoder
    k; `branch` is "report", "concept" or "both"; `temperature` is tau_c at test time; `reader`
    changes how a film's features are read.
    """

    embedders: tuple[Embedder, ...]
    branch: str = "both"
    temperature: float = IMAGE_TEMPERATURE
    reader: Callable[[Reader], Reader] = lambda films: films


def learn_arms(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    reports: list[Report],
    triplets: pd.DataFrame,
    arms: Sequence[Arm],
) -> tuple[dict[str, Runs], pd.DataFrame]:
    """Train every arm for as many steps as the first, or read those that are current.

    Encoders are one a seed; `reports` those of the training split that enter prompt learning,
    `triplets` those of all reports; an arm's base comes before it. Gives prompts by arm and seed,
    and the seconds a run took: seed, seconds, label.
    """
    learned: dict[str, Runs] = {}
    seconds, steps = [], 0
    for arm in arms:
        towers = per_encoder(encoders, partial(with_pooling, pooling=arm.pooling))
        corpora = per_encoder(
            towers, lambda each, arm=arm: arm_corpus(workspace, each, reports, triplets, arm)
        )
        batches = math.ceil(len(corpora[0]) / arm.settings.batch_size)
        steps = steps or arm.settings.epochs * batches  # the first arm is the reference
        settings = replace(arm.settings, epochs=max(round(steps / batches), 1))
        runs, curves = _learn(workspace, towers, corpora, replace(arm, settings=settings))
        learned[arm.label] = {
            seed: run if len(arm.branches) == 2 else _joined(learned[arm.base][seed], run, arm)
            for seed, run in runs.items()
        }
        last = curves.groupby("seed", as_index=False)["seconds"].last()
        seconds.append(last.assign(label=arm.label))
    return learned, pd.concat(seconds, ignore_index=True)


def arm_corpus(
    workspace: Workspace,
    encoder: Encoder,
    reports: list[Report],
    triplets: pd.DataFrame,
    arm: Arm,
) -> TextCorpus:
    """The training corpus of one arm; smaller samples are parts of larger ones."""
    if arm.mentions is not None:
        triplets = arm.mentions(triplets)
    order = sorted(reports, key=lambda report: hash_of(report.report_id))
    sample = order[: arm.reports]
    if arm.pooling != "mean":  # features that no other arm shares: of the sample only
        reports = sample
    return build_corpus(
        encoder, reports, triplets, TRAINING_CONCEPTS, workspace.features,
        arm.knowledge, arm.with_location, [report.report_id for report in sample],
        arm.described_absent, arm.labeled,
    )  # fmt: skip


def with_pooling(encoder: Encoder, pooling: str) -> Encoder:
    """The encoder as it is for "mean", or a copy that takes [CLS] for "cls", its projection as
    trained. "mean" is the encoder's own pooling: for one that takes [CLS] itself (BioViL) both are
    the same.
    """
    if pooling != "cls" or encoder.text.pooling == "cls":
        return encoder
    other = deepcopy(encoder)
    other.text.pooling = "cls"
    return other


def make_trials(
    encoders: Sequence[Encoder], learned: Mapping[str, Runs], available: int
) -> dict[str, Trial]:
    """Everything that `ablation_arms.factors` names, ready to be scored (`available` training
    reports).
    """
    trials = {}
    for label, runs in learned.items():
        pooling = "cls" if label == CLS_POOLED else "mean"
        towers = per_encoder(encoders, partial(with_pooling, pooling=pooling))
        trials[label] = asked(towers, runs.values())
    reference = trials[REFERENCE]
    for branch in ("report", "concept"):
        trials[f"M=12, {branch} branch"] = Trial(reference.embedders, branch)
    for inverse in (5, 10, 160):
        trials[f"test tau: 1/{inverse}"] = Trial(reference.embedders, temperature=1 / inverse)
    looks = [replace(each, metadata={"unseen": "looks"}) for each in learned[REFERENCE].values()]
    trials["asked by looks"] = asked(encoders, looks)
    for first, *_ in factors(available).values():
        trials[first] = reference
    trials["pooling: mean"] = trials.get(f"reports: {POOLING_REPORTS}", reference)
    return trials


def asked(encoders: Sequence[Encoder], runs: Iterable[Prompts]) -> Trial:
    """Prompts of seed k, asked through encoder k."""
    return Trial(tuple(partial(run.embed, each) for each, run in zip(encoders, runs, strict=True)))


def _joined(base: Prompts, run: Prompts, arm: Arm) -> Prompts:
    return replace(run, **{b: getattr(base, b) for b in BRANCHES if b not in arm.branches})


def _learn(
    workspace: Workspace, encoders: Sequence[Encoder], corpora: Sequence[TextCorpus], arm: Arm
) -> tuple[Runs, pd.DataFrame]:
    def learner(encoder: Encoder, corpus: TextCorpus, seed: int) -> Learned:
        return learn_prompts(
            encoder,
            corpus,
            TRAINING_CONCEPTS,
            arm.settings,
            seed,
            branches=arm.branches,
            temperature=arm.temperature,
            regularizer=_regularizer(encoder, arm),
            ranking=arm.ranking,
            start=arm.start,
            keeper=_keeper(encoder, arm),
        )

    label = arm.label.replace("+", " plus").lower()
    name = "ablation-" + re.sub(r"[^a-z0-9]+", "-", label).strip("-")
    how = (arm.start, arm.ranking.__name__, arm.pull, arm.anchor.__name__, arm.kept)
    written = [handwritten] if arm.pull or arm.kept == "nearest" else []
    made_by = code_of(training, *written)
    key = hash_of(arm.settings, arm.branches, arm.temperature, *how, made_by)
    return learn_all(workspace, encoders, name, corpora, learner, key, arm.unseen)


def _regularizer(encoder: Encoder, arm: Arm) -> Regularizer | None:
    if arm.pull is None:
        return None
    target = arm.anchor(encoder, TRAINING_CONCEPTS).report
    return handwritten.pull_towards(target, *arm.pull)


def _keeper(encoder: Encoder, arm: Arm) -> Keeper | None:
    if arm.kept == "last":
        return None
    if arm.kept == "mean":
        return MeanOfSteps()
    return NearestTo(handwritten.class_names(encoder, TRAINING_CONCEPTS).report)


def score_trials(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    trials: Mapping[str, Trial],
    split: str = "test",
    classified: Sequence[str] = CLASSIFIED,
    grounded: Sequence[str] = (GROUNDED,),
) -> Draws:
    """Macro AUC and the pointing game, in the sample and in every resample.

    Run k of a trial meets the films of encoder k. Absent data sets have no draws, nor have columns
    whose labels cannot tell (`Question.can_ask`); trials that are the same object under several
    labels are scored once.
    """
    distinct = list(dict.fromkeys(trials.values()))
    once = cache(_asked_once)  # trials that differ in their branch only share embedders
    shared = [replace(each, embedders=tuple(map(once, each.embedders))) for each in distinct]
    found: Draws = {}
    for metric, measure, names in (
        ("auc", _auc, classified),
        ("pointing_game", _pointing, grounded),
    ):
        for name in present(workspace, names):
            if metric == "auc" and not _can_ask(workspace, name, split):
                continue
            values = measure(workspace, encoders, name, shared, split)
            for trial, runs in zip(distinct, values, strict=True):
                labels = [label for label, each in trials.items() if each is trial]
                found |= {(name, label, metric): runs for label in labels}
    return found


def _asked_once(embedder: Embedder) -> Embedder:
    """The same, asked for all concepts at its first call: the data sets share the work."""
    everything = cache(lambda: embedder(CONCEPTS))

    def chosen(concepts: Sequence[str]) -> ClassEmbeddings:
        rows = [CONCEPTS.index(each) for each in concepts]
        return ClassEmbeddings(*(part[rows] for part in everything()))

    return chosen


def _can_ask(workspace: Workspace, column: str, split: str) -> bool:
    question = QUESTIONS[column]
    return question.can_ask(open_split(workspace, question.dataset, split))


def _auc(
    workspace: Workspace, encoders: Sequence[Encoder], name: str, trials: list[Trial], split: str
) -> list[np.ndarray]:
    """Macro AUC of each trial, (seeds, 1 + R)."""
    question = QUESTIONS[name]
    opened = [open_split(workspace, question.dataset, part) for part in (split, "validation")]
    films = [film_features(workspace, each) for each in opened]
    labels, wanted = question.labels(opened[0]), question.asked(opened[0])
    columns = [k for k in range(labels.shape[1]) if scorable(labels[:, k])]
    weights = patient_weights(opened[0].records["patient_id"], workspace.profile.bootstrap)
    found = []
    for trial in tqdm(trials, desc=f"ablations on {name}", unit="arm"):
        scored = [
            score_runs(
                encoders, trial.reader(each), [trial], lambda run: run(wanted), trial.temperature
            )
            for each in films
        ]
        chosen = [
            question.scores(*(getattr(each[embedder], trial.branch) for each in scored))
            for embedder in trial.embedders
        ]
        found.append(np.stack([macro_aucs(labels, each, columns, weights) for each in chosen]))
    return found


def _pointing(
    workspace: Workspace, encoders: Sequence[Encoder], name: str, trials: list[Trial], split: str
) -> list[np.ndarray]:
    """The pointing game of each trial, (seeds, 1 + R)."""
    concept, _ = GROUNDING_DATASETS[name]
    dataset = open_split(workspace, name, split)
    hits = pointing_of_runs(encoders, dataset, film_features(workspace, dataset), concept, trials)
    patients = dataset.records["patient_id"][dataset.annotated(concept)]
    weights = patient_weights(patients, workspace.profile.bootstrap)
    return [resampled_means(each, weights) for each in hits]


def pointing_of_runs(
    encoders: Sequence[Encoder],
    dataset: ChestXrayDataset,
    films: Reader,
    concept: str,
    trials: Sequence[Trial | Method],
) -> list[np.ndarray]:
    """The pointing game of every run, each on its own encoder's maps: (seeds, n) a trial."""
    found: dict[tuple[int, int], np.ndarray] = {}  # trial, seed
    for encoder in dict.fromkeys(encoders):
        runs = [
            (t, k) for t, trial in enumerate(trials) for k in range(len(trial.embedders))
            if encoders[k] is encoder
        ]  # fmt: skip
        embeddings = torch.cat([_pointer(trials[t], k, concept) for t, k in runs])
        hits = pointing_hits(encoder, dataset, films(encoder), concept, embeddings)
        found |= dict(zip(runs, hits, strict=True))
    return [
        np.stack([found[t, k] for k in range(len(trial.embedders))])
        for t, trial in enumerate(trials)
    ]


def _pointer(trial: Trial | Method, seed: int, concept: str) -> Tensor:
    branch = "report" if trial.branch == "report" else "concept"
    return getattr(trial.embedders[seed]([concept]), branch)


@torch.no_grad()
def pointing_hits(
    encoder: Encoder,
    dataset: ChestXrayDataset,
    file: ImageFeatureFile,
    concept: str,
    embeddings: Tensor,
) -> np.ndarray:
    """Whether each class embedding's cosine map points into the lesion of each drawn film:
    embeddings (K, d) of one concept by K methods or seeds to (K, n) of 0 and 1.
    """
    rows = np.flatnonzero(dataset.annotated(concept))
    hits = np.zeros((len(embeddings), len(rows)))
    with tqdm(total=len(rows), desc=f"pointing on {dataset.name}", unit="film") as bar:
        for start in range(0, len(rows), BATCH):
            films = Films(encoder, dataset, file, rows[start : start + BATCH], concept)
            maps = cosine_maps(films.features.dense_features, embeddings).cpu()
            for k, row in enumerate(films.rows):
                mask = dataset.mask(row, concept)
                hits[:, start + k] = points_into(maps[k], mask, frame_of(encoder))
                bar.update()
    return hits
