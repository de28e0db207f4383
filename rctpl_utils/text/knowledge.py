"""Knowledge injection (paper 3.1.2): triplets become sentences that say what a concept is.

Five sources: `kb`, written in our own words; `llm`, written by a language model, each text with its
prompt; `clause`, the `kb`'s definition as one clause; `general`, "a photo of ..."; and `none`, the
bare name. Each with or without the location (paper 4.3.2).

A person reads one definition (`describe`), what a disease is and how it looks. The text encoder
reads what can be seen, and nothing of causes: a few short sentences (`sentences`), each encoded
alone, whose unit vectors are averaged (`corpus_building.description_features`). One long clause,
half about a virus, is pooled into a vector of neither.
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
    """One source of knowledge.

    Attributes:
        source: its name.
        opening: concept -> the first sentence of its descriptions.
        records: concept -> where the text comes from; empty for `general` and `none`.
        looks: concept -> its visual attributes, a short phrase each; those that have none are read
            by their opening.
    """

    source: str
    opening: Mapping[str, str]
    records: Mapping[str, Mapping[str, str]]
    looks: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls, source: str = "kb") -> "Knowledge":
        """Load a source that the package carries.

        Raises:
            InputError: an unknown source.
        """
        return _load(source)

    @classmethod
    def from_texts(cls, source: str, records: Mapping[str, Mapping[str, str]]) -> "Knowledge":
        """Make a source of records {concept: {"text": ..., where it comes from}}.

        A record may have "attributes", the phrases of `looks`. This is how the live sources join in
        (`rctpl_utils.text.knowledge_live`).

        Raises:
            InputError: an unknown concept, an empty text.
        """
        for concept, record in records.items():
            _check(concept, "present")
            if not record.get("text", "").strip():
                raise InputError(f"no text for {concept!r}", f"Mend the source {source!r}.")
        opening = {
            concept: f"{_sentence_name(concept)} refers to {_clause(record['text'])}."
            for concept, record in records.items()
        }
        looks = {c: tuple(r["attributes"]) for c, r in records.items() if r.get("attributes")}
        return cls(source, *map(MappingProxyType, (opening, dict(records), looks)))

    def describe(
        self,
        concept: str,
        location: str | None = None,
        positive: str = "present",
        with_location: bool = True,
    ) -> str:
        """Return the sentence of one triplet: "Mass refers to ... . It is located at ... .".

        An absent finding lies nowhere: "Not present." takes the place of its location (Figure 2).

        Args:
            concept: a canonical concept name, or "No Finding".
            location: a canonical location, or None.
            positive: "present", "absent" or "uncertain".
            with_location: False leaves the location out (the paper's "w/o position").

        Raises:
            InputError: an unknown concept or status, or a concept that the source lacks.
        """
        return self._opening(concept, positive) + _clauses(location, positive, with_location)

    def sentences(
        self,
        concept: str,
        location: str | None = None,
        positive: str = "present",
        with_location: bool = True,
    ) -> tuple[str, ...]:
        """What the text encoder reads of a triplet, each sentence alone.

        "Mass: large rounded white opacity. It is located at ... .", one an attribute. The name of a
        concept that no training report has tells an encoder nothing, and is left out.

        Args:
            concept, location, positive, with_location: as for `describe`.

        Raises:
            InputError: as `describe`.
        """
        opening = self._opening(concept, positive)
        clauses = _clauses(location, positive, with_location)
        if concept not in self.looks:
            return (opening + clauses,)
        name = "" if concept in UNSEEN_CONCEPTS else f"{prompt_name(concept)}: "
        return tuple(_capital(f"{name}{each}.") + clauses for each in self.looks[concept])

    def _opening(self, concept: str, positive: str) -> str:
        _check(concept, positive)
        if concept not in self.opening:
            raise InputError(
                f"the source {self.source!r} does not describe {concept!r}",
                "Choose another source.",
            )
        return self.opening[concept]


def describe(
    concept: str,
    location: str | None = None,
    positive: str = "present",
    source: str = "kb",
    with_location: bool = True,
) -> str:
    """`Knowledge.describe` of a source that the package carries."""
    return Knowledge.load(source).describe(concept, location, positive, with_location)


def describe_triplets(
    triplets: pd.DataFrame, source: str | Knowledge = "kb", with_location: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Describe all triplets, each distinct text once.

    Args:
        triplets: columns report_id, concept, location (None where there is none), positive.
        source: a source's name, or a source.
        with_location: see `Knowledge.describe`.

    Returns:
        descriptions: one row a distinct text, ordered by concept, status and location whatever
            the order of the triplets: text_id (its row number), text (for readers), sentences
            (for the encoder), concept, location, positive, source, triplets (how many share it).
        mapping: the distinct pairs report_id, text_id, in the order of the triplets.

    Raises:
        InputError: a column that is absent, an unknown concept or status.
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
    asked = [
        (concept, location or None, positive)
        for concept, location, positive in distinct[list(keys.columns)].itertuples(index=False)
    ]
    descriptions = pd.DataFrame(
        {
            "text_id": range(len(distinct)),
            "text": [knowledge.describe(*each) for each in asked],
            "sentences": [knowledge.sentences(*each) for each in asked],
            "concept": distinct["concept"],
            "location": [location or None for location in distinct["location"]],
            "positive": distinct["positive"],
            "source": knowledge.source,
            "triplets": distinct["triplets"],
        }
    )
    text_of = pd.Series(
        range(len(distinct)), index=pd.MultiIndex.from_frame(distinct[keys.columns])
    )
    mapping = pd.DataFrame(
        {
            "report_id": triplets["report_id"].to_numpy(),
            "text_id": text_of.reindex(pd.MultiIndex.from_frame(keys)).to_numpy(),
        }
    )
    return descriptions, mapping.drop_duplicates(ignore_index=True)


def save_descriptions(path: Path, descriptions: pd.DataFrame, mapping: pd.DataFrame) -> None:
    """Write the descriptions to `path`, the mapping beside it (parquet)."""
    for target, frame in ((path.with_name(f"report_{path.name}"), mapping), (path, descriptions)):
        with atomic_path(target) as temporary:
            frame.to_parquet(temporary, index=False)


def ensemble(concept: str) -> list[str]:
    """Return the hand-written prompts of a concept: templates, severity x location, signs.

    A baseline for learned prompts; the idea of combining severities and places is that of
    GLoRIA's and MedCLIP's prompts (Huang et al. 2021, Wang et al. 2022), the words are ours.

    Raises:
        InputError: an unknown concept.
    """
    _check(concept, "present")
    data = read_json(PACKAGE_DATA / "ensemble.json")
    if concept in data["fixed"]:
        return list(data["fixed"][concept])
    words = data["concepts"][concept]
    prompts = []
    for template in data["templates"]:
        if "{sign}" in template:
            prompts += [template.format(sign=sign) for sign in words["sign"]]
        elif "{severity}" in template:
            pairs = zip(words["severity"], words["location"], strict=True)
            prompts += [
                template.format(name=prompt_name(concept), severity=severity, location=location)
                for severity, location in pairs
            ]
        else:
            prompts.append(template.format(name=prompt_name(concept)))
    return prompts


@cache
def _load(source: str) -> Knowledge:
    if source not in SOURCES:
        raise InputError(
            f"there is no knowledge source {source!r}", f"Choose one of: {', '.join(SOURCES)}."
        )
    if source in ("kb", "llm", "clause"):
        records = read_json(PACKAGE_DATA / "knowledge.json")["kb" if source == "clause" else source]
        known = Knowledge.from_texts(source, records)
        return replace(known, looks=MappingProxyType({})) if source == "clause" else known
    form = "a photo of {}." if source == "general" else "{}."
    opening = {concept: form.format(prompt_name(concept)) for concept in DESCRIBED}
    return Knowledge(source, *map(MappingProxyType, (opening, {}, {})))


def _check(concept: str, positive: str) -> None:
    if concept not in DESCRIBED:
        raise InputError(f"{concept!r} is no concept", f"Choose one of: {', '.join(DESCRIBED)}.")
    if positive not in _STATUS:
        raise InputError(f"{positive!r} is no status", f"Choose one of: {', '.join(_STATUS)}.")


def _clauses(location: str | None, positive: str, with_location: bool) -> str:
    where = location if with_location and positive != "absent" else None
    return (f" It is located at {where}." if where else "") + _STATUS[positive]


def _sentence_name(concept: str) -> str:
    return _capital(prompt_name(concept))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _clause(text: str) -> str:
    return text.strip().rstrip(".")
