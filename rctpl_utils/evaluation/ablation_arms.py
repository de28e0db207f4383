"""What the ablations train and compare (paper 4.3.1, 4.3.2: Figure 4, and beyond the paper)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts import handwritten
from rctpl_utils.prompts.encode import Labeler
from rctpl_utils.prompts.handwritten import PULL, Written
from rctpl_utils.prompts.training import Ranking
from rctpl_utils.scoring import TEXT_TEMPERATURE, no_ranking, ranking_loss, report_ranking_loss
from rctpl_utils.text.triplets import merge_mentions, report_labels

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


def without(positive: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Leave the mentions of one kind out, as if the report were silent: a negative label."""
    return lambda triplets: triplets[triplets["positive"] != positive]


def uncertain_as_present(triplets: pd.DataFrame) -> pd.DataFrame:
    """Take hedged findings for present ones."""
    return triplets.assign(positive=triplets["positive"].replace("uncertain", "present"))


def own_labels(
    triplets: pd.DataFrame, report_ids: Sequence[str], concepts: Sequence[str]
) -> pd.DataFrame:
    """As `triplets.report_labels`, but a label needs a mention of its own: parents of what is
    present get none, and what is denied is neither positive nor negative.
    """
    merged = merge_mentions(triplets).unstack()
    merged = merged.reindex(index=list(report_ids), columns=list(concepts))
    return (merged == "present").astype(float).mask(merged.isin(["absent", "uncertain"]))


@dataclass(frozen=True)
class Arm:
    """One training setting; the defaults are RC-TPL's.

    The branch that an arm does not train is that of its `base`, with the same seed: what touches
    descriptions only leaves the report branch as it is.
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
    ranking: Ranking = ranking_loss
    pull: tuple[float, tuple[str, ...]] | None = None  # its strength and branches
    anchor: Written = handwritten.class_anchors  # what a person writes: where to
    kept: str = "last"  # of a run's contexts; or "mean" of steps, "nearest" to the names
    base: str = REFERENCE
    unseen: str = "name"  # or "looks" (`Prompts.embed`)
    source: str = ""  # where the idea is from


def training_arms(settings: PromptLearning, available: int) -> list[Arm]:
    """All settings that are trained, the reference first. Counts of reports that exceed `available`
    are left out; M in `settings` is replaced.
    """
    lengths = sorted(LENGTHS, key=lambda length: f"M={length}" != REFERENCE)
    arms = [Arm(f"M={m}", replace(settings, context_length=m)) for m in lengths]
    standard = replace(settings, context_length=12)
    own = ("concept",)
    arms += [
        Arm(label, standard, own, source, located)
        for label, (source, located) in KNOWLEDGE.items()
        if (source, located) != ("kb", True)
    ]
    arms += [
        Arm("negated: out", standard, own, mentions=without("absent")),
        Arm("uncertain: positive", standard, mentions=uncertain_as_present),
        Arm("uncertain: negative", standard, mentions=without("uncertain")),
        Arm("training tau: 1/10", standard, own, temperature=1 / 10),
        Arm("training tau: 1/200", standard, own, temperature=1 / 200),
    ]
    arms += [
        Arm(f"reports: {count}", standard, reports=count)
        for count in REPORT_COUNTS
        if count < available
    ]
    few = min(POOLING_REPORTS, available)
    return [*arms, Arm(CLS_POOLED, standard, reports=few, pooling="cls")]


RCTPL, PLUS = "RC-TPL", "RC-TPL+"


def bridge_arms(settings: PromptLearning) -> list[Arm]:
    """What may keep prompts that learn from text on the image: RC-TPL changed in one thing, RC-TPL+
    without one.
    """
    both, own = ("report", "concept"), ("concept",)
    paper = Arm(RCTPL, settings, source="the paper", base=RCTPL)
    plus = Arm(
        PLUS, settings, described_absent=False, start="words", ranking=report_ranking_loss,
        pull=(PULL, own), base=PLUS, unseen="looks", source="all of the above",
    )  # fmt: skip
    less = replace(plus, source="")
    return [
        paper,
        replace(paper, label="start: words", start="words", source="CoOp, Zhou 2022"),
        replace(
            paper, label="rate: a tenth", source="fewer, smaller steps",
            settings=replace(settings, learning_rate=settings.learning_rate / 10),
        ),
        replace(
            paper, label="H: present findings only", branches=own, described_absent=False,
            source="labels and H agree",
        ),
        replace(
            paper, label="labels: own mentions only", labeled=own_labels,
            source="labels and H agree",
        ),
        replace(
            paper, label="pull to the ensemble", pull=(20.0, both),
            anchor=handwritten.prompt_ensemble, source="prompt ensembles, Radford 2021",
        ),
        replace(
            paper, label="pull to names, both branches", pull=(20.0, both),
            anchor=handwritten.class_names, source="KgCoOp, Yao 2023",
        ),
        replace(
            paper, label="pull to a pruned ensemble", pull=(20.0, both),
            anchor=handwritten.pruned_ensemble, source="BiomedCoOp, Koleilat 2025",
        ),
        replace(
            paper, label="names mapped onto descriptions", pull=(1.0, both),
            anchor=handwritten.descriptions, ranking=no_ranking, source="ProText, Khattak 2025",
        ),
        replace(paper, label="start: names", start="names", source="the names' own words"),
        replace(paper, label="mean of all steps", kept="mean", source="Polyak and Juditsky 1992"),
        replace(paper, label="step nearest to names", kept="nearest", source="stop by cosine"),
        replace(
            paper, label="rank reports within a class", ranking=report_ranking_loss,
            source="what AUC measures",
        ),
        plus,
        replace(less, label="RC-TPL+, start: random", start="gaussian"),
        replace(less, label="RC-TPL+, rank classes", ranking=ranking_loss),
        replace(less, label="RC-TPL+, no pull", branches=own, pull=None),
        replace(less, label="RC-TPL+, pull 0.3", branches=own, pull=(0.3, own)),
        replace(less, label="RC-TPL+, pull 30", branches=own, pull=(30.0, own)),
        replace(
            less, label="RC-TPL+, pull on both", branches=("report",), pull=(PULL, ("report",)),
        ),
        replace(less, label="RC-TPL+, H: absent too", branches=own, described_absent=True),
    ]  # fmt: skip


def factors(available: int) -> dict[str, tuple[str, ...]]:
    """What is compared with what: factor -> labels, the reference's own first; it carries one label
    a factor, so that a table reads by itself.
    """
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
