"""RC-TPL and RC-TPL+ as a run learns them, and their rows of Table 1 with the hand-written ones."""

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import torch

from rctpl_utils.code_hash import code_of
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.files import hash_of
from rctpl_utils.prompts import anchors, handwritten, training
from rctpl_utils.prompts.corpus import TextCorpus
from rctpl_utils.prompts.methods import Method
from rctpl_utils.prompts.prompt_runs import learn_all
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import BRANCHES, Learned, initial_contexts, learn_prompts
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


def learn_rctpl(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    corpora: Sequence[TextCorpus],
    validation: Sequence[TextCorpus],
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """The paper's method, one run a seed: Eq. 9 and nothing else.

    Args:
        encoders: one a seed of the profile; the corpora are their features of the same reports.
    """

    held_out = dict(zip(encoders, validation, strict=True))

    def learner(encoder: Encoder, corpus: TextCorpus, seed: int) -> Learned:
        return learn_prompts(
            encoder,
            corpus,
            TRAINING_CONCEPTS,
            workspace.profile.prompts,
            seed,
            validation=held_out[encoder],
        )

    key = _key(workspace, VARIANTS[0], validation, code_of(training))
    return learn_all(workspace, encoders, VARIANTS[0], corpora, learner, key)


def learn_rctpl_plus(
    workspace: Workspace,
    encoders: Sequence[Encoder],
    corpora: Sequence[TextCorpus],
    validation: Sequence[TextCorpus],
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """Our variant, which mends what keeps prompts learned from text off the image.

    With s_i(r) the score of class i for report r (Eq. 7, 8), R_i and S_i the batch's reports with
    and without it, and A_i what a person would write of it (`anchors.class_anchors`), both branches
    minimize

        mean_i mean_{r in R_i, s in S_i} max(0, m - s_i(r) + s_i(s)),

    and the concept branch `PULL * mean_i (1 - <E^C_i, A_i>)` beside it. So reports are ranked
    within a class, which is what AUC asks of films, in place of classes within a report; H holds no
    description of an absent finding; both contexts start from real words; and a class that no
    training report names is asked for by its looks. The pull is kin to KgCoOp's (Yao et al. 2023).
    Notebook 08 shows what each part does.

    Args:
        encoders: one a seed of the profile.
        corpora, validation: as for `learn_rctpl`, without descriptions of absent triplets.
    """

    held_out = dict(zip(encoders, validation, strict=True))

    def learner(encoder: Encoder, corpus: TextCorpus, seed: int) -> Learned:
        anchor = anchors.class_anchors(encoder, TRAINING_CONCEPTS)
        return learn_prompts(
            encoder,
            corpus,
            TRAINING_CONCEPTS,
            workspace.profile.prompts,
            seed,
            validation=held_out[encoder],
            regularizer=anchors.pull_towards(anchor, anchors.PULL),
            ranking=report_ranking_loss,
            start="words",
        )

    key = _key(workspace, VARIANTS[1], validation, hash_of(anchors.PULL, code_of(anchors)))
    return learn_all(workspace, encoders, VARIANTS[1], corpora, learner, key, "looks")


def _key(workspace: Workspace, variant: str, validation: Sequence[TextCorpus], code: str) -> str:
    return hash_of(variant, workspace.profile.prompts, [each.key for each in validation], code)


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
    """The rows of Table 1 that we can run, floor first.

    Args:
        encoders: one a seed. A method written by hand has one run an encoder, one that learns a
            run a seed; so has RC-TPL before its first step.
        prompts: variant -> seed -> prompts (`load_prompts`).
    """
    distinct = list(dict.fromkeys(encoders))
    written = WRITTEN | {MACHINE_WRITTEN: partial(handwritten.descriptions, source="llm")}
    rows = [
        Method(name, tuple(partial(function, encoder) for encoder in distinct))
        for name, function in written.items()
    ]
    paper, ours = (tuple(prompts[variant].items()) for variant in VARIANTS)
    first, learned, plus = (
        tuple(partial(each.embed, encoder) for each, encoder in zip(runs, encoders, strict=True))
        for runs in (
            [untrained(seed, each) for seed, each in paper],
            *([each for _, each in runs] for runs in (paper, ours)),
        )
    )
    return [
        *rows,
        Method(UNTRAINED, first),
        Method("RC-TPL, report branch", learned, "report"),
        Method("RC-TPL, concept branch", learned, "concept"),
        Method("RC-TPL", learned),
        Method("RC-TPL+", plus),
    ]


def untrained(seed: int, learned: Prompts) -> Prompts:
    """The contexts that a seed's training began with: what no step has changed.

    Args:
        learned: what became of them, for their shape and device.
    """
    drawn = initial_contexts(*learned.report.shape, torch.Generator().manual_seed(seed))
    return Prompts(*(drawn[branch].to(learned.report.device) for branch in BRANCHES), {})
