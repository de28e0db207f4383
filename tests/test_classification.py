"""The evaluation behind Table 1: tidy rows, seeds, paired tests, the three-film softmax."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from rctpl_utils.evaluation import results
from rctpl_utils.evaluation.metrics import holm, patient_weights
from rctpl_utils.evaluation.table1 import Split, compare, evaluate
from rctpl_utils.reporting.tables import verdict


@pytest.fixture(scope="module")
def outcome():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (120, 3)).astype(float)
    labels[:, 2] = 0  # a class without positives
    good = labels + generator.normal(0, 0.7, labels.shape)
    noise = [generator.normal(size=labels.shape) for _ in range(3)]
    split = Split(labels, {"good": [good], "noise": noise})
    weights = patient_weights(pd.Series(range(120)), 200, generator)
    return split, evaluate("toy", ("A", "B", "C"), split, split, weights)


def test_macro_auc_is_scikit_learns_and_several_seeds_give_their_mean(outcome):
    split, found = outcome
    rows = found.rows.set_index(["method", "metric"])["value"]
    aucs = [roc_auc_score(split.labels[:, k], split.scores["good"][0][:, k]) for k in (0, 1)]
    assert rows["good", "auc"] == pytest.approx(np.mean(aucs))
    assert set(found.per_class["concept"]) == {"A", "B"}

    shown = "method == 'noise' and metric == 'auc'"
    seeds, row = found.per_seed.query(shown), found.rows.query(shown)
    assert seeds["seed"].tolist() == [0, 1, 2] and row["seeds"].tolist() == [3]
    assert row["value"].tolist() == pytest.approx([seeds["value"].mean()])
    series = found.draws["toy", "noise", "auc"]
    assert series.shape == (3, 201) and series[:, 0].tolist() == seeds["value"].tolist()
    value = found.rows["value"]
    assert (found.rows["ci_low"] <= value).all() and (value <= found.rows["ci_high"]).all()


def test_a_paired_test_sees_a_clear_difference(outcome):
    _, found = outcome
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    tests = compare(found, "good", ["noise"])
    assert tests["value"].iloc[0] > 0.2 and tests["p_value"].iloc[0] < 0.02
    assert "good against noise: better on toy" in verdict(tests.assign(p_holm=tests["p_value"]))


def test_the_papers_numbers_stand_beside_ours_and_missing_rows_say_so(tmp_path):
    row = {"dataset": "rsna", "method": "RC-TPL", "metric": "auc", "value": 0.5, "ci_low": 0.4}
    rows = pd.DataFrame([{**row, "ci_high": 0.6, "seeds": 3, "n": 10, "native": True}])
    assert len(results.reported_table1()) == 9 * 5 * 2, "nine methods in five columns"
    table = results.with_reported(rows, results.reported_table1())
    own = table[(table["method"] == "RC-TPL") & (table["dataset"] == "rsna")]
    assert sorted(own["reported"]) == [0.8072, 0.8888]
    wide = results.wide_table(table)
    assert wide.loc["RC-TPL", ("rsna", "auc")] == "0.500 [0.400, 0.600]"
    assert wide.loc["GLoRIA", ("rsna", "auc")] == results.NOT_RUN
    assert wide.loc["GLoRIA", ("rsna", "auc reported")] == "0.7145"
    markdown, tex = results.write_table(tmp_path / "t", wide, "95 % of all")
    assert "| GLoRIA | " in markdown.read_text() and "95 \\% of all" in tex.read_text()
