"""Ablations and what keeps prompts on the image: arms, samples, memory, pull, looks, the gap."""

from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from rctpl_utils.encoders.features import ImageFeatureFile
from rctpl_utils.evaluation import ablations, bridges
from rctpl_utils.evaluation.ablations import LENGTHS, REFERENCE, factors, training_arms
from rctpl_utils.evaluation.bridges import PLUS, RCTPL
from rctpl_utils.profiles import PROFILES, PromptLearning
from rctpl_utils.prompts import handwritten, training, variants
from rctpl_utils.prompts.encode import description_features
from rctpl_utils.prompts.prompts import Prompts, asked_texts
from rctpl_utils.prompts.training import MeanOfSteps, NearestTo, TextCorpus, word_context
from rctpl_utils.reporting import ablation_report
from rctpl_utils.scoring import no_ranking, report_ranking_loss
from rctpl_utils.text.knowledge import Knowledge
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import report_labels
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

SETTINGS = PromptLearning(context_length=3, epochs=1, batch_size=4)
ARMS = {arm.label: arm for arm in bridges.bridge_arms(SETTINGS)}
SEEDS = (0, 1, 2)


def corpus(encoder) -> TextCorpus:
    features = encoder.encode_text(["Both lungs are wet.", "A rib is broken."]).numpy()
    labels = np.zeros((2, len(TRAINING_CONCEPTS)), np.float32)
    labels[0, TRAINING_CONCEPTS.index("Edema")] = labels[1, TRAINING_CONCEPTS.index("Mass")] = 1
    return TextCorpus(features, features, [np.array([0]), np.array([1])], labels)


def learn(encoder, settings: PromptLearning, **options: object) -> Prompts:
    given = encoder, corpus(encoder), TRAINING_CONCEPTS, settings, 0
    return training.learn_prompts(*given, progress=False, **options)


def prompts(encoder, **metadata: str) -> Prompts:
    context = torch.full((3, encoder.context_width), 0.01)
    return Prompts(context, context.clone(), metadata)


def test_every_arm_but_one_changes_one_thing_of_its_kin():
    for label, arm in ARMS.items():
        kin = ARMS[PLUS if label.startswith(PLUS) else RCTPL]
        assert arm.base == kin.label, "the branch that it does not train comes from its kin"
        skipped = ("label", "branches", "anchor", "base", "source")
        names = [each.name for each in fields(arm) if each.name not in skipped]
        changed = [name for name in names if getattr(arm, name) != getattr(kin, name)]
        if arm.ranking is no_ranking:
            assert changed == ["ranking", "pull"], "the pull in place of the ranking"
        else:
            assert len(changed) == (arm is not kin), label
    scores = torch.randn(4, 3, requires_grad=True)
    loss = no_ranking(scores, torch.ones(4, 3).bool(), torch.zeros(4, 3).bool(), 1.0)
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_the_arm_rctpl_plus_is_what_notebook_04_learns(encoder, monkeypatch):
    monkeypatch.setattr(variants, "learn_prompts", lambda *a, **k: k)
    monkeypatch.setattr(variants, "learn_all", lambda *a: a[4])
    texts = corpus(encoder)
    workspace = Workspace.open("smoke", device="cpu")
    learner = variants.learn_rctpl_plus(workspace, (encoder,), (texts,), (texts,))
    given = learner(encoder, texts, 0)
    arm = ARMS[PLUS]
    assert (given["start"], given["ranking"]) == (arm.start, arm.ranking)
    embedded = {b: normalize(torch.randn(20, encoder.dimension), dim=-1) for b in training.BRANCHES}
    pulled = ablations.pull_of(encoder, arm)(embedded)
    assert torch.equal(given["regularizer"](embedded), pulled)


def test_the_pull_is_a_mean_distance_of_the_branches_that_are_named():
    target = torch.eye(2, 3)
    embedded = {"report": torch.eye(2, 3), "concept": torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])}
    both = handwritten.pull_towards(target, 4.0, ("report", "concept"))
    for pull in (handwritten.pull_towards(target, 4.0), both):
        assert pull(embedded).item() == pytest.approx(4 * (1 - 0.5))
    assert both({"report": -embedded["report"]}).item() == pytest.approx(4 * 2)


