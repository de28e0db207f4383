"""The ablations' arms, three seeds each: learned, then scored on films (paper 4.3.1, 4.3.2).

What is trained and compared is Figure 4's, and beyond the paper.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd
from tqdm import tqdm

from rctpl_utils.code_hash import code_of
from rctpl_utils.datasets.questions import QUESTIONS
from rctpl_utils.datasets.splits import open_split, present
from rctpl_utils.encoders.base import Encoder, per_encoder
from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.evaluation.grounding import GROUNDING_DATASETS, pointing_of_runs
from rctpl_utils.evaluation.metrics import macro_aucs, patient_weights, resampled_means, scorable
from rctpl_utils.evaluation.results import Draws
from rctpl_utils.evaluation.table1 import film_features, score_runs
from rctpl_utils.files import hash_of
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts import handwritten, training
from rctpl_utils.prompts.encode import Labeler, build_corpus
from rctpl_utils.prompts.handwritten import Written
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import TextCorpus
from rctpl_utils.prompts.variants import learn_all
from rctpl_utils.prompts.zero_shot import Embedder
from rctpl_utils.scoring import IMAGE_TEMPERATURE, TEXT_TEMPERATURE, ClassEmbeddings, ranking_loss
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.vocabulary import CONCEPTS, TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

CLASSIFIED = ("chexpert", "covidx-normal", "covidx-pneumonia")
GROUNDED = "covid-rural"
LENGTHS = (1, 2, 4, 8, 12, 16, 24, 32)  # M
REFERENCE = "M=12"
CLS_POOLED = "pooling: [CLS]"
REPORT_COUNTS = (100, 300, 1000)
POOLING_REPORTS = 300  # [CLS] features have to be encoded anew: a sample is enough
# The paper's five settings (4.3.2), and the knowledge base as one clause; all but one say where.
KNOWLEDGE = {
    "knowledge: none": ("none", True),
    "knowledge: general": ("general", True),
    "knowledge: llm": ("llm", True),
    "knowledge: kb as one clause": ("clause", True),
    "knowledge: kb without location": ("kb", False),
    "knowledge: kb with location": ("kb", True),
}
Runs = dict[int, Prompts]  # prompts by seed
Reader = Callable[[Encoder], ImageFeatureFile]  # an encoder's features of a data set's films


@dataclass(frozen=True)
class Arm:
    """One training setting; the defaults are RC-TPL's. A branch that it does not train is that of
    its `base`, with the same seed.
    """

    label: str  # names the arm in tables and files
    settings: PromptLearning
    branches: tuple[str, ...] = ("report", "concept")
    knowledge: str = "kb"
    with_location: bool = True
    mentions: Callable[[pd.DataFrame], pd.DataFrame] | None = None  # changes the triplets first
    reports: int | None = None  # how many training reports; None for all
    temperature: float = TEXT_TEMPERATURE  # tau_c in training
    pooling: str = "mean"  # of the text encoder
    described_absent: bool = True  # whether H holds the descriptions of absent triplets
    labeled: Labeler = report_labels  # from triplets to labels
    start: str = "gaussian"  # as `learn_prompts` takes it, as `ranking`
    ranking: training.Ranking = ranking_loss
    pull: tuple[float, tuple[str, ...]] | None = None  # its strength and branches
    anchor: Written = handwritten.class_anchors  # what a person writes: where to
    kept: str = "last"  # of a run's contexts; or "mean" of steps, "nearest" to the names
    base: str = REFERENCE
    unseen: str = "name"  # or "looks" (`Prompts.embed`)
    source: str = ""  # where the idea is from


def training_arms(settings: PromptLearning, available: int) -> list[Arm]:
    """All settings that are trained, the reference first; M in `settings` is replaced."""
    lengths = sorted(LENGTHS, key=lambda length: f"M={length}" != REFERENCE)
    standard = replace(settings, context_length=12)
    own = ("concept",)
    few = min(POOLING_REPORTS, available)
    hedged = {"positive": {"uncertain": "present"}}
    return [
        *(Arm(f"M={m}", replace(settings, context_length=m)) for m in lengths),
        *(
            Arm(label, standard, own, source, located)
            for label, (source, located) in KNOWLEDGE.items()
            if (source, located) != ("kb", True)
        ),
        Arm("negated: out", standard, own, mentions=lambda t: t[t["positive"] != "absent"]),
        Arm("uncertain: positive", standard, mentions=lambda t: t.replace(hedged)),
        Arm("uncertain: negative", standard, mentions=lambda t: t[t["positive"] != "uncertain"]),
        Arm("training tau: 1/10", standard, own, temperature=1 / 10),
        Arm("training tau: 1/200", standard, own, temperature=1 / 200),
        *(Arm(f"reports: {n}", standard, reports=n) for n in REPORT_COUNTS if n < available),
        Arm(CLS_POOLED, standard, reports=few, pooling="cls"),
    ]


def factors(available: int) -> dict[str, tuple[str, ...]]:
    """What is compared with what: factor -> labels, the reference's own first."""
    counts = [f"reports: {count}" for count in REPORT_COUNTS if count < available]
    return {
        "prompt length M": (REFERENCE, *(f"M={m}" for m in LENGTHS if f"M={m}" != REFERENCE)),
        "branch": ("M=12, both branches", "M=12, report branch", "M=12, concept branch"),
        "knowledge": ("knowledge: kb with location", *list(KNOWLEDGE)[:-1]),
        "negated descriptions": ("negated: in", "negated: out"),
        "uncertain mentions": ("uncertain: neither", "uncertain: positive", "uncertain: negative"),
        "tau_c in training": ("training tau: 1/50", "training tau: 1/10", "training tau: 1/200"),
        "tau_c at test": ("test tau: 1/40", "test tau: 1/5", "test tau: 1/10", "test tau: 1/160"),
        "training reports": ("reports: all", *counts),
        "pooling": ("pooling: mean", CLS_POOLED),
        "unseen disease": ("asked by name", "asked by looks"),
    }


