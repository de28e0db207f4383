"""RC-TPL and RC-TPL+ as a run learns them, and their rows of Table 1 with the hand-written ones."""

from collections.abc import Callable, Mapping
from types import ModuleType

import pandas as pd

from rctpl_utils import anchors, handwritten, training
from rctpl_utils.code_hash import code_of
from rctpl_utils.corpus import TextCorpus
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.files import hash_of
from rctpl_utils.prompt_runs import learn_all
from rctpl_utils.prompts import Prompts
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.table1 import Embedder, Method
from rctpl_utils.training import Learned, Regularizer, learn_prompts
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

HANDWRITTEN = ("class names", "prompt ensemble", "descriptions")
NONSENSE = "nonsense words"
VARIANTS = ("rc-tpl", "rc-tpl-plus")


def learn_rctpl(
    workspace: Workspace, encoder: Encoder, corpus: TextCorpus, validation: TextCorpus
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """The paper's method, one run a seed: Eq. 9 and nothing else."""
    return _learn(workspace, encoder, corpus, validation, VARIANTS[0], None, training)


def learn_rctpl_plus(
    workspace: Workspace, encoder: Encoder, corpus: TextCorpus, validation: TextCorpus
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """Our variant: Eq. 9 plus a pull of each class embedding towards what a person would write.

    With A_i the anchor of class i (`anchors.class_anchors`), the loss gains
    `PULL * mean_i [(1 - <E^R_i, A_i>) + (1 - <E^C_i, A_i>)]`. Text alone does not say which
    directions of the joint space images use: without the pull the concept branch fits the style of
    descriptions and leaves the dense map behind.
    """
    target = anchors.class_anchors(encoder, TRAINING_CONCEPTS)
    pull = anchors.pull_towards(target, anchors.PULL)
    return _learn(workspace, encoder, corpus, validation, VARIANTS[1], pull, anchors)


def _learn(
    workspace: Workspace,
    encoder: Encoder,
    corpus: TextCorpus,
    validation: TextCorpus,
    variant: str,
    regularizer: Regularizer | None,
    code: ModuleType,
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    settings = workspace.profile.prompts

    def learner(seed: int) -> Learned:
        return learn_prompts(
            encoder,
            corpus,
            TRAINING_CONCEPTS,
            settings,
            seed,
            validation=validation,
            regularizer=regularizer,
        )

    key = hash_of(variant, settings, validation.key, code_of(code))
    return learn_all(workspace, encoder, variant, corpus, learner, key)


def load_prompts(workspace: Workspace) -> dict[str, dict[int, Prompts]]:
    """All learned prompts of the run: variant -> seed -> prompts."""
    return {
        variant: {
            seed: Prompts.load(workspace.prompts / f"{variant}-{seed}.safetensors")
            for seed in workspace.profile.seeds
        }
        for variant in VARIANTS
    }


def table1_methods(encoder: Encoder, prompts: Mapping[str, Mapping[int, Prompts]]) -> list[Method]:
    """The rows of Table 1 that we can run, floor first."""
    written = {
        NONSENSE: handwritten.nonsense_words,
        "class names": handwritten.class_names,
        "prompt ensemble": handwritten.prompt_ensemble,
        "descriptions": handwritten.descriptions,
    }
    rows = [Method(name, (_fixed(function, encoder),)) for name, function in written.items()]
    paper, ours = (
        tuple(_learned(each, encoder) for each in prompts[variant].values()) for variant in VARIANTS
    )
    rows += [
        Method("RC-TPL, report branch", paper, "report"),
        Method("RC-TPL, concept branch", paper, "concept"),
        Method("RC-TPL", paper),
        Method("RC-TPL+", ours),
    ]
    return rows


def _fixed(function: Callable[..., ClassEmbeddings], encoder: Encoder) -> Embedder:
    return lambda concepts: function(encoder, concepts)


def _learned(prompts: Prompts, encoder: Encoder) -> Embedder:
    return lambda concepts: prompts.embed(encoder, concepts)
