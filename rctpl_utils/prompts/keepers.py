"""Which contexts of a training run are kept, where it is not those of the last step."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Keeper(Protocol):
    """Sees the contexts (M, W) and the class embeddings (L, d) of every step, by branch."""

    def see(self, contexts: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]) -> None:
        """Look at a step, before its update."""

    def kept(self) -> dict[str, Tensor]:
        """The contexts to keep, by branch."""


class MeanOfSteps:
    """The mean of the contexts over all steps (Polyak and Juditsky 1992)."""

    def __init__(self) -> None:
        self._steps, self._total = 0, {}

    def see(self, contexts: Mapping[str, Tensor], embeddings: Mapping[str, Tensor]) -> None:
        """Add a step's contexts."""
        self._steps += 1
        for branch, context in contexts.items():
            self._total[branch] = self._total.get(branch, 0) + context.detach()

    def kept(self) -> dict[str, Tensor]:
        """The means."""
        return {branch: total / self._steps for branch, total in self._total.items()}


class NearestTo:
    """Each branch's contexts of the step whose class embeddings come nearest to given ones.

    Args:
        target: unit vectors, (L, d); nearness is the mean cosine over classes.
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
