"""Several processes on the same work: who does what, and the mean of what each found.

Started by `accelerate launch`, `accelerate.notebook_launcher` or `torchrun`, each process runs the
same program with the same seeds. With one process every operation here is the identity, so there
is one code path and its results are those of one process, bit by bit.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:  # imported where a launcher is at work: it takes its time
    from accelerate import PartialState

Item = TypeVar("Item")
# How long the others wait for the slowest; PyTorch's own 10 (NCCL) or 30 (gloo) minutes are too
# short for one process that puts a large file together.
PATIENCE = timedelta(hours=4)


@dataclass(frozen=True)
class Processes:
    """This process, number `index` from 0, among `count` that share the work."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and puts files together."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of the items: every `count`-th, so that all get long and short."""
        return items[self.index :: self.count]

    def share_of_batch(self, rows: Sequence[Item]) -> tuple[Sequence[Item], float]:
        """This process's reports of a batch, and the weight of their mean loss.

        The mean over processes of weight x mean loss of the part is the mean loss of the batch.
        Where a last batch has fewer reports than there are processes, those without one take the
        first report with weight 0: they must take part in the exchange.
        """
        part = self.share(rows)
        return (part if len(part) else rows[:1]), self.count * len(part) / len(rows)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """End the exchange, at the end of a program."""
        if self.count > 1:
            torch.distributed.destroy_process_group()

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes, the same in all."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        return reduce(value.to(_state().device), "mean").to(value.device)

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their mean over processes, in one exchange."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters]
        mean = self.mean(torch.cat([each.flatten() for each in gradients]))
        parts = mean.split([each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def processes() -> Processes:
    """The processes that a launcher started, joined on the first call; one where none did."""
    if "LOCAL_RANK" not in os.environ:  # all three launchers set it
        return Processes()
    state = _state()
    return Processes(state.process_index, state.num_processes)


def _state() -> "PartialState":
    """accelerate's state: gloo between CPU processes, NCCL between CUDA devices.

    Never made in a process without a launcher: notebook_launcher forks, and its children would
    inherit a state that says that they are alone.
    """
    from accelerate import PartialState

    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=told or not torch.cuda.is_available(), timeout=PATIENCE)
