"""Learning the prompts from text alone (paper 3.3).

This module takes text features and labels; it imports nothing that could read an image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from rctpl_utils.corpus import TextBatch, TextCorpus
from rctpl_utils.encoders.base import Encoder
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts import initial_context
from rctpl_utils.scoring import (
    TEXT_TEMPERATURE,
    ClassEmbeddings,
    concept_scores,
    ranking_loss,
    report_scores,
)
from rctpl_utils.vocabulary import prompt_name

SCORE_SCALE = 4.0  # TaI-DPT ranks cosines times 4 with margin 1 (trainers/utils.py)

Regularizer = Callable[[ClassEmbeddings], Tensor]


@dataclass(frozen=True)
class Learned:
    """What a training run leaves behind.

    Attributes:
        report, concept: the learned contexts, (M, W).
        history: one row an epoch: epoch, report_loss, concept_loss, and the validation losses.
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
    validation: TextCorpus | None = None,
    temperature: float = TEXT_TEMPERATURE,
    regularizer: Regularizer | None = None,
    progress: bool = True,
) -> Learned:
    """Minimize L_report + L_local over the two contexts, the encoder frozen (Eq. 9).

    Args:
        corpus: text features and labels; the L columns of its labels are `concepts`.
        seed: decides the initial contexts and the order of the reports.
        validation: reports of other patients, for the curve only.
        temperature: tau_c of Eq. 8 in training.
        regularizer: an extra term on the class embeddings (RC-TPL+ uses one).
    """
    generator = torch.Generator().manual_seed(seed)
    device = encoder.device
    contexts = [
        initial_context(settings.context_length, encoder.context_width, generator)
        .to(device)
        .requires_grad_()
        for _ in range(2)
    ]
    optimizer = torch.optim.AdamW(contexts, lr=settings.learning_rate)
    steps = settings.epochs * math.ceil(len(corpus) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    names = [prompt_name(concept) for concept in concepts]
    history = []
    with tqdm(total=steps, desc=f"prompts, seed {seed}", unit="step", disable=not progress) as bar:
        for epoch in range(settings.epochs):
            losses = []
            for rows in shuffled_batches(len(corpus), settings.batch_size, generator):
                embeddings = embed_classes(encoder, contexts[0], contexts[1], names)
                report, local = batch_losses(
                    corpus.batch(rows, device), embeddings, temperature, settings.margin
                )
                loss = report + local + (regularizer(embeddings) if regularizer else 0)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append((report.item(), local.item()))
                bar.update()
            row = dict(zip(("report_loss", "concept_loss"), np.mean(losses, axis=0), strict=True))
            if validation is not None:
                row |= corpus_losses(encoder, contexts, names, validation, temperature, settings)
            history.append({"epoch": epoch + 1, **row})
    return Learned(contexts[0].detach(), contexts[1].detach(), history)


def embed_classes(
    encoder: Encoder, report: Tensor, concept: Tensor, names: list[str]
) -> ClassEmbeddings:
    """E^R and E^C in one pass through the text encoder (Eq. 3, 5): two (L, d)."""
    count = len(names)
    contexts = torch.cat([each.expand(count, *each.shape) for each in (report, concept)])
    embedded = encoder.encode_prompts(contexts, names + names)
    return ClassEmbeddings(embedded[:count], embedded[count:])


def batch_losses(
    batch: TextBatch, embeddings: ClassEmbeddings, temperature: float, margin: float
) -> tuple[Tensor, Tensor]:
    """L_report and L_local of one batch (Eq. 7-9)."""
    report = SCORE_SCALE * report_scores(batch.report, embeddings.report)
    concept = SCORE_SCALE * concept_scores(
        batch.descriptions, embeddings.concept, temperature, batch.described
    )
    return (
        ranking_loss(report, batch.present, batch.absent, margin),
        ranking_loss(concept, batch.present, batch.absent, margin),
    )


@torch.no_grad()
def corpus_losses(
    encoder: Encoder,
    contexts: list[Tensor],
    names: list[str],
    corpus: TextCorpus,
    temperature: float,
    settings: PromptLearning,
) -> dict[str, float]:
    """The two losses on held-out reports."""
    embeddings = embed_classes(encoder, contexts[0], contexts[1], names)
    batch = corpus.batch(np.arange(len(corpus)), encoder.device)
    report, local = batch_losses(batch, embeddings, temperature, settings.margin)
    return {"validation_report_loss": report.item(), "validation_concept_loss": local.item()}


def shuffled_batches(count: int, size: int, generator: torch.Generator) -> list[np.ndarray]:
    """All rows once, in an order that the generator decides."""
    order = torch.randperm(count, generator=generator).numpy()
    return [order[start : start + size] for start in range(0, count, size)]
