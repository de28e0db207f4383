import pytest
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils.errors import InputError
from rctpl_utils.vocabulary import (
    CHESTXRAY14_CONCEPTS,
    CHEXPERT_CONCEPTS,
    CONCEPTS,
    PARENTS,
    SIDES,
    TRAINING_CONCEPTS,
    UNSEEN_CONCEPTS,
    load_vocabulary,
    location_name,
    prompt_name,
    split_location,
    with_parents,
)


def test_the_concept_sets_have_the_published_sizes():
    assert len(CHEXPERT_CONCEPTS) == 13 and len(CHESTXRAY14_CONCEPTS) == 14
    assert len(TRAINING_CONCEPTS) == len(set(TRAINING_CONCEPTS)) == 20
    assert set(TRAINING_CONCEPTS) == set(CHEXPERT_CONCEPTS) | set(CHESTXRAY14_CONCEPTS)
    assert not set(UNSEEN_CONCEPTS) & set(TRAINING_CONCEPTS)


@given(st.sets(st.sampled_from(CONCEPTS)))
def test_closing_a_set_upwards(present):
    assert with_parents(["Mass", "Hernia"]) == {"Mass", "Lung Lesion", "Lung Opacity", "Hernia"}
    closed = with_parents(present)
    assert present <= closed
    assert with_parents(closed) == closed
    assert all(PARENTS[c] in closed for c in closed if c in PARENTS)


def test_prompt_names():
    names = [prompt_name(each) for each in ("Pleural Effusion", "COVID-19", "No Finding")]
    assert names == ["pleural effusion", "COVID-19", "no finding"]


@pytest.mark.parametrize("call", [prompt_name, lambda name: with_parents([name])])
def test_an_unknown_concept_is_refused(call):
    with pytest.raises(InputError, match="Measles"):
        call("Measles")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (None, (None, None)),
        ("left", ("left", None)),
        ("left lower lobe", ("left", "lower")),
        ("right apex", ("right", "apex")),
        ("bilateral bases", ("bilateral", "base")),
        ("left costophrenic angle", ("left", "costophrenic")),
        ("retrocardiac region", (None, "retrocardiac")),
        ("right lung", ("right", None)),
    ],
)
def test_splitting_a_location(location, expected):
    assert split_location(location) == expected
    with pytest.raises(InputError, match="left knee"):
        split_location("left knee")


@given(st.sampled_from([None, *SIDES]), st.sampled_from([None, *load_vocabulary().places.values()]))
def test_a_location_splits_into_what_it_was_made_of(side, place):
    zone = place.zone if place else None
    assert split_location(location_name(side, place)) == (side, zone)


def test_the_phrase_lists_are_complete_and_lower_case():
    vocabulary = load_vocabulary()
    assert {concept for named in vocabulary.named.values() for concept in named} == set(CONCEPTS)
    phrases = [*vocabulary.named]
    phrases += [
        p for place in vocabulary.places.values() for p in (*place.phrases, *place.both_sides)
    ]
    assert all(phrase == " ".join(phrase.lower().split()) for phrase in phrases)
    assert all(place in vocabulary.places for _, place in vocabulary.fused.values())
    assert vocabulary.named["covid-19"] == ("COVID-19",)
