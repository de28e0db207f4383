"""What the baselines learn from: the training films with what their reports say, in every form.

One object serves all, so that none sees a film, a report or a label that another does not. All
stand on the stand-in's frozen lower layers (pre-trained by MedCLIP's objective on the same films),
whose maps are computed once: a difference between them is one of objective and head.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rctpl_utils.datasets.base import ChestXrayDataset
from rctpl_utils.datasets.splits import open_split
from rctpl_utils.encoders.base import evaluation, known_hash
from rctpl_utils.encoders.features import (
    IMAGE_BATCH,
    IMAGE_SHARD,
    WordFile,
    Words,
    file_stamps,
    gather,
    make_arrays,
    word_states,
)
from rctpl_utils.encoders.pretraining import (
    TextLists,
    balanced_chances,
    build_text_bank,
    training_texts,
)
from rctpl_utils.encoders.standin import StandIn, with_detail
from rctpl_utils.files import hash_of
from rctpl_utils.text.reports import Report
from rctpl_utils.text.triplets import merge_mentions, report_labels
from rctpl_utils.vocabulary import TRAINING_CONCEPTS
from rctpl_utils.workspace import Workspace

MASKED_TEXTS = 1024  # reports whose words are hidden for masked language modeling
RARE = 5  # places that fewer triplets name are no class of their own


@torch.no_grad()
def backbone(encoder: StandIn, batch: Tensor) -> Tensor:
    """Preprocessed films (n, 1, S, S) to the map below the last two layers: (n, h, w, c)."""
    batch = batch.to(encoder.device, memory_format=torch.channels_last)
    with evaluation(encoder.device):
        cells = encoder.image.stages(encoder.image.stem(with_detail(batch)))
    return cells.permute(0, 2, 3, 1)


def backbone_maps(encoder: StandIn, dataset: ChestXrayDataset, folder: Path) -> np.ndarray:
    """The maps of a data set's films, computed once: (n, h, w, c) float16, memory-mapped."""
    weights = [known_hash(each) for each in (encoder.image.stem, encoder.image.stages)]
    key = hash_of(weights, encoder.image_size, file_stamps(dataset))[:20]
    path = folder / f"trunk-{dataset.name}-{dataset.split}-{key}.npy"

    def encode(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = torch.stack([encoder.preprocess(dataset.pixels(i)) for i in rows.tolist()])
        return (backbone(encoder, batch).float().cpu().numpy().astype(np.float16),)

    (maps,) = make_arrays(
        [path], np.arange(len(dataset)), encode, batch=IMAGE_BATCH, shard=IMAGE_SHARD,
        label=f"lower layers, {dataset.name}", unit="image",
    )  # fmt: skip
    return maps


def in_batches(answer: Callable[[np.ndarray], Tensor], count: int, size: int) -> np.ndarray:
    """What `answer` gives for rows 0 to `count`, asked `size` at a time: float32."""
    parts = [answer(np.arange(k, min(k + size, count))) for k in range(0, count, size)]
    return torch.cat(parts).float().cpu().numpy()


@dataclass(frozen=True)
class Material:
    """n training films, R reports, t texts, L concepts, P places."""

    maps: np.ndarray | Tensor  # the frozen backbone's, (n, h, w, c): memory, disk or device
    reports: np.ndarray  # (n,), each film's report
    words: WordFile  # word states of the texts
    whole: np.ndarray  # (R,), each report's text
    impressions: np.ndarray  # (R,), that of its impression alone (`whole` where it has none)
    sentences: Sequence[np.ndarray]  # each report's that name a concept, phrases too; never empty
    text_vectors: np.ndarray  # what each text says, (t, V) (`encoders.pretraining`)
    report_vectors: np.ndarray  # what each report says, (R, V)
    stated: np.ndarray  # (R, L): 1 present, 0 absent, NaN uncertain or unmentioned
    positions: np.ndarray  # (R, L, P) bool: where a report places a present concept
    concepts: tuple[str, ...]
    places: tuple[str, ...]
    masked: WordFile  # texts of which words were hidden
    masked_words: np.ndarray  # (m, 77) bool, which ones

    @cached_property
    def chances(self) -> np.ndarray:
        """How often each film is drawn: more often, the rarer what it shows; (n,), sum one."""
        return balanced_chances(self.report_vectors[self.reports])

    @cached_property
    def _lists(self) -> TextLists:
        return TextLists.of(list(self.sentences))

    def draw_sentences(self, reports: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """A random sentence of each of B reports: (B,) rows of the words."""
        return self._lists.draw(reports, 1, generator)

    def on(self, device: torch.device) -> "Material":
        """The same, with maps and texts held by the device: for training on an accelerator."""
        maps = torch.from_numpy(np.asarray(self.maps)).to(device)
        return replace(self, maps=maps, words=self.words.on(device), masked=self.masked.on(device))

    @cached_property
    def key(self) -> str:
        """A hash of films, texts and what these say."""
        digest = hashlib.sha256(repr((self.concepts, self.places)).encode())
        arrays = (
            self.maps, self.reports, self.words.ids, self.whole, self.impressions,
            *self.sentences, self.text_vectors, self.report_vectors, self.stated, self.positions,
            self.masked_words,
        )  # fmt: skip
        for array in arrays:
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


@dataclass(frozen=True)
class Batch:
    """B films of which T cells are seen."""

    cells: Tensor  # (B, T, c)
    places: Tensor  # (B, T), the cells' numbers in the map
    reports: np.ndarray  # (B,), rows of the material
    material: Material
    generator: np.random.Generator  # draws texts
    tokens: list[int] = field(default_factory=list)  # how many were read, a text batch each

    def sentence_rows(self) -> np.ndarray:
        """One random sentence of each film's report: (B,) rows of the words."""
        return self.material.draw_sentences(self.reports, self.generator)

    def words(self, rows: np.ndarray, masked: bool = False) -> Words:
        """Word states of some texts, or of those of which words were hidden."""
        file = self.material.masked if masked else self.material.words
        self.tokens.append(int(file.lengths[rows].sum()))
        return file.batch(rows, self.cells.device)

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array where the cells are."""
        return torch.from_numpy(array).to(self.cells.device)


def draw_batch(
    material: Material, films: np.ndarray, generator: np.random.Generator, device: torch.device
) -> Batch:
    """A view of each film: one random cell of every 2 x 2 block, a quarter of the work.

    Cells of the backbone look far beyond their own patch, so that no lesion is lost, and the draw
    varies the view as an augmentation does.
    """
    height, width = material.maps.shape[1:3]
    blocks = len(films), height // 2, width // 2
    down = np.arange(0, height, 2)[:, None] + generator.integers(0, 2, blocks)
    across = np.arange(0, width, 2)[None, :] + generator.integers(0, 2, blocks)
    places = (down * width + across).reshape(len(films), -1)
    flat = material.maps.reshape(len(material.maps), height * width, -1)
    cells = gather(flat, films[:, None], places).to(device).float()
    numbers = torch.from_numpy(places).to(device)
    return Batch(cells, numbers, material.reports[films], material, generator)


def all_cells(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (n, h, w, c) as cells (n, h * w, c) with their numbers (n, h * w)."""
    cells = maps.flatten(1, 2).float()
    places = torch.arange(cells.shape[1], device=maps.device).expand(len(cells), -1)
    return cells, places


def build_material(
    workspace: Workspace,
    encoder: StandIn,
    reports: Sequence[Report],
    triplets: pd.DataFrame,
    most: int,
) -> Material:
    """The training films of MIMIC-CXR, and those of the reports that are for training.

    At most `most` films take part, drawn by a hash of their names where there are more.
    """
    training = [report for report in reports if report.split == "train"]
    identifiers = [report.report_id for report in training]
    bank = build_text_bank(identifiers, [report.text for report in training], triplets)
    texts, impressions = training_texts(bank, [report.impression for report in training])
    whole = np.array([each[0] for each in bank.rows])
    own = bank.report_vectors[impressions != whole]  # an impression says what its report does
    words, _ = word_states(encoder.text, texts, workspace.features)
    chosen = [report.text for report in training[:MASKED_TEXTS]]
    masked, hidden = word_states(encoder.text, chosen, workspace.features, masked_by=0)
    dataset = open_split(workspace, "mimic-cxr", "train").sample(most)
    rows = dataset.records["study"].map({name: row for row, name in enumerate(identifiers)})
    kept = np.flatnonzero(rows.notna())
    positions, places = stated_places(triplets, identifiers)
    return Material(
        maps=np.asarray(backbone_maps(encoder, dataset, workspace.features))[kept],
        reports=rows.iloc[kept].to_numpy(int),
        words=words,
        whole=whole,
        impressions=impressions,
        sentences=[each[1:] if len(each) > 1 else each for each in bank.rows],
        text_vectors=np.concatenate([bank.vectors, own]),
        report_vectors=bank.report_vectors,
        stated=stated_labels(triplets, identifiers),
        positions=positions,
        concepts=TRAINING_CONCEPTS,
        places=places,
        masked=masked,
        masked_words=hidden,
    )


def stated_labels(triplets: pd.DataFrame, report_ids: Sequence[str]) -> np.ndarray:
    """Labels (R, L) with NaN where a concept is not mentioned (MedKLIP's third class)."""
    labels = report_labels(triplets, report_ids, TRAINING_CONCEPTS)
    denied = merge_mentions(triplets).eq("absent").unstack(fill_value=False)
    denied = denied.reindex(labels.index, columns=labels.columns, fill_value=False)
    return labels.where((labels == 1) | ((labels == 0) & denied)).to_numpy(np.float32)


def stated_places(
    triplets: pd.DataFrame, report_ids: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Where reports place what they find: (R, L, P) bool, and the P places' names."""
    found = triplets[
        (triplets["positive"] == "present")
        & triplets["location"].notna()
        & triplets["concept"].isin(TRAINING_CONCEPTS)
        & triplets["report_id"].isin(report_ids)
    ]
    counts = found["location"].value_counts()
    names = tuple(sorted(counts[counts >= RARE].index))
    found = found[found["location"].isin(names)]
    positions = np.zeros((len(report_ids), len(TRAINING_CONCEPTS), len(names)), bool)
    positions[
        pd.Index(report_ids).get_indexer(found["report_id"]),
        pd.Index(TRAINING_CONCEPTS).get_indexer(found["concept"]),
        pd.Index(names).get_indexer(found["location"]),
    ] = True
    return positions, names
