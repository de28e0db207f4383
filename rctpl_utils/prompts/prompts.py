"""The learned prompts: two short sets of context vectors, shared by all classes (Eq. 2, 4)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path
from rctpl_utils.scoring import ClassEmbeddings
from rctpl_utils.text.knowledge import Knowledge
from rctpl_utils.vocabulary import CONCEPTS, UNSEEN_CONCEPTS, prompt_name

Record = Mapping[str, str | Sequence[str]]  # "text", for a reader, and "attributes"


@dataclass(frozen=True)
class Prompts:
    """Report-level and concept-level context vectors."""

    report: Tensor  # (M, W), the p_j of Eq. 2
    concept: Tensor  # (M, W), the p'_j of Eq. 4
    metadata: dict[str, str]  # encoder, classes, seed, ..., and how an unseen class is asked for

    @property
    def parameters(self) -> int:
        """How many numbers were learned: 2 x M x W."""
        return self.report.numel() + self.concept.numel()

    @property
    def own_concepts(self) -> dict[str, Record]:
        """The knowledge of concepts that the package does not have, by name."""
        return json.loads(self.metadata.get("own_concepts", "{}"))

    def with_concepts(self, records: Mapping[str, Record]) -> "Prompts":
        """The same prompts, able to ask for new concepts by their looks; the knowledge is saved.

        Records are as in `data/knowledge.json`: "text", what it is, for a reader, and "attributes",
        short phrases for what is seen.

        Raises:
            InputError: a concept that the package has, an empty text, no attribute.
        """
        for name, record in records.items():
            if name in CONCEPTS:
                cure = "Give the new concept another name."
                raise InputError(f"{name!r} is a concept already", cure)
            if not record.get("text") or not record.get("attributes"):
                cure = 'Give {"text": "what it is", "attributes": ["how it looks", ...]}.'
                raise InputError(f"no knowledge about {name!r}", cure)
        stored = json.dumps(self.own_concepts | dict(records))
        return replace(self, metadata={**self.metadata, "own_concepts": stored})

    @torch.no_grad()
    def embed(self, encoder: Encoder, concepts: list[str] | tuple[str, ...]) -> ClassEmbeddings:
        """E^R and E^C of the named concepts, seen in training or not (Eq. 3, 5): two (L, d).

        Where the metadata's `unseen` is "looks" (RC-TPL+), a concept that no training report names
        is asked for by its visual attributes, a prompt each, and their mean; so is one of
        `own_concepts` always.
        """
        looks, own = self.metadata.get("unseen") == "looks", self.own_concepts
        asked = [own[c]["attributes"] if c in own else asked_texts(c, looks) for c in concepts]
        texts = list(dict.fromkeys(text for each in asked for text in each))
        rows = [[texts.index(text) for text in each] for each in asked]
        return ClassEmbeddings(
            *(_means(encoder.encode_prompts(c, texts), rows) for c in (self.report, self.concept))
        )

    def save(self, path: str | Path) -> Path:
        """Write one small safetensors file, atomically."""
        contexts = {"report": self.report, "concept": self.concept}
        arrays = {name: each.detach().cpu().contiguous() for name, each in contexts.items()}
        with atomic_path(path) as temporary:
            save_file(arrays, temporary, {key: str(value) for key, value in self.metadata.items()})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Prompts":
        """Read saved prompts; an absent, unreadable or otherwise shaped file is an `InputError`."""
        path = Path(path)
        if not path.exists():
            raise InputError("no prompts there", "Run notebook 04 first.", file=path)
        try:
            with safe_open(path, "pt") as stored:
                report, concept = stored.get_tensor("report"), stored.get_tensor("concept")
                metadata = dict(stored.metadata() or {})
        except SafetensorError as error:
            raise InputError(
                f"not a prompt file ({error})", "Delete it and run notebook 04.", file=path
            ) from error
        if report.ndim != 2 or report.shape != concept.shape:
            raise InputError(
                f"two arrays M x W expected, found {tuple(report.shape)}, {tuple(concept.shape)}",
                "Delete it and run notebook 04.",
                file=path,
            )
        return cls(report, concept, metadata)


def asked_texts(concept: str, looks: bool) -> tuple[str, ...]:
    """What stands behind the context vectors: a class's name, or an unseen one's attributes."""
    if looks and concept in UNSEEN_CONCEPTS:
        return Knowledge.load("kb").looks[concept]
    return (prompt_name(concept),)


def _means(embedded: Tensor, rows: list[list[int]]) -> Tensor:
    """The direction of several embeddings together, a list of rows each: (t, d) to (L, d)."""
    return torch.stack([
        embedded[each[0]] if len(each) == 1 else normalize(embedded[each].mean(dim=0), dim=0)
        for each in rows
    ])  # fmt: skip


def nearest_words(context: Tensor, encoder: Encoder, count: int = 3) -> list[list[str]]:
    """The vocabulary's words nearest to each context vector by cosine, most similar first.

    A learned vector is no word: these are neighbors in a space of tens of thousands of points, and
    CoOp (Zhou et al. 2022, section 4.4) already found them hard to interpret.
    """
    words = normalize(encoder.text.bert.get_input_embeddings().weight, dim=-1)
    similar = normalize(context, dim=-1) @ words.T
    best = similar.topk(count, dim=-1).indices.tolist()
    return [encoder.text.tokenizer.convert_ids_to_tokens(row) for row in best]


def classes_of(prompts: Prompts) -> tuple[str, ...]:
    """The concepts that the prompts were trained with."""
    return tuple(json.loads(prompts.metadata["classes"]))
