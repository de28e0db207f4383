"""Knowledge injection (paper 3.1.2): triplets become sentences that say what a concept is.

Five sources: `kb`, written in our own words; `llm`, written by a language model, each text with its
prompt; `clause`, the `kb`'s definition as one clause; `general`, "a photo of ..."; and `none`, the
bare name. A person reads one definition (`describe`); the text encoder reads what can be seen, and
nothing of causes: a few short sentences (`sentences`), each encoded alone, whose unit vectors are
averaged. One long clause, half about a virus, is pooled into a vector of neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, read_json
from rctpl_utils.vocabulary import CONCEPTS, NO_FINDING, UNSEEN_CONCEPTS, prompt_name
from rctpl_utils.workspace import PACKAGE_DATA

DESCRIBED = (*CONCEPTS, NO_FINDING)
SOURCES = ("kb", "llm", "clause", "general", "none")

# What follows the definition. Figure 2 shows "Not present."; the sentence for hedged findings is
# ours: they count neither as positive nor as negative, and yet must not read like a present one.
_STATUS = {"present": "", "absent": " Not present.", "uncertain": " Possibly present."}


@dataclass(frozen=True)
class Knowledge:
    """One source of knowledge, by concept."""

    source: str
    opening: Mapping[str, str]  # the first sentence of its descriptions
    records: Mapping[str, Mapping[str, str]]  # where it is from; none for `general` and `none`
    looks: Mapping[str, tuple[str, ...]]  # visual attributes; without, it is read by its opening

    @staticmethod
    @cache
    def load(source: str = "kb") -> "Knowledge":
        """Load a source that the package carries; an `InputError` for any other name."""
        if source not in SOURCES:
            raise InputError(
                f"there is no knowledge source {source!r}", f"Choose one of: {', '.join(SOURCES)}."
            )
        if source in ("kb", "llm", "clause"):
            name = "kb" if source == "clause" else source
            records = read_json(PACKAGE_DATA / "knowledge.json")[name]
            known = Knowledge.from_texts(source, records)
            return replace(known, looks=MappingProxyType({})) if source == "clause" else known
        form = "a photo of {}." if source == "general" else "{}."
        opening = {concept: form.format(prompt_name(concept)) for concept in DESCRIBED}
        return Knowledge(source, *map(MappingProxyType, (opening, {}, {})))

    @classmethod
    def from_texts(cls, source: str, records: Mapping[str, Mapping[str, str]]) -> "Knowledge":
        """Make a source of records {concept: {"text": ..., where it comes from}}.

        A record may have "attributes", the phrases of `looks`. An unknown concept or an empty text
        is an `InputError`.
        """
        opening = {}
        for concept, record in records.items():
            _check(concept, "present")
            text = record.get("text", "").strip()
            if not text:
                raise InputError(f"no text for {concept!r}", f"Mend the source {source!r}.")
            name = _capital(prompt_name(concept))
            opening[concept] = f"{name} refers to {text.rstrip('.')}."
        looks = {c: tuple(r["attributes"]) for c, r in records.items() if r.get("attributes")}
        return cls(source, *map(MappingProxyType, (opening, dict(records), looks)))

    def describe(self, concept: str, location: str | None = None, positive: str = "present") -> str:
        """The sentence of one triplet: "Mass refers to ... . It is located at ... .".

        An absent finding lies nowhere: "Not present." takes the place of its location (Figure 2).

        Raises:
            InputError: an unknown concept or status, or a concept that the source lacks.
        """
        return self._opening(concept, positive) + _clauses(location, positive)

    def sentences(
        self, concept: str, location: str | None = None, positive: str = "present"
    ) -> tuple[str, ...]:
        """What the text encoder reads of a triplet, each sentence alone; raises as `describe`.

        "Mass: large rounded white opacity. It is located at ... .", one an attribute. The name of a
        concept that no training report has tells an encoder nothing, and is left out.
        """
        opening, clauses = self._opening(concept, positive), _clauses(location, positive)
        if concept not in self.looks:
            return (opening + clauses,)
        name = "" if concept in UNSEEN_CONCEPTS else f"{prompt_name(concept)}: "
        return tuple(_capital(f"{name}{each}.") + clauses for each in self.looks[concept])

    def _opening(self, concept: str, positive: str) -> str:
        _check(concept, positive)
        if concept not in self.opening:
            problem = f"the source {self.source!r} does not describe {concept!r}"
            raise InputError(problem, "Choose another source.")
        return self.opening[concept]


def describe(
    concept: str, location: str | None = None, positive: str = "present", source: str = "kb"
) -> str:
    """`Knowledge.describe` of a source that the package carries."""
    return Knowledge.load(source).describe(concept, location, positive)


def describe_triplets(
    triplets: pd.DataFrame, source: str | Knowledge = "kb", with_location: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Describe all triplets, each distinct text once; False leaves locations out (paper 4.3.2).

    Returns:
        descriptions: one row a distinct text, ordered by concept, status and location whatever
            the order of the triplets: text_id (its row number), text (for readers), sentences
            (for the encoder), concept, location, positive, source, triplets (how many share it).
        mapping: the distinct pairs report_id, text_id, in the order of the triplets.
    """
    knowledge = Knowledge.load(source) if isinstance(source, str) else source
    missing = {"report_id", "concept", "location", "positive"} - set(triplets.columns)
    if missing:
        raise InputError(
            f"the triplets lack the columns {sorted(missing)}", "Extract them again (notebook 01)."
        )
    keys = triplets[["concept", "location", "positive"]].astype(object)
    silent = (keys["positive"] == "absent") | (not with_location)
    keys["location"] = keys["location"].where(keys["location"].notna() & ~silent, "")
    distinct = (
        keys.value_counts(sort=False, dropna=False)  # a missing concept is refused, not lost
        .rename("triplets")
        .reset_index()
        .sort_values(["concept", "positive", "location"], ignore_index=True)
    )
    locations = [location or None for location in distinct["location"]]
    asked = list(zip(distinct["concept"], locations, distinct["positive"], strict=True))
    descriptions = pd.DataFrame(
        {
            "text_id": range(len(distinct)),
            "text": [knowledge.describe(*each) for each in asked],
            "sentences": [knowledge.sentences(*each) for each in asked],
            "concept": distinct["concept"],
            "location": locations,
            "positive": distinct["positive"],
            "source": knowledge.source,
            "triplets": distinct["triplets"],
        }
    )
    texts = pd.MultiIndex.from_frame(distinct[keys.columns])
    text_id = texts.get_indexer(pd.MultiIndex.from_frame(keys))
    mapping = pd.DataFrame({"report_id": triplets["report_id"].to_numpy(), "text_id": text_id})
    return descriptions, mapping.drop_duplicates(ignore_index=True)


