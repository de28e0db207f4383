"""The learned prompts of a run: one file a variant and seed, kept by content."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from rctpl_utils import __version__
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.loading import encoder_notes
from rctpl_utils.files import hash_of
from rctpl_utils.prompts.corpus import TextCorpus
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import Learned
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

Learner = Callable[[Encoder, TextCorpus, int], Learned]  # of one seed: what was learned


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

    Args:
        encoders: one a seed of the profile.
        variant: names the files, `prompts/<variant>-<seed>.safetensors`.
        corpora: the training corpus in each encoder's features.
        learner: trains one seed, on its encoder and corpus.
        key: a hash of all that the result depends on besides corpus, encoder and seed: settings
            and the code that learns (`code_hash.code_of`).
        unseen: how a class that no training report names is asked for (`Prompts.embed`).

    Returns:
        prompts by seed, and the learning curves with columns variant, seed, epoch and losses.
    """
    found, curves = {}, []
    runs = zip(workspace.profile.seeds, encoders, corpora, strict=True)
    for seed, encoder, corpus in runs:
        path = workspace.prompts / f"{variant}-{seed}.safetensors"
        wanted = hash_of(key, unseen, code_of(type(encoder)), encoder.text_key, corpus.key, seed)
        learn = partial(learner, encoder, corpus, seed)
        make = partial(_learn, workspace, encoder, variant, learn, seed, wanted, path, unseen)
        stored = kept(path.with_suffix(".history.json"), [path], wanted, make)
        found[seed] = Prompts.load(path)
        curves.append(pd.DataFrame(stored["history"]).assign(variant=variant, seed=seed))
    return found, pd.concat(curves, ignore_index=True)


def _learn(
    workspace: Workspace,
    encoder: Encoder,
    variant: str,
    learn: Callable[[], Learned],
    seed: int,
    key: str,
    path: Path,
    unseen: str,
) -> dict[str, Any]:
    """Learn one seed's prompts and write them with what they were learned by."""
    result = learn()
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
        "key": key,
    }
    Prompts(result.report, result.concept, metadata).save(path)
    return {"history": result.history}
