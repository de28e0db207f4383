"""What the prompt learners beside RC-TPL share: one base, one set of options, one training loop.

TaI-DPT, CoOp, CoCoOp and DualCoOp learn context vectors for the same frozen encoder as RC-TPL.
Their losses and scores are their own; optimizer (AdamW, where the four papers use SGD), order of
the data and the rule that ends a run are the same here, so that only the objective and what it
learns from differ: each learns until the AUC on validation films has stopped improving, and the
best state is kept. A class name ends the prompt without CLIP's full stop, as in RC-TPL's Eq. 2.
"""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rctpl_utils.baselines.base import CLASSIFY
from rctpl_utils.baselines.prompt_learners import LabeledFilms
from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.encoders.base import Encoder, ImageFeatures
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import PromptLearnerTraining
from rctpl_utils.prompts.training import (
    TextCorpus,
    embed_classes,
    initial_context,
    shuffled_batches,
)
from rctpl_utils.scoring import similarity_maps
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name

CLIP_SCALE = 100.0  # the largest inverse temperature that CLIP allows itself (Radford et al. 2021)


@dataclass(frozen=True)
class PromptSettings:
    """Reports or films a step, and AdamW's rate: constant, as a run's end is not known before."""

    batch_size: int
    learning_rate: float


Judge = Callable[["PromptModel"], float]  # validation AUC of a model, higher is better