def save_descriptions(path: Path, descriptions: pd.DataFrame, mapping: pd.DataFrame) -> None:
    """Write the descriptions to `path`, the mapping beside it (parquet)."""
    for target, frame in ((path.with_name(f"report_{path.name}"), mapping), (path, descriptions)):
        with atomic_path(target) as temporary:
            frame.to_parquet(temporary, index=False)


def ensemble(concept: str) -> list[str]:
    """The hand-written prompts of a concept: templates, severity x location, signs.

    The idea of combining severities and places is that of GLoRIA's and MedCLIP's prompts (Huang et
    al. 2021, Wang et al. 2022), the words are ours.
    """
    _check(concept, "present")
    data = read_json(PACKAGE_DATA / "ensemble.json")
    if concept in data["fixed"]:
        return list(data["fixed"][concept])
    words, prompts = data["concepts"][concept], []
    for template in data["templates"]:
        asked = [field for field in ("severity", "location", "sign") if f"{{{field}}}" in template]
        fillings = zip(*(words[field] for field in asked), strict=True) if asked else [()]
        for filling in fillings:
            named = dict(zip(asked, filling, strict=True))
            prompts.append(template.format(name=prompt_name(concept), **named))
    return prompts


def _check(concept: str, positive: str) -> None:
    if concept not in DESCRIBED:
        raise InputError(f"{concept!r} is no concept", f"Choose one of: {', '.join(DESCRIBED)}.")
    if positive not in _STATUS:
        raise InputError(f"{positive!r} is no status", f"Choose one of: {', '.join(_STATUS)}.")


def _clauses(location: str | None, positive: str) -> str:
    where = location if positive != "absent" else None
    return (f" It is located at {where}." if where else "") + _STATUS[positive]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
