"""RadGraph's graph of one report: entities, and what modifies and locates them (Jain et al. 2021).

Entities stand over whitespace tokens; the ends in the file are inclusive.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rctpl_utils.errors import InputError
from rctpl_utils.text.triplets import Assertion

_ASSERTIONS: Mapping[str, Assertion] = {
    "DP": "present",
    "DA": "absent",
    "U": "uncertain",
    "definitely present": "present",
    "definitely absent": "absent",
    "uncertain": "uncertain",
}
_KINDS = {"OBS": "observation", "ANAT": "anatomy"}
_KINDS |= {"Observation": "observation", "Anatomy": "anatomy"}


@dataclass(frozen=True)
class Entity:
    """An entity over the whitespace tokens [start, end) of its report's text."""

    words: str
    observation: bool
    positive: Assertion
    start: int
    end: int
    relations: tuple[tuple[str, str], ...]  # (type, target's identifier)


def parse_graph(
    report_id: str, graph: dict, file: Path | None = None
) -> tuple[str, dict[str, Entity]]:
    """A report's text and its entities by identifier; `file` is for errors only.

    Raises:
        InputError: a missing field, an unknown label, a relation to nowhere.
    """
    again = "Fetch the file again."
    try:
        text, raw = graph["text"], graph["entities"]
        tokens = len(text.split())
        entities = {key: _entity(entity) for key, entity in raw.items()}
    except InputError as error:
        raise InputError(
            str(error).removesuffix(f". {error.cure}"), error.cure, file=file, row=report_id
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"this is no RadGraph output ({type(error).__name__}: {error})",
            "Each report needs text and entities with tokens, label, start_ix, end_ix, relations.",
            file=file,
            row=report_id,
        ) from error
    for entity in entities.values():
        if entity.end > tokens or any(t not in entities for _, t in entity.relations):
            problem = f"entity {entity.words!r} points outside its report"
            raise InputError(problem, again, file=file, row=report_id)
    return text, entities


def _entity(raw: dict) -> Entity:
    label = " ".join(raw["label"].split())
    parts = label.split("::") if "::" in label else label.split("-")
    kind, positive = _KINDS.get(parts[0]), _ASSERTIONS.get(parts[-1])
    if kind is None or positive is None:
        raise InputError(
            f"unknown RadGraph label {label!r}",
            "Known are OBS-DP, OBS-DA, OBS-U, ANAT-DP and RadGraph-XL's long forms.",
        )
    relations = tuple((str(kind_), str(target)) for kind_, target in raw["relations"])
    start, end = int(raw["start_ix"]), int(raw["end_ix"]) + 1  # inclusive ends in the file
    if not 0 <= start < end:
        raise InputError(f"entity {raw['tokens']!r} is empty", "Fetch it again.")
    words = raw["tokens"].lower()
    return Entity(words, kind == "observation", positive, start, end, relations)


def modifies(entity: Entity, target: Entity, entities: Mapping[str, Entity]) -> bool:
    """Whether one entity modifies another one directly."""
    return any(kind == "modify" and entities[t] is target for kind, t in entity.relations)


def anatomies(entity: Entity, entities: Mapping[str, Entity]) -> list[list[Entity]]:
    """The anatomies an observation is located at, each with its direct modifiers."""
    found: list[list[Entity]] = []
    for kind, target in entity.relations:
        if kind != "located_at" or entities[target].observation:
            continue
        for path in _paths(entities[target], entities):
            group = [
                each
                for each in entities.values()
                if not each.observation and (each in path or modifies(each, path[-1], entities))
            ]
            if group not in found:
                found.append(group)
    return found


def _paths(
    anatomy: Entity, entities: Mapping[str, Entity], below: tuple[Entity, ...] = ()
) -> list[tuple[Entity, ...]]:
    """From an anatomy over what it modifies up to what modifies no other: one path a head.

    The target of `located_at` may be any word of "left lower lobe", not its head only.
    """
    path = (*below, anatomy)
    above = [entities[target] for kind, target in anatomy.relations if kind == "modify"]
    above = [each for each in above if not each.observation and each not in path]
    return [longer for each in above for longer in _paths(each, entities, path)] or [path]


def phrase(entities: Iterable[Entity]) -> str:
    """The words of some entities in the order of the text."""
    return " ".join(entity.words for entity in sorted(entities, key=lambda e: e.start))