class PromptModel(nn.Module, ABC):
    """Learned tensors beside a frozen encoder; the protocol is `baselines.base.ZeroShotModel`.

    The encoder is no part of the state. Learned prompts leave the embeddings of films and sentences
    as they are, so that retrieval, published for none of the four, goes by class scores: a named
    extension, the same as RC-TPL's, over the five names of CheXpert-5x200. A sentence is a film
    with one region.

    In evaluation mode what `encode` gives is kept for each list of names until `train`, `eval` or
    `load` is called.
    """

    method: str
    settings: PromptSettings
    contexts: tuple[str, ...]  # the names of its contexts
    length = 16  # M of each
    published = frozenset({CLASSIFY})

    def __init__(
        self,
        encoder: Encoder,
        seed: int,
        concepts: Sequence[str] = TRAINING_CONCEPTS,
        shots: int | None = None,
    ) -> None:
        """Hold what does not learn, then begin with what does, drawn with `seed`.

        `concepts` are the L columns of the labels that `loss` gets; `shots`, labeled films a class,
        are for the name: None where no label of a film was used.
        """
        super().__init__()
        object.__setattr__(self, "encoder", encoder)  # past nn.Module: not a part that learns
        self.concepts, self.shots = tuple(concepts), shots
        self._kept: dict[tuple[str, ...], tuple[Tensor, ...]] = {}
        self.begin(torch.Generator().manual_seed(seed))

    @property
    def name(self) -> str:
        """As the tables print it; what used labels says so."""
        if self.shots is None:
            return self.method
        return f"{self.method}, {self.shots} label{'s' * (self.shots > 1)} a class"

    def begin(self, generator: torch.Generator) -> None:
        """Make the tensors that learn: contexts (M, W) from N(0, 0.02^2), as in all four papers."""
        for name in self.contexts:
            context = initial_context(self.length, self.encoder.context_width, generator)
            setattr(self, name, nn.Parameter(context.to(self.encoder.device)))

    def encode(self, names: Sequence[str]) -> tuple[Tensor, ...]:
        """What scores need of L class names as prompts spell them; differentiable.

        Here each context's class embeddings (L, d).
        """
        contexts = {name: getattr(self, name) for name in self.contexts}
        return tuple(embed_classes(self.encoder, contexts, list(names)).values())

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The method's objective on a batch of its examples: a scalar."""

    @abstractmethod
    def classify(self, films: ImageFeatures, concepts: Sequence[str]) -> Tensor:
        """Scores (n, L)."""

    @torch.no_grad()
    def ground(self, films: ImageFeatures, concept: str) -> Tensor:
        """The cosine of each cell in the first context, an extension: (n, h, w)."""
        return similarity_maps(films.dense_features, self.encoded([concept])[0])[..., 0]

    def settle(self, data: Any) -> None:
        """Take from the examples what scoring needs besides the learned tensors; mostly nothing."""

    def encoded(self, concepts: Sequence[str]) -> tuple[Tensor, ...]:
        """`encode` of the concepts' prompt names; kept in evaluation mode."""
        key = tuple(concepts)
        if not self.training and key in self._kept:
            return self._kept[key]
        encoded = self.encode([prompt_name(concept) for concept in key])
        if not self.training:
            self._kept[key] = encoded
        return encoded

    def embed_images(self, films: ImageFeatures) -> Tensor:
        """Class scores of films, an extension, as RC-TPL's: (n, 5)."""
        return self.classify(films, COMPETITION)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Class scores of sentences: (m, 5)."""
        return self.score_texts(texts, COMPETITION)

    def score_texts(self, texts: Sequence[str], concepts: Sequence[str]) -> Tensor:
        """`classify` for sentences: (m, L)."""
        encoded = encoded_texts(self.encoder, tuple(texts))
        return self.classify(ImageFeatures(encoded, encoded[:, None, None]), concepts)

    def train(self, mode: bool = True) -> "PromptModel":
        """Switch between learning and evaluation; forget what was encoded."""
        self._kept.clear()
        return super().train(mode)

    def state(self) -> dict[str, Tensor]:
        """The learned tensors, on the CPU, as safetensors takes them."""
        return {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> "PromptModel":
        """Take learned tensors over (`InputError` at other names or shapes), for evaluation."""
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"tensors of another prompt learner ({str(error).splitlines()[1].strip()})",
                "Delete the file that they come from and learn again.",
            ) from error
        return self.eval()


@lru_cache(maxsize=512)  # a thousand sentences in batches, for each of three encoders
def encoded_texts(encoder: Encoder, texts: tuple[str, ...]) -> Tensor:
    """`Encoder.encode_text` of sentences, remembered: all models ask for the same ones."""
    return encoder.encode_text(texts)


def logit_scale(encoder: Encoder) -> float:
    """1 / tau of the encoder's own pre-training; CLIP's limit of 100 where it is not known."""
    learned = getattr(encoder, "logit_scale", None)
    return CLIP_SCALE if learned is None else min(learned.exp().item(), CLIP_SCALE)


def learn(
    model: PromptModel,
    data: TextCorpus | LabeledFilms,
    settings: PromptSettings,
    limits: PromptLearnerTraining,
    seed: int,
    judge: Judge,
) -> list[dict[str, float]]:
    """Minimize the model's loss until validation stops improving; keep the best state.

    `seed` decides the order of the examples (the model's constructor takes its own); `judge`, the
    validation AUC, is asked before the first step too. Returns one row a step: step, seconds since
    the start, loss (step 0 has none), and validation_auc where the films were looked at.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    start, best = time.perf_counter(), _looked(model, data, judge)
    history = [{"step": 0, "seconds": 0.0, "validation_auc": best[0]}]
    passes = (
        shuffled_batches(len(data), settings.batch_size, generator) for _ in itertools.count()
    )
    batches = itertools.islice(itertools.chain.from_iterable(passes), limits.steps)
    for step, rows in enumerate(
        tqdm(batches, total=limits.steps, desc=f"{model.name}, seed {seed}", unit="step"), start=1
    ):
        model.train()
        loss = model.loss(data.batch(rows, model.encoder.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        row = {"step": step, "loss": loss.item()}
        if step % limits.every == 0 or step == limits.steps:
            found = _looked(model, data, judge)
            row["validation_auc"] = found[0]
            best = max(best, found, key=lambda each: each[0])  # of equals the earlier one
        history.append(row | {"seconds": time.perf_counter() - start})
        if stop(history, limits)["plateau"]:
            break
    model.load(best[1])
    return history


def _looked(model: PromptModel, data: Any, judge: Judge) -> tuple[float, dict[str, Tensor]]:
    model.eval()
    model.settle(data)
    return judge(model), {name: value.clone() for name, value in model.state().items()}


def stop(history: Sequence[Mapping[str, float]], limits: PromptLearnerTraining) -> dict[str, Any]:
    """How one seed's run ended: steps, best_step, its validation_auc, and whether on a plateau.

    A plateau is `limits.patience` looks in a row without a better one.
    """
    looks = [row for row in history if "validation_auc" in row]
    best = max(looks, key=lambda row: row["validation_auc"])
    since = len(looks) - 1 - looks.index(best)
    return {
        "steps": history[-1]["step"],
        "best_step": best["step"],
        "validation_auc": best["validation_auc"],
        "plateau": since >= limits.patience,
    }
