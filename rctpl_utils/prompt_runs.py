"""The learned prompts of a run: one file a variant and seed, kept by content."""

import json
from collections.abc import Callable, Sequence

import pandas as pd

from rctpl_utils import __version__
from rctpl_utils.corpus import TextCorpus
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.loading import encoder_notes
from rctpl_utils.files import hash_of, read_json, write_json
from rctpl_utils.prompts import Prompts
from rctpl_utils.training import Learned
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
) -> tuple[dict[int, Prompts], pd.DataFrame]:
    """Learn a variant's prompts for every seed of the profile, or read those that are current.

    Args:
        encoders: one a seed of the profile.
        variant: names the files, `prompts/<variant>-<seed>.safetensors`.
        corpora: the training corpus in each encoder's features.
        learner: trains one seed, on its encoder and corpus.
        key: a hash of all that the result depends on besides corpus, encoder and seed.

    Returns:
        prompts by seed, and the learning curves with columns variant, seed, epoch and losses.
    """
    found, curves = {}, []
    runs = zip(workspace.profile.seeds, encoders, corpora, strict=True)
    for seed, encoder, corpus in runs:
        path = workspace.prompts / f"{variant}-{seed}.safetensors"
        curve = path.with_suffix(".history.json")
        wanted = hash_of(key, encoder.text_key, corpus.key, seed, workspace.profile.prompts)
        stored = path.exists() and curve.exists()
        if not stored or Prompts.load(path).metadata.get("key") != wanted:
            result = learner(encoder, corpus, seed)
            metadata = {
                "variant": variant,
                "encoder": encoder.name,
                **encoder_notes(workspace, seed),
                "text_key": encoder.text_key,
                "classes": json.dumps(TRAINING_CONCEPTS),
                "seed": str(seed),
                "profile": workspace.profile.name,
                "version": __version__,
                "key": wanted,
            }
            write_json(curve, result.history)
            Prompts(result.report, result.concept, metadata).save(path)
        found[seed] = Prompts.load(path)
        curves.append(pd.DataFrame(read_json(curve)).assign(variant=variant, seed=seed))
    return found, pd.concat(curves, ignore_index=True)
