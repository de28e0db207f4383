"""Write the embedded world: every data set in its official layout, resumable, with a manifest.

python -m rctpl_utils world --profile smoke
"""

import argparse
import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
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
from rctpl_utils.simulation.anatomy import load_anatomy
from rctpl_utils.simulation.cases import Case
from rctpl_utils.simulation.ct import SOURCES
from rctpl_utils.simulation.films import SETS, STATEMENTS, cases_of, training_films
from rctpl_utils.simulation.layouts import Film, write_film, write_studies, write_tables
from rctpl_utils.simulation.radiograph import Radiograph, render
from rctpl_utils.simulation.summary import report_counts, summary, write_drawn
from rctpl_utils.workspace import Workspace

CHUNK = 32  # films a task; a worker holds one film at a time
TRAINING = "mimic-cxr"
NAMES = (TRAINING, *SETS)
MANIFEST = "manifest.json"
_MARKERS, _UNFINISHED = ".complete", ".unfinished"
# name -> its field in `WorldSize`, where the name differs; chexpert has two
_FIELDS = {TRAINING: ("studies", "pretraining"), "chexpert": ("chexpert", "chexpert_5x200")}

Renderer = Callable[[Case, Any, int], Radiograph]


def build_world(
    workspace: Workspace, *, processes: int = 2, renderer: Renderer = render
) -> dict[str, Any]:
    """Write what is missing or outdated of the world, and its manifest (returned too).

    Each data set is written beside its place, moved there when whole, and marked as complete last;
    so an interrupted call loses one data set at most, and a repeated one writes nothing. Each
    process that draws needs about 0.5 GB. `InputError`: no world, no source, a full disk.
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
        chunk = partial(_draw_chunk, workspace.cache, size.image_size, renderer)
        with _full_disk_explained(root), _mapping(processes) as run:
            load_anatomy(workspace.cache)  # projected once, for all that draw
            for name in missing:
                _write_dataset(name, root, keys[name], size, partial(_draw, run, chunk))
    found = {
        "profile": workspace.profile.name,
        "seed": size.seed,
        "size": size,
        "statements": STATEMENTS,
        "sources": SOURCES,
        "datasets": {name: _finished(root, name, keys[name]) for name in NAMES},
    }
    path = root / MANIFEST
    if not path.is_file() or hash_of(read_json(path)) != hash_of(found):
        write_json(path, found)
    return read_json(path)


def dataset_key(name: str, size: WorldSize, code: str) -> str:
    """A hash of all that a data set depends on."""
    fields = asdict(size)
    wanted = (*_FIELDS.get(name, (name.replace("-", "_"),)), "image_size", "seed")
    return hash_of(name, {field: fields[field] for field in wanted}, code)


def code_hash(renderer: Renderer = render) -> str:
    """A hash of the code and packaged tables that cases, pixels and files depend on.

    It follows imports, so no reader of `datasets/` may be among them but Open-I's reports.
    """
    return hash_of(code_of(training_films, write_film, summary, renderer), renderer.__qualname__)


def _write_dataset(name: str, root: Path, key: str, size: WorldSize, draw: Callable) -> None:
    marker, final = root / _MARKERS / f"{name}.json", root / name
    unfinished = root / _UNFINISHED / name
    marker.unlink(missing_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        if name == TRAINING:
            films = training_films(size)
            cases = [case for _, case in films]
            draw(name, cases, unfinished)
            write_studies(unfinished, films, size.image_size)
            extra = report_counts({study.study_id: study for study, _ in films}.values())
        else:
            cases, extra = cases_of(name, size), {}
            write_tables(name, unfinished, draw(name, cases, unfinished))
        write_drawn(unfinished, cases)
        about = summary(unfinished, cases) | extra
        shutil.rmtree(final, ignore_errors=True)
        unfinished.replace(final)
        note_written(path for path in final.rglob("*") if path.is_file())
        write_json(marker, {"key": key, "summary": about})
    finally:
        shutil.rmtree(root / _UNFINISHED, ignore_errors=True)


def _finished(root: Path, name: str, key: str) -> Mapping[str, Any] | None:
    """The summary of a finished data set, None where it is missing or outdated."""
    marker = root / _MARKERS / f"{name}.json"
    content = read_json(marker) if marker.is_file() and (root / name).is_dir() else {}
    return content["summary"] if content.get("key") == key else None


@contextmanager
def _mapping(processes: int) -> Iterator[Callable]:
    """A `map` over so many processes, 1 for this one."""
    if processes == 1:
        yield map
        return
    context = get_context("spawn")  # the same on every platform, and safe beside torch's threads
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as executor:
        for _ in range(processes):  # they start, and import, while the first cases are drawn up
            executor.submit(_one_thread)
        try:
            yield executor.map
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _draw(
    run: Callable, chunk: Callable, name: str, cases: Sequence[Case], folder: Path
) -> list[Film]:
    """Write each film of a data set; a bar shows the chunks."""
    chunks, films = [cases[i : i + CHUNK] for i in range(0, len(cases), CHUNK)], []
    with tqdm(total=len(cases), desc=name, unit=" films", mininterval=5) as bar:
        for some in run(partial(chunk, name, folder), chunks):
            films += some
            bar.update(len(some))
    return films


def _draw_chunk(
    cache: Path, size: int, renderer: Renderer, name: str, folder: Path, cases: Sequence[Case]
) -> list[Film]:
    anatomy = load_anatomy(cache)
    return [write_film(name, folder, case, renderer(case, anatomy, size)) for case in cases]


def _one_thread() -> None:
    """Two processes on two cores: a thread each."""
    threadpool_limits(1)
    cv2.setNumThreads(1)


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
