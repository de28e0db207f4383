"""Learning the prompts from text alone (paper 3.3).

This module takes text features and labels; it imports nothing that could read an image.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.parallel_training import processes
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts.contexts import initial_context, name_context, word_context
from rctpl_utils.prompts.corpus import TextBatch, TextCorpus
from rctpl_utils.prompts.keepers import Keeper
from rctpl_utils.scoring import TEXT_TEMPERATURE, concept_scores, ranking_loss, report_scores
from rctpl_utils.vocabulary import prompt_name

SCORE_SCALE = 4.0  # TaI-DPT ranks cosines times 4 with margin 1 (trainers/utils.py)

BRANCHES = ("report", "concept")

Regularizer = Callable[[Mapping[str, Tensor]], Tensor]  # of the class embeddings by branch
Ranking = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # as `scoring.ranking_loss`


@dataclass(frozen=True)
class Learned:
    """What a training run leaves behind.

    Attributes:
        report, concept: the learned contexts, (M, W).
        history: one row an epoch: epoch, seconds since the start, report_loss, concept_loss, and
            the validation losses.
    """

    report: Tensor
    concept: Tensor
    history: list[dict[str, float]]


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
        branches: which contexts learn.
        validation: reports of other patients, for the curve only.
        temperature: tau_c of Eq. 8 in training.
        regularizer: an extra term on the class embeddings (RC-TPL+ uses one).
        ranking: of classes within a report (Eq. 9), or `report_ranking_loss`.
        start: "gaussian" (paper 4.1.5), "words" (`contexts.WORDS`), or "names" (their mean).
        keeper: sees every step and says which contexts are kept; None for those of the last step.
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
    silent = not (progress and group.first)
    with tqdm(total=steps, desc=f"prompts, seed {seed}", unit="step", disable=silent) as bar:
        for epoch in range(settings.epochs):
            seen = []
            for rows in shuffled_batches(len(corpus), settings.batch_size, generator):
                part, weight = group.share_of_batch(rows)
                embeddings = embed_classes(encoder, learning, names)
                losses = batch_losses(
                    corpus.batch(part, device), embeddings, temperature, settings.margin, ranking
                )
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
            row = {
                f"{name}_loss": mean for name, mean in zip(learning, means.tolist(), strict=True)
            }
            if validation is not None:
                held_out = corpus_losses(
                    encoder, learning, names, validation, temperature, settings.margin, ranking
                )
                row |= {f"validation_{name}_loss": value for name, value in held_out.items()}
            history.append({"epoch": epoch + 1, "seconds": time.perf_counter() - start, **row})
    if keeper is not None:
        contexts |= keeper.kept()
    return Learned(contexts["report"].detach(), contexts["concept"].detach(), history)


def initial_contexts(length: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What both contexts are before the first step: branch -> (M, W)."""
    return {branch: initial_context(length, width, generator) for branch in BRANCHES}


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
