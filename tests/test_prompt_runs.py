"""Prompts are learned anew where the code that learns them has changed, and only then."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts import variants
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import Learned, TextCorpus
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.workspace import Workspace


@pytest.fixture
def run(encoder, tmp_path, monkeypatch):
    """Asks for the prompts of both variants; returns which were learned for it, seed by seed."""
    opened = Workspace.open("smoke", output=tmp_path / "out", device="cpu")
    settings = PromptLearning(context_length=2, epochs=1)
    learned = []

    def learn(encoder, corpus, concepts, settings, seed, *, regularizer=None, **_):
        learned.append(("rc-tpl-plus" if regularizer else "rc-tpl", seed))
        row = {"epoch": 1, "seconds": 0.1, "report_loss": 1.0, "concept_loss": 1.0}
        context = torch.full((2, 4), float(len(learned)))
        return Learned(context, context.clone(), [row])

    monkeypatch.setattr(variants, "learn_prompts", learn)
    monkeypatch.setattr(type(encoder), "text_key", "weights")  # hashing them takes a second
    zeros = ClassEmbeddings(torch.zeros(20, 4), torch.zeros(20, 4))
    monkeypatch.setattr(variants.handwritten, "class_anchors", lambda *_: zeros)

    def ask(text="edema", **changes):
        corpus = TextCorpus(
            encoder.encode_text([text]).numpy(), encoder.encode_text(["mass"]).numpy(),
            [np.array([0])], np.eye(1, 20, dtype=np.float32),
        )  # fmt: skip
        profile = replace(opened.profile, prompts=replace(settings, **changes))
        workspace = replace(opened, profile=profile)
        learned.clear()
        for each in (variants.learn_rctpl, variants.learn_rctpl_plus):
            prompts, curves = each(workspace, (encoder,) * 2, (corpus,) * 2, (corpus,) * 2)
            assert sorted(prompts) == [0, 1] and len(curves) == 2
        return list(learned)

    ask.folder = opened.prompts
    return ask


RCTPL, PLUS = ([(variant, seed) for seed in (0, 1)] for variant in variants.VARIANTS)


def test_prompts_are_learned_once_for_their_settings_and_texts_and_again_without_their_record(run):
    assert run() == RCTPL + PLUS
    assert run() == []
    stored = Prompts.load(run.folder / "rc-tpl-1.safetensors")
    assert stored.report[0, 0] == 2 and stored.metadata["seed"] == "1"
    assert run(epochs=2) == RCTPL + PLUS
    assert run("mass", epochs=2) == RCTPL + PLUS
    assert run() == RCTPL + PLUS
    (run.folder / "rc-tpl-1.history.json").unlink()
    assert run() == RCTPL[1:]
    (run.folder / "rc-tpl-plus-0.history.json").write_text('[{"seconds": 1.0}]')  # an old version's
    assert run() == PLUS[:1]


LINE = ("\nimport ", "\nimport this\nimport ")
EDITS = {
    "scoring.py": (("torch.relu(", "torch.nn.functional.softplus("), RCTPL + PLUS),
    "encoders/text_tower.py": (LINE, RCTPL + PLUS),
    "encoders/standin.py": (LINE, RCTPL + PLUS),
    "data/ensemble.json": (("\n", "\n "), PLUS),
    "data/knowledge.json": (("\n", "\n "), PLUS),
    "prompts/handwritten.py": ((".mean(", ".sum("), PLUS),
    "plots.py": (LINE, []),
    "evaluation/metrics.py": (LINE, []),
    "evaluation/table1.py": (LINE, []),
}


@pytest.mark.parametrize("file", EDITS)
def test_an_edit_reaches_the_variants_that_use_it(run, copied, file):
    edit, relearned = EDITS[file]
    run()
    copied(file, *edit)
    assert run() == relearned
    assert run() == []