def test_contexts_start_from_the_words_own_embeddings_or_from_the_names(encoder):
    table = encoder.text.bert.get_input_embeddings().weight
    tokens = encoder.text.tokenizer(training.WORDS, add_special_tokens=False)["input_ids"]
    assert len(tokens) == 12
    assert torch.equal(word_context(encoder, 12), table[tokens])
    assert torch.equal(word_context(encoder, 14)[12:], table[tokens[:2]])
    settings = replace(SETTINGS, learning_rate=0.0)
    found = learn(encoder, settings, start="words", ranking=report_ranking_loss)
    assert torch.equal(found.report, word_context(encoder, 3))
    assert found.report.data_ptr() != found.concept.data_ptr(), "two contexts, not one"
    tokens = encoder.text.tokenizer(["mass", "pleural effusion"], add_special_tokens=False)
    means = [table[each].mean(dim=0) for each in tokens["input_ids"]]
    found = training.name_context(encoder, ["mass", "pleural effusion"], 3)
    assert torch.allclose(found, ((means[0] + means[1]) / 2).expand(3, -1))


def test_a_run_keeps_what_its_keeper_says(encoder):
    contexts = [{"report": torch.full((1, 2), value)} for value in (0.0, 3.0, 6.0)]
    embedded = [{"report": torch.tensor([[c, (1 - c * c) ** 0.5]])} for c in (0.2, 0.9, 0.5)]
    mean, nearest = MeanOfSteps(), NearestTo(torch.tensor([[1.0, 0.0]]))
    for context, embedding in zip(contexts, embedded, strict=True):
        mean.see(context, embedding)
        nearest.see(context, embedding)
    assert mean.kept()["report"].tolist() == [[3.0, 3.0]]
    assert nearest.kept()["report"].tolist() == [[3.0, 3.0]], "the second step has cosine 0.9"
    settings = replace(SETTINGS, epochs=1, batch_size=2)  # one step over both texts
    start = training.initial_contexts(3, encoder.context_width, torch.Generator().manual_seed(0))
    names = handwritten.class_names(encoder, TRAINING_CONCEPTS).report
    for keeper in (MeanOfSteps(), NearestTo(names)):
        found = learn(encoder, settings, keeper=keeper)
        assert torch.equal(found.report, start["report"]), "the only step it saw is the start"
    assert not torch.equal(learn(encoder, settings).report, start["report"])


def test_an_outlying_phrasing_is_pruned(encoder, monkeypatch):
    phrasings = ["mass on the left", "mass on the right", "mass seen", "mass there", "quandor"]
    monkeypatch.setattr(handwritten, "ensemble", lambda concept: phrasings)
    vectors = torch.tensor([[1.0, 0.0], [0.99, 0.14], [0.99, -0.14], [0.98, 0.2], [0.0, 1.0]])
    monkeypatch.setattr(encoder, "encode_text", lambda texts: normalize(vectors, dim=-1))
    found = handwritten.pruned_ensemble(encoder, ["Mass"]).report
    kept = normalize(vectors, dim=-1)[:4].mean(dim=0)
    assert torch.allclose(found[0], normalize(kept, dim=0), atol=1e-6)


