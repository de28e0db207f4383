"""Drawing many cases: chunks over a few processes, in order, with bounded memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from rctpl_utils.simulation.anatomy import load_anatomy
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.radiograph import Radiograph, render

CHUNK = 32  # films a task; a worker holds one film at a time

Renderer = Callable[[Case, Any, int], Radiograph]
Writer = Callable[[Path, Case, Radiograph], Any]  # folder, case, film -> what the tables need


@dataclass(frozen=True)
class Task:
    """A chunk of films to draw and write; travels to a worker process."""

    cases: tuple[Case, ...]
    folder: Path
    write: Writer
    cache: Path
    size: int
    render: Renderer

    def __call__(self) -> list[Any]:
        """Draw and write each film."""
        anatomy = load_anatomy(self.cache)
        return [
            self.write(self.folder, case, self.render(case, anatomy, self.size))
            for case in self.cases
        ]


@dataclass(frozen=True)
class Studio:
    """What drawing needs.

    Attributes:
        cache: the folder with the projected anatomy.
        size: side of a film in pixels.
        executor: the processes, None to draw in this one.
        renderer: draws one film.
    """

    cache: Path
    size: int
    executor: ProcessPoolExecutor | None = None
    renderer: Renderer = render

    def draw(self, name: str, cases: Sequence[Case], folder: Path, write: Writer) -> list[Any]:
        """Draw and write `cases`, with a progress bar that shows the rate.

        Args:
            name: shown beside the bar.
            cases: the films.
            folder: where `write` puts them.
            write: a module-level function; what it returns must be small.

        Returns:
            What `write` returned, in the order of `cases`.
        """
        chunks = [tuple(cases[i : i + CHUNK]) for i in range(0, len(cases), CHUNK)]
        tasks = [Task(c, folder, write, self.cache, self.size, self.renderer) for c in chunks]
        results = []
        with tqdm(total=len(cases), desc=name, unit=" films", mininterval=5) as bar:
            for result in self._run(tasks):
                results.append(result)
                bar.update(len(result))
        return list(chain.from_iterable(results))

    def _run(self, tasks: list[Task]) -> Iterator[list[Any]]:
        if self.executor is None:
            yield from (task() for task in tasks)
        else:
            yield from self.executor.map(_call, tasks)


@contextmanager
def open_studio(
    cache: Path, size: int, processes: int, renderer: Renderer = render
) -> Iterator[Studio]:
    """A studio of `processes` processes; 1 draws in this process.

    The anatomy is projected first where it is not in `cache`, once for all processes.
    """
    load_anatomy(cache)
    if processes == 1:
        yield Studio(cache, size, None, renderer)
        return
    context = get_context("spawn")  # the same on every platform, and safe beside torch's threads
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as executor:
        for _ in range(processes):  # they start, and import, while the first cases are drawn up
            executor.submit(_one_thread)
        try:
            yield Studio(cache, size, executor, renderer)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _call(task: Task) -> list[Any]:
    return task()


def _one_thread() -> None:
    """Two processes on two cores: a thread each."""
    threadpool_limits(1)
    cv2.setNumThreads(1)
