"""RC-TPL and RC-TPL+ as a run learns them, and their rows of Table 1 with the hand-written ones."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rctpl_utils import __version__
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.loading import encoder_notes
from rctpl_utils.files import hash_of
from rctpl_utils.prompts import handwritten, training
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import (
    BRANCHES,
    Learned,
    TextCorpus,
    initial_contexts,
    learn_prompts,
)
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.scoring import report_ranking_loss
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

WRITTEN = {
    "class names": handwritten.class_names,
    "prompt ensemble": handwritten.prompt_ensemble,
    "descriptions": handwritten.descriptions,
}
HANDWRITTEN = tuple(WRITTEN)  # what paired tests compare with
MACHINE_WRITTEN = "descriptions, llm"  # the knowledge that a language model wrote
UNTRAINED = "untrained contexts"
VARIANTS = ("rc-tpl", "rc-tpl-plus")
Learner = Callable[[Encoder, TextCorpus, int], Learned]  # of one seed: what was learned


def learn_rctpl(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    corpora: Sequence[TextCorpus],
    validation: Sequence[TextCorpus],
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """The paper's method, one run a seed: Eq. 9 and nothing else.

    `encoders` are one a seed of the profile, the corpora their features of the same reports.
    """
    runs = (workspace, encoders, corpora, validation)
    return _learn(*runs, VARIANTS[0], code_of(training), lambda encoder: {})


def learn_rctpl_plus(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    corpora: Sequence[TextCorpus],
    validation: Sequence[TextCorpus],
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """Our variant, which mends what keeps prompts learned from text off the image.

    With s_i(r) the score of class i for report r (Eq. 7, 8), R_i and S_i the batch's reports with
    and without it, and A_i what a person would write of it (`handwritten.class_anchors`), both
    branches minimize

        mean_i mean_{r in R_i, s in S_i} max(0, m - s_i(r) + s_i(s)),

    and the concept branch `PULL * mean_i (1 - <E^C_i, A_i>)` beside it. So reports are ranked
    within a class, which is what AUC asks of films, in place of classes within a report; H holds no
    description of an absent finding; both contexts start from real words; and a class that no
    training report names is asked for by its looks. The pull is kin to KgCoOp's (Yao et al. 2023).
    Notebook 08 shows what each part does.
    """

    def options(encoder: Encoder) -> dict[str, Any]:
        anchor = handwritten.class_anchors(encoder, TRAINING_CONCEPTS).report
        pull = handwritten.pull_towards(anchor, handwritten.PULL)
        return {"regularizer": pull, "ranking": report_ranking_loss, "start": "words"}

    runs = (workspace, encoders, corpora, validation)
    code = hash_of(handwritten.PULL, code_of(training, handwritten))
    return _learn(*runs, VARIANTS[1], code, options, "looks")


def _learn(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    corpora: Sequence[TextCorpus],
    validation: Sequence[TextCorpus],
    variant: str,
    code: str,
    options: Callable[[Encoder], dict[str, Any]],
    unseen: str = "name",
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """Learn a variant with what `learn_prompts` takes besides, of each encoder."""
    settings, held_out = workspace.profile.prompts, dict(zip(encoders, validation, strict=True))

    def learner(encoder: Encoder, corpus: TextCorpus, seed: int) -> Learned:
        more = {"validation": held_out[encoder], **options(encoder)}
        return learn_prompts(encoder, corpus, TRAINING_CONCEPTS, settings, seed, **more)

    key = hash_of(variant, settings, [each.key for each in validation], code)
    return learn_all(workspace, encoders, variant, corpora, learner, key, unseen)


def learn_all(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    variant: str,
    corpora: Sequence[TextCorpus],
    learner: Learner,
    key: str,
    unseen: str = "name",
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """Learn a variant's prompts for every seed of the profile, or read those that are current.

    `key` is a hash of all that the result depends on besides corpus, encoder and seed: settings and
    the code that learns (`code_hash.code_of`). `unseen` says how a class that no training report
    names is asked for (`Prompts.embed`).

    Returns:
        prompts by seed, and the learning curves with columns variant, seed, epoch and losses.
    """
    prompts, curves = {}, []
    for seed, encoder, corpus in zip(workspace.profile.seeds, encoders, corpora, strict=True):
        path = workspace.prompts / f"{variant}-{seed}.safetensors"
        wanted = hash_of(key, unseen, code_of(type(encoder)), encoder.text_key, corpus.key, seed)
        metadata = {
            "variant": variant,
            "encoder": encoder.name,
            **encoder_notes(workspace, seed),
            "text_key": encoder.text_key,
            "classes": json.dumps(TRAINING_CONCEPTS),
            "seed": str(seed),
            "unseen": unseen,
            "profile": workspace.profile.name,
            "version": __version__,
            "key": wanted,
        }
        make = partial(_learn_seed, path, metadata, learner, encoder, corpus, seed)
        stored = kept(path.with_suffix(".history.json"), [path], wanted, make)
        curves.append(pd.DataFrame(stored["history"]).assign(variant=variant, seed=seed))
        prompts[seed] = Prompts.load(path)
    return prompts, pd.concat(curves, ignore_index=True)


def _learn_seed(
    path: Path,
    metadata: dict[str, str],
    learner: Learner,
    encoder: Encoder,
    corpus: TextCorpus,
    seed: int,
) -> dict[str, Any]:
    result = learner(encoder, corpus, seed)
    Prompts(result.report, result.concept, metadata).save(path)
    return {"history": result.history}


def load_prompts(workspace: Workspace) -> dict[str, dict[int, Prompts]]:
    """All learned prompts of the run: variant -> seed -> prompts."""
    return {
        variant: {
            seed: Prompts.load(workspace.prompts / f"{variant}-{seed}.safetensors")
            for seed in workspace.profile.seeds
        }
        for variant in VARIANTS
    }


def table1_methods(
    encoders: Sequence[Encoder], prompts: Mapping[str, Mapping[int, Prompts]]
) -> list[Method]:
    """The rows of Table 1 that we can run, floor first, for prompts of `load_prompts`.

    A method written by hand has one run an encoder, one that learns a run a seed; so has RC-TPL
    before its first step.
    """
    distinct = list(dict.fromkeys(encoders))
    written = WRITTEN | {MACHINE_WRITTEN: partial(handwritten.descriptions, source="llm")}
    paper, ours = (prompts[variant] for variant in VARIANTS)
    first, learned, plus = (
        tuple(partial(each.embed, encoder) for each, encoder in zip(runs, encoders, strict=True))
        for runs in ([untrained(*run) for run in paper.items()], paper.values(), ours.values())
    )
    return [
        *(
            Method(name, tuple(partial(function, encoder) for encoder in distinct))
            for name, function in written.items()
        ),
        Method(UNTRAINED, first),
        Method("RC-TPL, report branch", learned, "report"),
        Method("RC-TPL, concept branch", learned, "concept"),
        Method("RC-TPL", learned),
        Method("RC-TPL+", plus),
    ]


def untrained(seed: int, learned: Prompts) -> Prompts:
    """The contexts that a seed's training began with, in the shape and place of `learned`."""
    drawn = initial_contexts(*learned.report.shape, torch.Generator().manual_seed(seed))
    return Prompts(*(drawn[branch].to(learned.report.device) for branch in BRANCHES), {})
