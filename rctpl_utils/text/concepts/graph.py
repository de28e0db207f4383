"""RadGraph's graph of one report: entities, and what modifies and locates them (Jain et al. 2021).

Entities stand over whitespace tokens; the ends in the file are inclusive. Labels are "OBS-DP" in
RadGraph 1.0, "Observation::definitely present" in RadGraph-XL, which also knows
"Observation::measurement::definitely present".
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
_IS_OBSERVATION = {"OBS": True, "Observation": True, "ANAT": False, "Anatomy": False}


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
    """A report's text and its entities by identifier; `file` is for errors only."""
    where = {"file": file, "row": report_id}
    try:
        text, raw = graph["text"], graph["entities"]
        tokens = len(text.split())
        entities = {key: _entity(entity, where) for key, entity in raw.items()}
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"this is no RadGraph output ({type(error).__name__}: {error})",
            "Each report needs text and entities with tokens, label, start_ix, end_ix, relations.",
            **where,
        ) from error
    for entity in entities.values():
        if entity.end > tokens or any(t not in entities for _, t in entity.relations):
            problem = f"entity {entity.words!r} points outside its report"
            raise InputError(problem, "Fetch the file again.", **where)
    return text, entities


def _entity(raw: dict, where: dict) -> Entity:
    label = " ".join(raw["label"].split())
    parts = label.split("::") if "::" in label else label.split("-")
    observation, positive = _IS_OBSERVATION.get(parts[0]), _ASSERTIONS.get(parts[-1])
    if observation is None or positive is None:
        known = "Known are OBS-DP, OBS-DA, OBS-U, ANAT-DP and RadGraph-XL's long forms."
        raise InputError(f"unknown RadGraph label {label!r}", known, **where)
    relations = tuple((str(kind), str(target)) for kind, target in raw["relations"])
    start, end = int(raw["start_ix"]), int(raw["end_ix"]) + 1
    if not 0 <= start < end:
        raise InputError(f"entity {raw['tokens']!r} is empty", "Fetch it again.", **where)
    return Entity(raw["tokens"].lower(), observation, positive, start, end, relations)


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
