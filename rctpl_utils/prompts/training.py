"""Learning the prompts from text alone (paper 3.2.3, 3.3); nothing here could read an image."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.parallel_training import processes
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.scoring import TEXT_TEMPERATURE, concept_scores, ranking_loss, report_scores
from rctpl_utils.vocabulary import prompt_name

SCORE_SCALE = 4.0  # TaI-DPT ranks cosines times 4 with margin 1 (trainers/utils.py)
INITIAL_DEVIATION = 0.02  # paper 4.1.5: "Gaussian noise sampled from N(0.02)"
# M = 12 tokens to start from; other lengths take the first M, or begin again.
WORDS = "the radiograph of the chest shows a finding that looks like"
BRANCHES = ("report", "concept")

Regularizer = Callable[[Mapping[str, Tensor]], Tensor]  # of the class embeddings by branch
Ranking = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # as `scoring.ranking_loss`


@dataclass(frozen=True)
class TextBatch:
    """A batch of B reports as features."""

    report: Tensor  # h, (B, d)
    descriptions: Tensor  # H, (B, N, d), padded to the batch's longest
    described: Tensor  # (B, N), true where a description exists
    present: Tensor  # c+, (B, L)
    absent: Tensor  # c-, (B, L); what is uncertain is in neither


@dataclass(frozen=True)
class TextCorpus:
    """Reports as cached features: each distinct text is stored once and referred to by its row."""

    report_features: np.ndarray  # (n, d)
    description_features: np.ndarray  # (m, d), one row a distinct description
    description_rows: list[np.ndarray]  # for each report, those of its descriptions (at least one)
    labels: np.ndarray  # (n, L): 1 present, 0 absent or unmentioned, NaN uncertain

    def __len__(self) -> int:
        """Number of reports."""
        return len(self.report_features)

    def head(self, count: int) -> "TextCorpus":
        """Its first reports."""
        rows, labels = self.description_rows[:count], self.labels[:count]
        features = self.report_features[:count]
        return replace(self, report_features=features, description_rows=rows, labels=labels)

    @property
    def key(self) -> str:
        """A hash of all features and labels."""
        digest = hashlib.sha256()
        for array in (self.report_features, self.description_features, self.labels):
            digest.update(np.ascontiguousarray(array))
        for rows in self.description_rows:
            digest.update(np.asarray(rows, np.int64))
        return digest.hexdigest()

    def batch(self, rows: np.ndarray, device: torch.device) -> TextBatch:
        """Gather the named reports."""
        lists = [self.description_rows[i] for i in rows]
        counts = np.array([len(each) for each in lists])
        described = np.arange(counts.max()) < counts[:, None]  # (B, N)
        index = np.zeros(described.shape, int)
        index[described] = np.concatenate(lists)
        labels = self.labels[rows]
        arrays = (
            self.report_features[rows],
            self.description_features[index],
            described,
            labels == 1,
            labels == 0,
        )
        return TextBatch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))


@dataclass(frozen=True)
class Learned:
    """What a training run leaves behind: both contexts, (M, W), and one row an epoch.

    `history` has epoch, seconds since the start, report_loss, concept_loss, validation losses.
    """

    report: Tensor
    concept: Tensor
    history: list[dict[str, float]]


class MeanOfSteps:
    """Keeps the mean of a run's contexts over all steps (Polyak and Juditsky 1992)."""

    def __init__(self) -> None:
        self._steps, self._total = 0, {}

    def see(self, contexts: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]) -> None:
        """Look at a step before its update: contexts (M, W), class embeddings (L, d) by branch."""
        self._steps += 1
        for branch, context in contexts.items():
            self._total[branch] = self._total.get(branch, 0) + context.detach()

    def kept(self) -> dict[str, Tensor]:
        """The contexts to keep, by branch."""
        return {branch: total / self._steps for branch, total in self._total.items()}


