"""Learning and scoring the ablations' arms, three seeds each (paper 4.3.1, 4.3.2)."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from rctpl_utils.code_hash import code_of
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.evaluation.ablation_arms import (
    CLS_POOLED,
    POOLING_REPORTS,
    REFERENCE,
    Arm,
    factors,
)
from rctpl_utils.files import hash_of
from rctpl_utils.prompts import anchors, training
from rctpl_utils.prompts.corpus import TextCorpus
from rctpl_utils.prompts.corpus_building import build_corpus
from rctpl_utils.prompts.methods import Embedder
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import (
    BRANCHES,
    Keeper,
    Learned,
    MeanOfSteps,
    NearestTo,
    Regularizer,
    learn_prompts,
)
from rctpl_utils.prompts.variants import learn_all
from rctpl_utils.scoring import IMAGE_TEMPERATURE
from rctpl_utils.text.reports import Report
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

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
        asked = zip(towers, runs.values(), strict=True)
        trials[label] = Trial(tuple(partial(each.embed, tower) for tower, each in asked))
    reference = trials[REFERENCE]
    for branch in ("report", "concept"):
        trials[f"M=12, {branch} branch"] = Trial(reference.embedders, branch)
    for inverse in (5, 10, 160):
        trials[f"test tau: 1/{inverse}"] = Trial(reference.embedders, temperature=1 / inverse)
    looks = [replace(each, metadata={"unseen": "looks"}) for each in learned[REFERENCE].values()]
    asked = zip(encoders, looks, strict=True)
    trials["asked by looks"] = Trial(tuple(partial(each.embed, tower) for tower, each in asked))
    for first, *_ in factors(available).values():
        trials[first] = reference
    trials["pooling: mean"] = trials.get(f"reports: {POOLING_REPORTS}", reference)
    return trials


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

    name = "ablation-" + re.sub(r"[^a-z0-9]+", "-", arm.label.replace("+", " plus").lower()).strip(
        "-"
    )
    how = (arm.start, arm.ranking.__name__, arm.pull, arm.anchor.__name__, arm.kept)
    made_by = code_of(anchors) if arm.pull or arm.kept == "nearest" else code_of(training)
    key = hash_of(arm.settings, arm.branches, arm.temperature, *how, made_by)
    return learn_all(workspace, encoders, name, corpora, learner, key, arm.unseen)


def _regularizer(encoder: Encoder, arm: Arm) -> Regularizer | None:
    if arm.pull is None:
        return None
    return anchors.pull_towards(arm.anchor(encoder, TRAINING_CONCEPTS), *arm.pull)


def _keeper(encoder: Encoder, arm: Arm) -> Keeper | None:
    if arm.kept == "last":
        return None
    nearest = arm.kept == "nearest"
    return NearestTo(anchors.names(encoder, TRAINING_CONCEPTS)) if nearest else MeanOfSteps()
