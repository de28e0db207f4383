"""The ablations: every level is trained or derived, samples nest, references stand alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from rctpl_utils.evaluation.ablations import (
    LENGTHS,
    REFERENCE,
    arm_corpus,
    factors,
    make_trials,
    training_arms,
    uncertain_as_present,
    with_pooling,
    without,
)
from rctpl_utils.profiles import PROFILES, PromptLearning
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.ablation_report import (
    MEASURED,
    effects,
    figure4,
    other_ablations,
    save_ablations,
)
from rctpl_utils.text.reports import Report

SETTINGS, SEEDS = PromptLearning(epochs=1, batch_size=8), (0, 1, 2)


def triplets(count: int = 6) -> pd.DataFrame:
    kinds = ("present", "absent", "uncertain")
    rows = [
        {"report_id": f"r{k}", "concept": concept, "location": None, "positive": kinds[(k + j) % 3]}
        for k in range(count)
        for j, concept in enumerate(("Edema", "Mass", "Fracture"))
    ]
    return pd.DataFrame(rows)


def reports(count: int = 6) -> list[Report]:
    return [Report(f"r{k}", f"p{k}", f"Film number {k}.", "", "train") for k in range(count)]


def test_labels_are_distinct_and_the_reference_comes_first():
    arms = training_arms(SETTINGS, 5000)
    assert arms[0].label == REFERENCE
    assert len({arm.label for arm in arms}) == len(arms)
    assert {arm.settings.context_length for arm in arms} == set(LENGTHS)


@pytest.mark.parametrize("available", [50, 200, 5000])
def test_every_level_of_every_factor_can_be_scored(encoder, available):
    runs = {seed: Prompts(torch.zeros(12, 384), torch.zeros(12, 384), {}) for seed in SEEDS}
    learned = {arm.label: runs for arm in training_arms(SETTINGS, available)}
    trials = make_trials([encoder] * len(SEEDS), learned, available)
    for labels in factors(available).values():
        assert set(labels) <= set(trials)
        same = "reports: 300" if labels[0] == "pooling: mean" and available > 300 else REFERENCE
        assert trials[labels[0]] is trials[same], "a factor's first level is its reference"


def test_mentions_are_dropped_or_raised():
    assert "absent" not in set(without("absent")(triplets())["positive"])
    raised = uncertain_as_present(triplets())
    assert set(raised["positive"]) == {"present", "absent"} and len(raised) == len(triplets())


def test_smaller_samples_are_parts_of_larger_ones(encoder, tmp_path):
    workspace = SimpleNamespace(features=tmp_path)
    arm = training_arms(SETTINGS, 5000)[0]
    few, more = (
        arm_corpus(workspace, encoder, reports(), triplets(), replace(arm, reports=count))
        for count in (2, 4)
    )
    rows = {tuple(row) for row in more.report_features.round(5)}
    assert len(few) == 2 and {tuple(row) for row in few.report_features.round(5)} <= rows


def test_labels_stay_when_only_descriptions_of_absent_findings_go(encoder, tmp_path):
    workspace = SimpleNamespace(features=tmp_path)
    arms = {arm.label: arm for arm in training_arms(SETTINGS, 5000)}
    kept = arm_corpus(workspace, encoder, reports(), triplets(), arms[REFERENCE])
    out = arm_corpus(workspace, encoder, reports(), triplets(), arms["negated: out"])
    assert np.array_equal(kept.labels, out.labels, equal_nan=True)
    assert sum(map(len, out.description_rows)) < sum(map(len, kept.description_rows))


def test_pooling_changes_the_text_and_its_key_and_leaves_the_original(encoder):
    other = with_pooling(encoder, "cls")
    assert with_pooling(encoder, "mean") is encoder
    assert other.text_key != encoder.text_key and encoder.text.pooling == "mean"
    text = ["Edema of both lungs."]
    assert not torch.allclose(other.encode_text(text), encoder.encode_text(text))
    tokens = other.text.tokenize(text)
    with torch.no_grad():
        first = other.text.bert(**tokens).last_hidden_state[:, 0]
        assert torch.allclose(other.encode_text(text), other.text.project(first), atol=1e-6)


@pytest.fixture
def table(tmp_path):
    generator = np.random.default_rng(0)
    base = generator.normal(0.7, 0.02, 101)
    draws = {}
    for factor in factors(5000).values():
        for label in factor:
            for dataset, metric in MEASURED:
                draws[dataset, label, metric] = base * (0.8 if label == "M=1" else 1.0)
    seconds = pd.DataFrame({"label": [f"M={m}" for m in LENGTHS], "seed": 0, "seconds": 2.0})
    profile = SimpleNamespace(name="toy", simulated=True, ablations=SETTINGS, seeds=SEEDS)
    workspace = SimpleNamespace(profile=profile, results=tmp_path, figures=tmp_path)
    return workspace, save_ablations(workspace, draws, seconds, 5000)


def test_references_compare_with_nothing_and_others_with_them(table):
    workspace, rows = table
    scored = rows[rows["metric"] != "training_seconds"]
    first = scored[scored["level"].isin([labels[0] for labels in factors(5000).values()])]
    assert first["difference"].isna().all()
    others = scored.drop(first.index)
    assert others["difference"].notna().all() and (others["p_holm"] >= others["p_value"]).all()
    assert set(effects(rows)["level"]) == {"M=1"}
    assert (workspace.figures / "ablations.csv").exists()


def test_the_figures_show_every_level(table):
    workspace, rows = table
    figure = figure4(workspace, rows)
    assert [t.get_text() for t in figure.axes[4].get_xticklabels()] == [str(m) for m in LENGTHS]
    assert "Simulated" in figure.get_supxlabel()
    other = other_ablations(workspace, rows)
    shown = {t.get_text() for t in other.axes[0].get_yticklabels()}
    assert {"negated: out", "pooling: [CLS], up to 300 reports", "asked by looks"} <= shown
    assert (workspace.figures / "fig4.pdf").exists() and (
        workspace.figures / "ablations.png"
    ).exists()


def test_the_short_schedule_serves_every_profile():
    for profile in PROFILES.values():
        assert profile.ablations.context_length == 12
        assert profile.ablations.epochs <= profile.prompts.epochs