class NearestTo:
    """Keeps each branch's contexts of the step whose class embeddings come nearest to `target`.

    The target is unit vectors, (L, d); nearness is the mean cosine over classes.
    """

    def __init__(self, target: Tensor) -> None:
        self._target, self._best = target, {}

    def see(self, contexts: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]) -> None:
        """Keep a step's contexts where they are nearer than all before."""
        for branch, context in contexts.items():
            near = torch.sum(embeddings[branch].detach() * self._target, dim=-1).mean().item()
            if branch not in self._best or near > self._best[branch][0]:
                self._best[branch] = near, context.detach().clone()

    def kept(self) -> dict[str, Tensor]:
        """The nearest."""
        return {branch: context for branch, (_, context) in self._best.items()}


Keeper = MeanOfSteps | NearestTo  # of contexts other than those of the last step


def learn_prompts(
    encoder: Encoder,
    corpus: TextCorpus,
    concepts: tuple[str, ...],
    settings: PromptLearning,
    seed: int,
    *,
    branches: tuple[str, ...] = BRANCHES,
    validation: TextCorpus | None = None,
    temperature: float = TEXT_TEMPERATURE,
    regularizer: Regularizer | None = None,
    ranking: Ranking = ranking_loss,
    start: str = "gaussian",
    keeper: Keeper | None = None,
    progress: bool = True,
) -> Learned:
    """Minimize L_report + L_local over the two contexts, the encoder frozen (Eq. 9).

    The two terms share no parameter, so a branch alone learns what it would learn beside the other;
    a branch that is left out keeps its initial context.

    Where a launcher started several processes, each takes its part of every batch and the
    gradients are averaged: the prompts are those of one process up to the order of summation. (But
    for `report_ranking_loss`, whose pairs of reports lie within a process's part.)

    Args:
        corpus: text features and labels; the L columns of its labels are `concepts`.
        seed: decides the initial contexts and the order of the reports.
        validation: reports of other patients, for the curve only.
        temperature: tau_c of Eq. 8 in training.
        regularizer: an extra term on the class embeddings (RC-TPL+ uses one).
        ranking: of classes within a report (Eq. 9), or `report_ranking_loss`.
        start: "gaussian" (paper 4.1.5), "words" (`WORDS`), or "names" (their mean).
    """
    generator = torch.Generator().manual_seed(seed)
    device = encoder.device
    names = [prompt_name(concept) for concept in concepts]
    drawn = initial_contexts(settings.context_length, encoder.context_width, generator)
    if start == "words":
        drawn = dict.fromkeys(BRANCHES, word_context(encoder, settings.context_length))
    elif start == "names":
        drawn = dict.fromkeys(BRANCHES, name_context(encoder, names, settings.context_length))
    contexts = {
        branch: each.to(device, copy=True).requires_grad_(branch in branches)
        for branch, each in drawn.items()
    }
    learning = {branch: contexts[branch] for branch in branches}
    optimizer = torch.optim.AdamW(learning.values(), lr=settings.learning_rate)
    steps = settings.epochs * math.ceil(len(corpus) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history, start, group = [], time.perf_counter(), processes()
    how = (temperature, settings.margin, ranking)
    silent = not (progress and group.first)
    with tqdm(total=steps, desc=f"prompts, seed {seed}", unit="step", disable=silent) as bar:
        for epoch in range(settings.epochs):
            seen = []
            for rows in shuffled_batches(len(corpus), settings.batch_size, generator):
                part, weight = group.share_of_batch(rows)
                embeddings = embed_classes(encoder, learning, names)
                losses = batch_losses(corpus.batch(part, device), embeddings, *how)
                ranked = weight * sum(losses.values())
                loss = ranked + (regularizer(embeddings) if regularizer else 0)
                if keeper is not None:
                    keeper.see(learning, embeddings)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                group.average_gradients(learning.values())
                optimizer.step()
                schedule.step()
                seen.append([weight * value.item() for value in losses.values()])
                bar.update()
            means = np.mean(group.mean(torch.tensor(seen, dtype=torch.float64)).numpy(), axis=0)
            row = dict(zip((f"{branch}_loss" for branch in branches), means.tolist(), strict=True))
            if validation is not None:
                held_out = corpus_losses(encoder, learning, names, validation, *how)
                row |= {f"validation_{name}_loss": value for name, value in held_out.items()}
            history.append({"epoch": epoch + 1, "seconds": time.perf_counter() - start, **row})
    if keeper is not None:
        contexts |= keeper.kept()
    return Learned(contexts["report"].detach(), contexts["concept"].detach(), history)


def initial_context(length: int, width: int, generator: torch.Generator) -> Tensor:
    """M vectors of width W from N(0, 0.02^2)."""
    return INITIAL_DEVIATION * torch.randn(length, width, generator=generator)


def initial_contexts(length: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What both contexts are before the first step: branch -> (M, W)."""
    return {branch: initial_context(length, width, generator) for branch in BRANCHES}


def word_context(encoder: Encoder, length: int) -> Tensor:
    """The word embeddings of `WORDS`, cut or repeated to M: (M, W)."""
    tokens = encoder.text.tokenizer(WORDS, add_special_tokens=False)["input_ids"]
    rows = [tokens[k % len(tokens)] for k in range(length)]
    return encoder.text.bert.get_input_embeddings().weight[rows].detach().clone()


def name_context(encoder: Encoder, names: Sequence[str], length: int) -> Tensor:
    """The mean word embedding of all class names, M times: (M, W)."""
    tokens = encoder.text.tokenizer(list(names), add_special_tokens=False)["input_ids"]
    words = encoder.text.bert.get_input_embeddings().weight.detach()
    mean = torch.stack([words[each].mean(dim=0) for each in tokens]).mean(dim=0)
    return mean.repeat(length, 1)


def embed_classes(
    encoder: Encoder, contexts: Mapping[str, Tensor], names: list[str]
) -> dict[str, Tensor]:
    """E^R and E^C in one pass through the text encoder (Eq. 3, 5): branch -> (L, d)."""
    count = len(names)
    stacked = torch.cat([each.expand(count, *each.shape) for each in contexts.values()])
    embedded = encoder.encode_prompts(stacked, names * len(contexts))
    return dict(zip(contexts, embedded.split(count), strict=True))


def batch_losses(
    batch: TextBatch,
    embeddings: Mapping[str, Tensor],
    temperature: float,
    margin: float,
    ranking: Ranking = ranking_loss,
) -> dict[str, Tensor]:
    """L_report and L_local of one batch (Eq. 7-9), for the branches that are given."""
    losses = {}
    for branch, embedded in embeddings.items():
        scores = (
            report_scores(batch.report, embedded)
            if branch == "report"
            else concept_scores(batch.descriptions, embedded, temperature, batch.described)
        )
        losses[branch] = ranking(SCORE_SCALE * scores, batch.present, batch.absent, margin)
    return losses


@torch.no_grad()
def corpus_losses(
    encoder: Encoder,
    contexts: Mapping[str, Tensor],
    names: list[str],
    corpus: TextCorpus,
    temperature: float,
    margin: float,
    ranking: Ranking = ranking_loss,
) -> dict[str, float]:
    """The losses on held-out reports, by branch."""
    batch = corpus.batch(np.arange(len(corpus)), encoder.device)
    embeddings = embed_classes(encoder, contexts, names)
    losses = batch_losses(batch, embeddings, temperature, margin, ranking)
    return {branch: value.item() for branch, value in losses.items()}


def shuffled_batches(count: int, size: int, generator: torch.Generator) -> list[np.ndarray]:
    """All rows once, in an order that the generator decides."""
    order = torch.randperm(count, generator=generator).numpy()
    return [order[start : start + size] for start in range(0, count, size)]
