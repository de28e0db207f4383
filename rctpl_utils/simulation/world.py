"""Write the embedded world: every data set in its official layout, resumable, with a manifest.

python -m rctpl_utils world --profile smoke
"""

import argparse
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from rctpl_utils.code_hash import code_of
from rctpl_utils.errors import InputError
from rctpl_utils.files import hash_of, note_written, read_json, write_json
from rctpl_utils.profiles import WorldSize
from rctpl_utils.simulation import evaluation_cases, layouts, manifest, training_cases
from rctpl_utils.simulation.anatomy import load_anatomy
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.layouts import LAYOUTS
from rctpl_utils.simulation.manifest import report_counts, summarize, world_manifest, write_drawn
from rctpl_utils.simulation.radiograph import Radiograph, render
from rctpl_utils.simulation.training_cases import openi_reports, test_set_cases, training_films
from rctpl_utils.workspace import Workspace

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


TRAINING = "mimic-cxr"
NAMES = (TRAINING, *LAYOUTS)
MANIFEST = "manifest.json"
_MARKERS, _UNFINISHED = ".complete", ".unfinished"
# name -> its field in `WorldSize`, where the name differs; chexpert has two
_FIELDS = {TRAINING: ("studies", "pretraining"), "chexpert": ("chexpert", "chexpert_5x200")}


def build_world(
    workspace: Workspace, *, processes: int = 2, renderer: Renderer = render
) -> dict[str, Any]:
    """Write what is missing or outdated of the world, and its manifest.

    Each data set is written beside its place, moved there when whole, and marked as complete last;
    so an interrupted call loses one data set at most, and a repeated one writes nothing.

    Args:
        workspace: of a simulated profile; the world goes to its `data_root`.
        processes: that draw; each needs about 0.5 GB.
        renderer: draws one film (a stand-in in tests).

    Returns:
        The manifest, also written to `manifest.json`.

    Raises:
        InputError: a profile without a world, a source that is missing, a disk that is full.
    """
    size = workspace.profile.world
    if size is None:
        raise InputError(
            f"profile {workspace.profile.name!r} uses real data",
            "Choose --profile smoke or embedded to make a simulated world.",
        )
    root, code = workspace.data_root, code_hash(renderer)
    keys = {name: dataset_key(name, size, code) for name in NAMES}
    missing = [name for name in NAMES if _finished(root, name, keys[name]) is None]
    if missing:
        with (
            _full_disk_explained(root),
            open_studio(workspace.cache, size.image_size, processes, renderer) as studio,
        ):
            for name in missing:
                _write_dataset(name, root, keys[name], size, studio)
    done = {name: _finished(root, name, keys[name]) for name in NAMES}
    return _write_manifest(root / MANIFEST, world_manifest(workspace.profile.name, size, done))


def dataset_key(name: str, size: WorldSize, code: str) -> str:
    """A hash of all that a data set depends on."""
    fields = asdict(size)
    wanted = (*_FIELDS.get(name, (name.replace("-", "_"),)), "image_size", "seed")
    return hash_of(name, {field: fields[field] for field in wanted}, code)


def code_hash(renderer: Renderer = render) -> str:
    """A hash of the code and packaged tables that cases and pixels depend on."""
    code = code_of(evaluation_cases, training_cases, layouts, manifest, renderer)
    return hash_of(code, renderer.__qualname__)


def _write_dataset(name: str, root: Path, key: str, size: WorldSize, studio: Studio) -> None:
    marker, final, partial = _marker(root, name), root / name, root / _UNFINISHED / name
    marker.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write = _write_training if name == TRAINING else _write_test_set
        summary = write(name, partial, size, studio)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        note_written(path for path in final.rglob("*") if path.is_file())
        write_json(marker, {"key": key, "summary": summary})
    finally:
        shutil.rmtree(root / _UNFINISHED, ignore_errors=True)


def _write_test_set(name: str, folder: Path, size: WorldSize, studio: Studio) -> dict[str, Any]:
    layout, cases = LAYOUTS[name], test_set_cases(name, size)
    rows = studio.draw(name, cases, folder, layout.write_image)
    layout.write_tables(folder, rows)
    write_drawn(folder, cases)
    return summarize(folder, cases, {})


def _write_training(name: str, folder: Path, size: WorldSize, studio: Studio) -> dict[str, Any]:
    films = training_films(size)
    cases = [case for _, case in films]
    studies = list({study.study_id: study for study, _ in films}.values())
    layouts.write_reports(folder, studies)
    studio.draw(name, cases, folder, layouts.write_film)
    layouts.write_tables(folder, films, size.image_size)
    write_drawn(folder, cases)
    return summarize(folder, cases, report_counts(studies, openi_reports()))


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest where it is new, and read it back as plain JSON."""
    if not path.is_file() or hash_of(read_json(path)) != hash_of(manifest):
        write_json(path, manifest)
    return read_json(path)


def _finished(root: Path, name: str, key: str) -> Mapping[str, Any] | None:
    """The summary of a finished data set, None where it is missing or outdated."""
    marker = _marker(root, name)
    if not marker.is_file() or not (root / name).is_dir():
        return None
    content = read_json(marker)
    return content["summary"] if content["key"] == key else None


def _marker(root: Path, name: str) -> Path:
    return root / _MARKERS / f"{name}.json"


@contextmanager
def _full_disk_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"the disk is full ({error.strerror})",
            "Free about 500 MB there and run again: finished data sets are kept.",
            file=root,
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write the world of a profile; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the embedded (simulated) world.")
    parser.add_argument("--profile", default="embedded")
    parser.add_argument("--output", help="folder that holds build/ (the project by default)")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    workspace = Workspace.open(options.profile, output=options.output, device="cpu")
    manifest = build_world(workspace, processes=options.processes)
    images = sum(c["images"] for d in manifest["datasets"].values() for c in d["counts"].values())
    print(f"{images} simulated radiographs in {workspace.data_root}")
    return 0
