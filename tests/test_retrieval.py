"""Image-text retrieval: which sentences, which order, which precision."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import zscore

from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation import retrieval
from rctpl_utils.evaluation.retrieval import RANKS, Side, retrieve, select_sentences, top, unit
from rctpl_utils.profiles import get_profile
from rctpl_utils.prompts.zero_shot import Method
from rctpl_utils.reporting import tables
from rctpl_utils.reporting.tables import other_pools
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.text.reports import Report

ATELECTASIS, CARDIOMEGALY, CONSOLIDATION, EDEMA, EFFUSION = COMPETITION

# --- sentences ---


def select(rows, sources: dict | None = None, **splits: str) -> pd.DataFrame:
    """From (report, start, sentence, concept, assertion) and reports with their splits."""
    columns = ["report_id", "start", "sentence", "concept", "positive"]
    listed = [Report(name, f"p-{name}", "", "", split) for name, split in splits.items()]
    sources = pd.Series(sources or {}, dtype=str)
    return retrieval.single_concept_sentences(pd.DataFrame(rows, columns=columns), listed, sources)


@pytest.mark.parametrize(
    ("others", "qualifies"),
    [
        ([], True),
        ([("Lung Opacity", "present")], True),  # a parent of edema
        ([("Pneumothorax", "absent")], True),  # not one of the five
        ([("Pneumonia", "uncertain")], True),
        ([(EDEMA, "present")], True),  # named twice
        ([(EFFUSION, "present")], False),  # two of the five
        ([("Fracture", "present")], False),  # something else is there
        ([("Pneumonia", "present")], False),  # a parent's other child
        ([(EFFUSION, "absent")], False),
        ([(EFFUSION, "uncertain")], False),
        ([(EDEMA, "absent")], False),  # on the other side
    ],
)
def test_which_sentences_qualify(others, qualifies):
    rows = [("s1", 5, "Edema and so on.", EDEMA, "present")]
    rows += [("s1", 9, "Edema and so on.", *other) for other in others]
    found = select(rows, s1="train")
    assert found["concept"].tolist() == [EDEMA] * qualifies
    assert found["sentence_id"].tolist() == ["s1-5"] * qualifies


def test_best_candidates_come_first_and_sentences_without_a_class_are_left_out():
    """Held-out before training, real before templated, then report and place."""
    rows = [("s1", 0, "Perhaps edema.", EDEMA, "uncertain"), ("s1", 20, "No.", EDEMA, "absent")]
    rows += [("s1", 40, "Fracture.", "Fracture", "present")]
    rows += [("s9", 0, "Edema.", EDEMA, "present")]  # a report that is not listed
    assert select(rows, s1="train").empty
    rows = [(f"s{k}", 3, f"Edema {k}.", EDEMA, "present") for k in range(6)]
    rows.append(("s4", 1, "Edema earlier.", EDEMA, "present"))
    kinds = ("train", "train", "test", "validate", "test", "train")
    splits = {f"s{k}": kind for k, kind in enumerate(kinds)}
    sources = {name: f"CXR{name}" for name in ("s0", "s3", "s4", "s5")}  # s1, s2 are templated
    found = select(rows, sources, **splits)
    assert found["sentence_id"].tolist() == ["s3-3", "s4-1", "s4-3", "s2-3", "s0-3", "s5-3", "s1-3"]
    assert found["held_out"].tolist() == [True] * 4 + [False] * 3
    assert found["templated"].tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    assert found["source"][0] == "CXRs3" and found["patient_id"][0] == "p-s3"
    shuffled = select(rows[::-1], sources, **dict(reversed(splits.items())))
    pd.testing.assert_frame_equal(found, shuffled)
    found = select(rows, **splits)  # without sources nothing is templated or quotable
    assert not found["templated"].any() and (found["source"] == "").all()


def small_candidates() -> pd.DataFrame:
    """Edema twice (once in other spelling), three distinct effusions, one of each other class."""
    said = ["Mild edema.", "MILD  edema", "Severe edema.", "Effusion.", "Effusion left."]
    said += ["Effusion right.", "Atelectasis.", "Big heart.", "Consolidation."]
    concepts = [EDEMA] * 3 + [EFFUSION] * 3 + [ATELECTASIS, CARDIOMEGALY, CONSOLIDATION]
    rows = [("abc"[k % 3], k, text, concepts[k], "present") for k, text in enumerate(said)]
    return select(rows, {"a": "CXR1", "b": "CXR2"}, a="test", b="train", c="train")


def test_a_class_repeats_its_sentences_only_when_they_run_out():
    candidates = small_candidates()
    pool = select_sentences(candidates, 3)
    assert pool["concept"].tolist() == [concept for concept in COMPETITION for _ in range(3)]
    of = {concept: rows["sentence_id"].tolist() for concept, rows in pool.groupby("concept")}
    assert of[EDEMA] == ["a-0", "c-2", "a-0#2"]  # "MILD  edema" is "Mild edema." again
    assert of[EFFUSION] == ["a-3", "b-4", "c-5"]
    assert of[ATELECTASIS] == ["a-6", "a-6#2", "a-6#3"]
    assert pool["sentence_id"].is_unique
    assert select_sentences(candidates, 1)["turn"].tolist() == [1] * 5
    with pytest.raises(InputError, match="no sentence is about Cardiomegaly alone"):
        select_sentences(candidates[candidates["concept"] != CARDIOMEGALY], 3)


def test_counts_and_equal_shares_of_the_pool():
    candidates = small_candidates()
    pool = select_sentences(candidates, 3)
    table = retrieval.sentence_counts(candidates, pool)
    expected = {  # sentences, distinct, held out, also in training, training, templated, repeats
        EDEMA: [3, 2, 1, 1, 1, 1, 1, 2],
        EFFUSION: [3, 3, 1, 0, 2, 1, 0, 1],
        ATELECTASIS: [3, 1, 1, 0, 0, 0, 2, 3],
        CONSOLIDATION: [3, 1, 0, 0, 1, 1, 2, 3],
        "all": [15, 8, 3, 1, 5, 3, 7, 3],
    }
    assert table.loc[list(expected)].to_numpy().tolist() == list(expected.values())
    share = retrieval.equal_share
    assert pool["sentence_id"][share(pool)].tolist() == ["a-6", "b-7", "c-8", "a-0", "a-3"]
    assert not share(pool[pool["concept"] != EDEMA]).any()  # no edema, so nothing of any


def test_ranking_with_ties_by_hand():
    queries = np.array([[1.0, 0.0], [0.0, 1.0]])
    candidates = np.array([[0.0, 1.0], [0.6, 0.8], [0.6, -0.8], [1.0, 0.0], [0.6, 0.8 + 1e-9]])
    assert top(queries, candidates, 5).tolist() == [[3, 1, 2, 4, 0], [0, 1, 4, 3, 2]]
    assert top(queries, candidates, 2).tolist() == [[3, 1], [0, 1]]
    with pytest.raises(InputError, match="3 candidates, but the first 10"):
        top(np.eye(3), np.eye(3))
    assert unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [[0.6, 0.8], [0.0, 0.0]]


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(10, 40), st.sampled_from([1, 3, 256])
)
def test_precision_is_that_of_a_slow_literal_version(seed, n, m, block):
    generator = np.random.default_rng(seed)
    queries, candidates = (unit(generator.integers(-2, 3, (k, 3)).astype(float)) for k in (n, m))
    query_classes, classes = generator.integers(5, size=n), generator.integers(5, size=m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "QUERY_BLOCK", block)
        found = retrieval.precisions(top(queries, candidates), query_classes, classes)
    for i in range(n):
        scores = [round(float(np.dot(queries[i], c)), 6) for c in candidates]
        ranked = sorted(range(m), key=lambda j, s=scores: (-s[j], j))
        for k, rank in enumerate(RANKS):
            hits = sum(classes[j] == query_classes[i] for j in ranked[:rank])
            assert found[i, k] == pytest.approx(hits / rank)


@given(arrays.arrays(np.float64, (6, 3), elements=st.integers(-5, 5)))
def test_standardizing_is_scipys_except_for_constant_columns(vectors):
    constant = np.ptp(vectors, axis=0) == 0
    expected = zscore(vectors[:, ~constant], axis=0)
    np.testing.assert_allclose(retrieval.standardized(vectors)[:, ~constant], expected, atol=1e-12)
    assert not retrieval.standardized(vectors)[:, constant].any()


def side(generator, name: str, size: int, noise: float) -> Side:
    """`size` items a class; scores are the class with noise, embeddings are noise only."""
    classes, count = np.repeat(np.arange(5), size), 5 * size
    records = pd.DataFrame({
        "item_id": [f"{name}{k:04d}" for k in range(count)],
        "patient_id": [f"p{k // 2}" for k in range(count)],
        "concept": [COMPETITION[k] for k in classes], "turn": 1, "held_out": True,
        "templated": False, "sentence": [f"Sentence {k}." for k in range(count)], "source": "",
        "report_id": "s1",
    })  # fmt: skip
    scores = {
        method: [np.eye(5)[classes] + noise * generator.normal(size=(count, 5))] * runs
        for method, runs in (("class names", 1), ("RC-TPL", 2), ("RC-TPL+", 2))
    }
    return Side(records, [unit(generator.normal(size=(count, 8)))], scores)


def two_sides(seed: int, films: int, sentences: int, noise: float) -> tuple[Side, Side]:
    generator = np.random.default_rng(seed)
    return side(generator, "image", films, noise), side(generator, "s", sentences, noise)


@pytest.fixture(scope="module")
def pools() -> tuple[Side, Side]:
    return two_sides(0, 30, 40, 0.1)


def values(outcome: retrieval.Retrieval) -> pd.DataFrame:
    return outcome.rows.pivot(index="metric", columns="method", values="value")


def test_random_scores_are_at_chance_and_class_scores_are_right(pools):
    outcome = retrieve(*pools, resamples=50)
    table = values(outcome)
    assert (table["chance"] == 0.2).all() and (table["RC-TPL"] == 1).all()
    rows = outcome.rows.set_index(["method", "metric"])
    random = rows.loc[("raw embeddings", "precision_at_10")]
    assert random["ci_low"] < 0.2 < random["ci_high"]
    names = [f"precision_at_{rank}" for rank in RANKS]
    assert set(outcome.rows["metric"]) == {*names, *(f"text_to_image_{name}" for name in names)}
    counts = outcome.rows.groupby("metric")["n"].first()
    assert counts["precision_at_1"] == 150 and counts["text_to_image_precision_at_1"] == 200
    assert rows.loc[("RC-TPL", "precision_at_1"), "seeds"] == 2
    series = outcome.draws["chexpert5x200", "raw embeddings", "precision_at_10"]
    assert series.shape == (1, 51) and series[0, 0] == random["value"] and np.ptp(series) > 0


def test_text_to_image_is_image_to_text_with_sides_exchanged():
    films, sentences = two_sides(1, 12, 15, 0.8)
    there, back = (values(retrieve(*pair, 3)) for pair in ((films, sentences), (sentences, films)))
    ours = [f"precision_at_{rank}" for rank in RANKS]
    theirs = [f"text_to_image_{name}" for name in ours]
    for one, two in ((ours, theirs), (theirs, ours)):
        assert there.loc[one].to_numpy().tolist() == back.loc[two].to_numpy().tolist()
    assert there.loc["precision_at_1", "RC-TPL"] < 1  # the noise leaves something to compare


def test_an_offset_of_the_modality_changes_plain_cosine_only():
    films, sentences = two_sides(2, 12, 15, 0.3)
    offset = np.array([5.0, 0, 0, -5.0, 0])
    moved = {name: [run + offset for run in runs] for name, runs in films.scores.items()}
    shifted = values(retrieve(replace(films, scores=moved), sentences, 3))
    still = values(retrieve(films, sentences, 3))
    np.testing.assert_allclose(shifted["RC-TPL"], still["RC-TPL"])
    name = "RC-TPL, plain cosine"
    assert shifted.loc["precision_at_10", name] < still.loc["precision_at_10", name] - 0.2


def test_resamples_draw_patients_of_queries():
    """Two patients, one always right and one always wrong: a resample is 0, 1/2 or 1."""
    films, sentences = two_sides(3, 10, 10, 0.0)
    right = films.classes < 2
    wrong = np.eye(5)[np.where(right, films.classes, (films.classes - 1) % 3 + 2)]
    records = films.records.assign(patient_id=right)
    films = replace(films, records=records, scores={"RC-TPL": [wrong, wrong]})
    sentences = replace(sentences, scores={"RC-TPL": sentences.scores["RC-TPL"]})
    draws = retrieve(films, sentences, 200).draws["chexpert5x200", "RC-TPL", "precision_at_10"]
    assert draws.shape == (2, 201) and np.array_equal(draws[0], draws[1])  # equal runs
    assert draws[0, 0] == pytest.approx(0.4)
    # 20 films of one patient and 30 of the other: drawn as (2, 0), (1, 1) or (0, 2)
    assert {round(value, 6) for value in draws[0, 1:]} == {1.0, 0.4, 0.0}


def test_a_sentence_is_its_own_only_region(encoder, tmp_path):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 5, encoder.dimension, generator=generator)
    report, concept = torch.nn.functional.normalize(drawn, dim=-1)
    embed = (lambda names: ClassEmbeddings(report, concept),)
    methods = [Method(branch, embed, branch) for branch in ("report", "concept", "both")]
    pool = select_sentences(small_candidates(), 2)
    workspace = SimpleNamespace(features=tmp_path)
    classes = retrieval.embed_classes(methods)
    scored = retrieval.sentence_side(workspace, (encoder,), methods, classes, pool)
    assert scored.records["item_id"].tolist() == sorted(pool["sentence_id"])
    text = encoder.encode_text(scored.records["sentence"].tolist())
    np.testing.assert_allclose(scored.embeddings[0], text, atol=1e-5)
    expected = {"report": report, "concept": concept, "both": (report + concept) / 2}
    for branch, vectors in expected.items():
        np.testing.assert_allclose(scored.scores[branch][0], text @ vectors.T, atol=1e-5)
    equal = scored.records.groupby("sentence").indices.values()
    spreads = [np.ptp(scored.scores["both"][0][rows], axis=0) for rows in equal if len(rows) > 1]
    assert spreads and np.max(spreads) == 0  # a repeat scores exactly as the first one


def test_table_and_tests(pools, tmp_path):
    workspace = SimpleNamespace(figures=tmp_path, results=tmp_path, profile=get_profile("smoke"))
    outcome = retrieve(*pools, resamples=20)
    wide = tables.save_table5(workspace, outcome)
    first = ["precision_at_1", "precision_at_1 reported", "precision_at_2"]
    assert wide.columns[:3].tolist() == first
    assert wide.loc["GLoRIA", "precision_at_1"] == "not run"
    assert wide.loc["RC-TPL", "precision_at_10 reported"] == "0.6100"
    table = pd.read_csv(tmp_path / "table5.csv")
    native = table.dropna(subset="value").groupby("method")["native"].first()
    plain = ["RC-TPL, plain cosine", "RC-TPL+, plain cosine", "raw embeddings"]
    assert set(native[native.astype(bool)].index) == {"RC-TPL", "RC-TPL+", *plain}
    written = (tmp_path / "table5.md").read_text()
    assert "Simulated" in written and "| chexpert5x200 precision_at_1 |" in written
    tests = tables.retrieval_tests(workspace, outcome).set_index(["method", "against", "metric"])
    won = tests.loc[("RC-TPL", "raw embeddings", "precision_at_1")]
    lost = outcome.draws["chexpert5x200", "raw embeddings", "precision_at_1"][0, 0]
    assert won["value"] == pytest.approx(1 - lost) and won["p_holm"] >= won["p_value"]
    assert tests.loc[("RC-TPL", "class names", "precision_at_1"), "p_value"] == 1  # both all right


def test_smaller_pools(pools):
    _, sentences = pools
    records = sentences.records.assign(held_out=sentences.records.index % 40 < 3)
    changed = replace(sentences, records=records)
    names = ["distinct (200)", "held out, distinct (15)"]
    outcomes = {name: retrieve(pools[0], part, 5) for name, part in other_pools(changed).items()}
    assert list(outcomes) == names
    assert tables.compare_pools(outcomes).columns.get_level_values(0).unique().tolist() == names
    none = replace(sentences, records=records.assign(held_out=False))
    assert list(other_pools(none)) == ["distinct (200)"]


@pytest.mark.parametrize(
    ("change", "quote", "source"),
    [
        ({}, "[not quoted: s", "s1"),  # real MIMIC-CXR
        ({"source": "CXR7"}, "Sentence ", "Open-I CXR7"),
        ({"templated": True}, "Sentence ", "templated, ours"),
    ],
)
def test_found_sentences_quote_only_what_may_be_quoted(pools, change, quote, source):
    films, sentences = pools
    changed = replace(sentences, records=sentences.records.assign(**change))
    shown = tables.found_sentences(films, changed, "RC-TPL")
    assert shown["shows"].tolist() == [concept for concept in COMPETITION for _ in range(3)]
    assert shown["sentence"].str.startswith(quote).all()
    assert shown["right"].all() and (shown["source"] == source).all()