def test_own_labels_by_hand():
    """A mass makes no lung opacity, and a denied edema is no negative."""
    rows = [("a", "Mass", "present"), ("a", "Edema", "absent"), ("b", "Nodule", "uncertain")]
    triplets = pd.DataFrame(rows, columns=["report_id", "concept", "positive"])
    concepts, nan = ("Mass", "Lung Opacity", "Edema", "Nodule"), np.nan
    found = bridges.own_labels(triplets, ["b", "a", "c"], concepts)
    expected = [[0, 0, 0, nan], [1, 0, nan, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(found.to_numpy(), expected)
    assert found.index.tolist() == ["b", "a", "c"] and tuple(found.columns) == concepts
    parents = report_labels(triplets, ["a"], concepts)
    assert parents.to_numpy().tolist() == [[1, 1, 0, 0]], "what the paper's arm has"


def test_the_unseen_disease_is_asked_for_by_its_looks_where_the_file_says_so(encoder):
    looks = Knowledge.load("kb").looks["COVID-19"]
    assert asked_texts("COVID-19", True) == looks and len(looks) > 1
    assert asked_texts("COVID-19", False) == ("COVID-19",)
    assert asked_texts("Mass", True) == ("mass",)
    by_looks, by_name = prompts(encoder, unseen="looks"), prompts(encoder)
    asked = ["Mass", "COVID-19", "Edema"]
    found, plain = (each.embed(encoder, asked) for each in (by_looks, by_name))
    with torch.no_grad():
        alone = encoder.encode_prompts(by_looks.concept, list(looks))
    assert torch.allclose(found.concept[1], normalize(alone.mean(dim=0), dim=0), atol=1e-6)
    assert torch.allclose(found.concept[[0, 2]], plain.concept[[0, 2]], atol=1e-6)
    assert not torch.allclose(found.concept[1], plain.concept[1], atol=1e-3)


def test_a_descriptions_feature_is_the_direction_of_its_sentences_mean(encoder, tmp_path):
    lists = [("Mass: large.", "Mass: round."), ("Edema: haze.",), ("Mass: round.", "Mass: large.")]
    found = description_features(encoder, lists, tmp_path)
    with torch.no_grad():
        one, two, haze = encoder.encode_text(["Mass: large.", "Mass: round.", "Edema: haze."])
    assert torch.allclose(torch.from_numpy(found[0]), normalize((one + two) / 2, dim=0), atol=1e-5)
    assert np.allclose(found[1], haze, atol=1e-5) and np.allclose(found[0], found[2])


def test_the_text_memory_by_hand():
    texts = np.eye(2, 3, dtype=np.float32)
    memory = TextCorpus(texts[:1], texts[1:], [np.array([0])], np.ones((1, 1), np.float32))
    films = np.array([[1, 0, 0], [0.6, 0.5, 0.3]], np.float32)
    file = ImageFeatureFile(films, np.zeros((2, 1, 1, 3), np.float16))
    read = bridges.memory_reader({"encoder": memory})(lambda _: file)("encoder")
    weight = 1 / (1 + np.exp(-bridges.SHARPNESS * 0.1))  # of the first text for the second film
    expected = np.array([weight, 1 - weight, 0]) / np.hypot(weight, 1 - weight)
    assert read.global_features[1] == pytest.approx(expected, abs=1e-5)
    assert read.dense_features is file.dense_features, "the map is left alone"


def test_all_rows_can_be_asked_and_a_branch_that_an_arm_does_not_train_is_its_bases(encoder):
    texts = corpus(encoder)
    learned = {label: {0: prompts(encoder, unseen=arm.unseen)} for label, arm in ARMS.items()}
    trials = bridges.bridge_trials([encoder], learned, [texts])
    assert len(trials) == len(ARMS) + 3 + 2 + 1 + 3
    asked = (trials[label].embedders[0] for label in (PLUS, f"{PLUS}, unseen by name"))
    by_looks, by_name = (embed(["COVID-19"]).concept for embed in asked)
    assert not torch.allclose(by_looks, by_name, atol=1e-3)
    base = Prompts(torch.ones(2, 3), torch.ones(2, 3), {})
    run = Prompts(torch.zeros(2, 3), torch.zeros(2, 3), {"seed": "0"})
    for branch, other in (("report", "concept"), ("concept", "report")):
        found = ablations.joined(run, base, replace(ARMS[PLUS], branches=(branch,)))
        assert getattr(found, branch) is getattr(run, branch)
        assert getattr(found, other) is getattr(base, other) and found.metadata is run.metadata


def test_the_wide_table_keeps_the_order_of_arms_and_measures():
    measured = [("rsna", "auc"), ("rsna", "pointing_game"), ("siim", "pointing_game")]
    rows = [(a, "", *of, value) for a, value in (("b", 0.5), ("a", 0.25)) for of in measured]
    columns = ["arm", "source", "dataset", "metric", "value"]
    wide = bridges.wide_bridges(pd.DataFrame(rows, columns=columns))
    assert wide.index.tolist() == ["b", "a"]
    assert wide.columns.tolist() == ["source", "AUC rsna", "pointing rsna", "pointing siim"]
    assert wide.loc["a", "AUC rsna"] == 0.25


def test_energy_is_the_share_in_the_cells_main_directions():
    generator = np.random.default_rng(0)
    cells = np.zeros((100, 4))
    cells[:, :2] = generator.normal(size=(100, 2)) + 7  # they vary in two directions only
    inside, outside = np.zeros((3, 4)), np.zeros((3, 4))
    inside[:, :2], outside[:, 2:] = generator.normal(size=(2, 3, 2))
    assert bridges.energy(inside, cells, 2) == pytest.approx(1)
    assert bridges.energy(outside, cells, 2) == pytest.approx(0, abs=1e-12)
    assert bridges.energy(inside + 5, cells, 2) == pytest.approx(1), "what all share is left out"
    table = bridges.gap_table([({"f": cells, "cells (F)": -cells}, {"random": inside})])
    assert table.loc["cosine of means: f, cells (F)", "seed 0"] == pytest.approx(-1)


# --- the paper's ablations ---

TRAINED = training_arms(SETTINGS, 5000)
OF_PAPER = {arm.label: arm for arm in TRAINED}
MENTIONS = [
    (f"r{k}", concept, None, ("present", "absent", "uncertain")[(k + j) % 3])
    for k in range(6)
    for j, concept in enumerate(("Edema", "Mass", "Fracture"))
]
TRIPLETS = pd.DataFrame(MENTIONS, columns=["report_id", "concept", "location", "positive"])


def test_labels_are_distinct_the_reference_comes_first_and_every_profile_has_the_schedule():
    assert TRAINED[0].label == REFERENCE and len(OF_PAPER) == len(TRAINED)
    assert {arm.settings.context_length for arm in TRAINED} == set(LENGTHS)
    for profile in PROFILES.values():
        assert profile.ablations.context_length == 12
        assert profile.ablations.epochs <= profile.prompts.epochs


@pytest.mark.parametrize("available", [50, 200, 5000])
def test_every_level_of_every_factor_can_be_scored(encoder, available):
    runs = {seed: Prompts(torch.zeros(12, 384), torch.zeros(12, 384), {}) for seed in SEEDS}
    learned = {arm.label: runs for arm in training_arms(SETTINGS, available)}
    trials = ablations.make_trials([encoder] * len(SEEDS), learned, available)
    for labels in factors(available).values():
        assert set(labels) <= set(trials)
        same = "reports: 300" if labels[0] == "pooling: mean" and available > 300 else REFERENCE
        assert trials[labels[0]] is trials[same], "a factor's first level is its reference"


@pytest.mark.parametrize(
    ("label", "dropped"),
    [("negated: out", "absent"), ("uncertain: positive", ""), ("uncertain: negative", "uncertain")],
)
def test_mentions_are_dropped_or_raised(label, dropped):
    expected = TRIPLETS["positive"]
    if label == "uncertain: positive":
        expected = expected.replace("uncertain", "present")
    found = OF_PAPER[label].mentions(TRIPLETS)["positive"].tolist()
    assert found == [kind for kind in expected if kind != dropped]


@pytest.fixture
def made(encoder, tmp_path):
    """From an arm's label and what is changed of it to its corpus."""
    given = SimpleNamespace(features=tmp_path), encoder
    reports = [Report(f"r{k}", f"p{k}", f"Film number {k}.", "", "train") for k in range(6)]
    return lambda label, **changes: ablations.arm_corpus(
        *given, reports, TRIPLETS, replace(OF_PAPER[label], **changes)
    )


def test_smaller_samples_are_parts_of_larger_ones_and_labels_stay_without_negatives(made):
    few, more = (made(REFERENCE, reports=count).report_features.round(5) for count in (2, 4))
    assert len(few) == 2 and set(map(tuple, few)) <= set(map(tuple, more))
    kept, out = made(REFERENCE), made("negated: out")
    assert np.array_equal(kept.labels, out.labels, equal_nan=True)
    assert sum(map(len, out.description_rows)) < sum(map(len, kept.description_rows))


def test_pooling_changes_the_text_and_its_key_and_leaves_the_original(encoder):
    other = ablations.with_pooling(encoder, "cls")
    assert ablations.with_pooling(encoder, "mean") is encoder
    assert other.text_key != encoder.text_key and encoder.text.pooling == "mean"
    text = ["Edema of both lungs."]
    assert not torch.allclose(other.encode_text(text), encoder.encode_text(text))
    tokens = other.text.tokenize(text)
    with torch.no_grad():
        first = other.text.bert(**tokens).last_hidden_state[:, 0]
        assert torch.allclose(other.encode_text(text), other.text.project(first), atol=1e-6)


def test_levels_are_compared_with_their_reference_and_figures_show_them_all(tmp_path):
    base = np.random.default_rng(0).normal(0.7, 0.02, 101)
    draws = {
        (dataset, label, metric): base * (0.8 if label == "M=1" else 1.0)
        for labels in factors(5000).values()
        for label in labels
        for dataset, metric in ablation_report.MEASURED
    }
    seconds = pd.DataFrame({"label": [f"M={m}" for m in LENGTHS], "seed": 0, "seconds": 2.0})
    profile = SimpleNamespace(name="toy", simulated=True, ablations=SETTINGS, seeds=SEEDS)
    workspace = SimpleNamespace(profile=profile, results=tmp_path, figures=tmp_path)
    rows = ablation_report.save_ablations(workspace, draws, seconds, 5000)
    scored = rows[rows["metric"] != "training_seconds"]
    first = scored[scored["level"].isin([labels[0] for labels in factors(5000).values()])]
    assert first["difference"].isna().all()
    others = scored.drop(first.index)
    assert others["difference"].notna().all() and (others["p_holm"] >= others["p_value"]).all()
    assert set(ablation_report.effects(rows)["level"]) == {"M=1"}
    figure = ablation_report.figure4(workspace, rows)
    assert [t.get_text() for t in figure.axes[4].get_xticklabels()] == [str(m) for m in LENGTHS]
    assert "Simulated" in figure.get_supxlabel()
    other = ablation_report.other_ablations(workspace, rows)
    shown = {t.get_text() for t in other.axes[0].get_yticklabels()}
    assert {"negated: out", "pooling: [CLS], up to 300 reports", "asked by looks"} <= shown
    made = {path.name for path in tmp_path.iterdir()}
    assert {"ablations.csv", "fig4.pdf", "ablations.png"} <= made
