import pytest
from hypothesis import given
from hypothesis import strategies as st

from rctpl_utils import vocabulary as words
from rctpl_utils.errors import InputError


@given(st.sets(st.sampled_from(words.CONCEPTS)))
def test_closing_a_set_upwards(present):
    expected = {"Mass", "Lung Lesion", "Lung Opacity", "Hernia"}
    assert words.with_parents(["Mass", "Hernia"]) == expected
    closed = words.with_parents(present)
    assert present <= closed
    assert words.with_parents(closed) == closed
    assert all(words.PARENTS[c] in closed for c in closed if c in words.PARENTS)


def test_the_concept_sets_have_the_published_sizes_and_prompts_their_names():
    names = {"Pleural Effusion": "pleural effusion", "COVID-19": "COVID-19"}
    names["No Finding"] = "no finding"
    assert {each: words.prompt_name(each) for each in names} == names
    chexpert, chestxray14 = words.CHEXPERT_CONCEPTS, words.CHESTXRAY14_CONCEPTS
    assert (len(chexpert), len(chestxray14), len(words.TRAINING_CONCEPTS)) == (13, 14, 20)
    trained = {*chexpert, *chestxray14}
    assert trained == set(words.TRAINING_CONCEPTS) and len(trained) == 20
    assert not trained & set(words.UNSEEN_CONCEPTS)


@pytest.mark.parametrize("call", [words.prompt_name, lambda name: words.with_parents([name])])
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
    assert words.split_location(location) == expected
    with pytest.raises(InputError, match="left knee"):
        words.split_location("left knee")


PLACES = words.load_vocabulary().places.values()


@given(st.sampled_from([None, *words.SIDES]), st.sampled_from([None, *PLACES]))
def test_a_location_splits_into_what_it_was_made_of(side, place):
    zone = place.zone if place else None
    assert words.split_location(words.location_name(side, place)) == (side, zone)


def test_the_phrase_lists_are_complete_and_lower_case():
    loaded = words.load_vocabulary()
    assert set().union(*loaded.named.values()) == set(words.CONCEPTS)
    phrases = [*loaded.named]
    phrases += [p for place in loaded.places.values() for p in (*place.phrases, *place.both_sides)]
    assert all(phrase == " ".join(phrase.lower().split()) for phrase in phrases)
    assert all(place in loaded.places for _, place in loaded.fused.values())
    assert loaded.named["covid-19"] == ("COVID-19",)