@dataclass(frozen=True)
class Trial:
    """What is scored on films: prompts with a way to ask; run k of `embedders` belongs to encoder
    k.
    """

    embedders: tuple[Embedder, ...]
    branch: str = "both"  # or "report", "concept"
    temperature: float = IMAGE_TEMPERATURE  # tau_c at test time
    reader: Callable[[Reader], Reader] = lambda films: films  # changes how films are read


def learn_arms(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    reports: list[Report],
    triplets: pd.DataFrame,
    arms: Sequence[Arm],
) -> tuple[dict[str, Runs], pd.DataFrame]:
    """Train every arm for as many steps as the first, or read those that are current.

    Encoders are one a seed; `reports` those that prompts learn from, `triplets` those of all; an
    arm's base comes before it. Gives prompts by arm and seed; label, seed and seconds of each run.
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
            seed: run if len(arm.branches) == 2 else joined(run, learned[arm.base][seed], arm)
            for seed, run in runs.items()
        }
        last = curves.groupby("seed", as_index=False)["seconds"].last()
        seconds.append(last.assign(label=arm.label))
    return learned, pd.concat(seconds, ignore_index=True)


def arm_corpus(
    workspace: Workspace, encoder: Encoder, reports: list[Report], triplets: pd.DataFrame, arm: Arm
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
    """The encoder as it is for "mean", its own pooling, or a copy that takes [CLS] for "cls"."""
    if pooling != "cls" or encoder.text.pooling == "cls":
        return encoder
    other = deepcopy(encoder)
    other.text.pooling = "cls"
    return other


def joined(run: Prompts, base: Prompts, arm: Arm) -> Prompts:
    """A run of an arm, with the branches that it does not train from its base."""
    return replace(run, **{b: getattr(base, b) for b in training.BRANCHES if b not in arm.branches})


def make_trials(
    encoders: Sequence[Encoder], learned: Mapping[str, Runs], available: int
) -> dict[str, Trial]:
    """Everything that `factors` names, ready to be scored (`available` training reports)."""
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


def _learn(
    workspace: Workspace, encoders: Sequence[Encoder], corpora: Sequence[TextCorpus], arm: Arm
) -> tuple[Runs, pd.DataFrame]:
    def learner(encoder: Encoder, corpus: TextCorpus, seed: int) -> training.Learned:
        options = {
            "branches": arm.branches, "temperature": arm.temperature, "ranking": arm.ranking,
            "start": arm.start, "regularizer": pull_of(encoder, arm),
        }  # fmt: skip
        if arm.kept == "mean":
            options["keeper"] = training.MeanOfSteps()
        elif arm.kept == "nearest":
            options["keeper"] = training.NearestTo(
                handwritten.class_names(encoder, TRAINING_CONCEPTS).report
            )
        return training.learn_prompts(
            encoder, corpus, TRAINING_CONCEPTS, arm.settings, seed, **options
        )

    label = arm.label.replace("+", " plus").lower()
    name = "ablation-" + re.sub(r"[^a-z0-9]+", "-", label).strip("-")
    how = (arm.start, arm.ranking.__name__, arm.pull, arm.anchor.__name__, arm.kept)
    written = [handwritten] if arm.pull or arm.kept == "nearest" else []
    made_by = code_of(training, *written)
    key = hash_of(arm.settings, arm.branches, arm.temperature, *how, made_by)
    return learn_all(workspace, encoders, name, corpora, learner, key, arm.unseen)


def pull_of(encoder: Encoder, arm: Arm) -> training.Regularizer | None:
    """What pulls an arm's class embeddings to its anchors, if it has a pull."""
    if arm.pull is None:
        return None
    target = arm.anchor(encoder, TRAINING_CONCEPTS).report
    return handwritten.pull_towards(target, *arm.pull)


def score_trials(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    trials: Mapping[str, Trial],
    split: str = "test",
    classified: Sequence[str] = CLASSIFIED,
    grounded: Sequence[str] = (GROUNDED,),
) -> Draws:
    """Macro AUC and the pointing game, in the sample and in every resample: run k of a trial on the
    films of encoder k. Absent data sets have no draws, nor have columns whose labels cannot tell.
    """
    distinct = list(dict.fromkeys(trials.values()))
    once = cache(_asked_once)  # trials that differ in their branch only share embedders
    shared = [replace(each, embedders=tuple(map(once, each.embedders))) for each in distinct]
    measured = {}  # data set, metric -> (seeds, 1 + R) a trial
    for name in present(workspace, classified):
        question = QUESTIONS[name]
        if question.can_ask(open_split(workspace, question.dataset, split)):
            measured[name, "auc"] = _auc(workspace, encoders, name, shared, split)
    for name in present(workspace, grounded):
        measured[name, "pointing_game"] = _pointing(workspace, encoders, name, shared, split)
    return {
        (name, label, metric): runs
        for (name, metric), values in measured.items()
        for trial, runs in zip(distinct, values, strict=True)
        for label, each in trials.items()
        if each is trial
    }


def _asked_once(embedder: Embedder) -> Embedder:
    """The same, asked for all concepts at its first call: the data sets share the work."""
    everything = cache(lambda: embedder(CONCEPTS))

    def chosen(concepts: Sequence[str]) -> ClassEmbeddings:
        rows = [CONCEPTS.index(each) for each in concepts]
        return ClassEmbeddings(*(part[rows] for part in everything()))

    return chosen


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
