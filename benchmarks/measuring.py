"""Times that can be believed: two sides in turn, repeated, with their spread, on a machine at rest.

Work beside a measurement slows both sides of a ratio, but not at the same moment. So they take
turns, A B A B, each pair gives one ratio, and the median of the ratios is what is said. Where the
machine is busy, or the ratios scatter, no verdict is given.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

REPEATS = 7
SCATTER = 1.25  # the upper quartile over the lower; beyond it there is no verdict

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity."""

    values: tuple[float, ...]  # in the order in which they were taken

    @property
    def median(self) -> float:
        """What is said of it."""
        return float(np.median(self.values))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper."""
        low, high = np.percentile(self.values, (25, 75))
        return float(low), float(high)

    def text(self, form: str = ".1f") -> str:
        """The median, the quartiles, all values' range and how many there are."""
        numbers = (self.median, *self.quartiles, min(self.values), max(self.values))
        middle, low, high, least, most = (format(value, form) for value in numbers)
        count = len(self.values)
        return f"{middle} (quartiles {low} to {high}, {count} from {least} to {most})"


def take_turns(first: Work, second: Work, repeats: int = REPEATS) -> tuple[Spread, Spread]:
    """Seconds of two pieces of work that alternate, after one call of each that is not counted."""
    first(), second()
    pairs = [(_seconds(first), _seconds(second)) for _ in range(repeats)]
    one, other = zip(*pairs, strict=True)
    return Spread(one), Spread(other)


def rate(work: Work, amount: float, repeats: int = REPEATS) -> Spread:
    """`amount` a second, call by call, after one that is not counted."""
    work()
    return Spread(tuple(amount / _seconds(work) for _ in range(repeats)))


def ratio(numerator: Spread, denominator: Spread, factor: float = 1.0) -> Spread:
    """The ratio of each pair, times a factor."""
    pairs = zip(numerator.values, denominator.values, strict=True)
    return Spread(tuple(factor * one / other for one, other in pairs))


def verdict(found: Spread, goal: float, load: float | None, cores: int | None = None) -> str:
    """Whether the median reaches the goal, or why that cannot be said.

    `load` is that of the minute before the measurement (`load_before`); cores are counted.
    """
    cores = cores or os.cpu_count() or 1
    low, high = found.quartiles
    if load is not None and load > cores:
        return f"no verdict: the machine was busy (load {load:.1f} on {cores} cores)"
    if high > SCATTER * low:
        return f"no verdict: the ratios scatter (quartiles {high / low:.2f} times apart)"
    return f"{'reaches' if found.median >= goal else 'misses'} the goal of {goal:g}"


def load_before() -> float | None:
    """The load of the last minute; None where the system does not tell (Windows)."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def table(lines: Sequence[tuple[str, str]]) -> str:
    """Names and what was found, in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def _seconds(work: Work) -> float:
    """How long work takes, what a GPU still does before and after it waited for."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
