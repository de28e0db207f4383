"""Arrays made shard by shard: memory holds one shard, whatever the corpus.

While an array is made, each shard is a small file of its own that carries the SHA-256 of its
arrays, so an interrupted run goes on with the shards that are missing, and several processes (on
one machine or on several that share a folder) write beside each other. When all are there, they
become one memory-mapped `.npy` file an array, with the shards' checksums beside it; a shard that
no longer fits its checksum is made again, alone. Of programs that want the same file at the same
time (notebooks beside each other, say) one makes it and the others wait.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from rctpl_utils.encoders.parallel_training import Processes, processes
from rctpl_utils.errors import InputError
from rctpl_utils.files import atomic_path, read_json, write_json

Arrays = tuple[np.ndarray, ...]
_whole: set[tuple] = set()  # files that this process has checked, with their size and time


@dataclass(frozen=True)
class Plan:
    """What is made in which pieces; it never depends on the number of processes."""

    order: np.ndarray  # all n row numbers, in the order in which they are made
    batch: int  # rows that are made in one call
    shard: int  # batches in a shard

    def __len__(self) -> int:
        """Number of shards."""
        return -(-len(self.order) // (self.batch * self.shard))

    def rows(self, index: int) -> np.ndarray:
        """The rows of one shard."""
        size = self.batch * self.shard
        return self.order[index * size : (index + 1) * size]

    def batches(self, index: int) -> Iterator[np.ndarray]:
        """The rows of one shard, batch by batch."""
        rows = self.rows(index)
        for start in range(0, len(rows), self.batch):
            yield rows[start : start + self.batch]


def make_arrays(
    paths: Sequence[Path],
    plan: Plan,
    make: Callable[[np.ndarray], Arrays],
    *,
    label: str,
    unit: str,
) -> list[np.memmap]:
    """Arrays that are made once, shard by shard, by all processes together.

    Args:
        paths: one `.npy` file an array; their names must change with all that decides the values.
        make: from row numbers to the arrays' rows; the same rows must give the same bytes.
        label: the progress bar's; `unit`: what a row is.

    Returns:
        memory-mapped, read-only; row i is what `make` gave for row number i.

    Raises:
        InputError: no row, or a disk that does not keep what is written.
    """
    if not len(plan.order):
        raise InputError(f"nothing to do ({label})", "Give at least one input.", file=paths[0])
    store, group = ShardStore(paths, plan), processes()
    with _sole_maker(store, group):
        if not store.whole():
            _make_missing(store, group, make, label, unit)
    return store.open()


@contextmanager
def _sole_maker(store: "ShardStore", group: Processes) -> Iterator[None]:
    """Hold a store for this process and its group; others that want the same arrays wait.

    A group's first process takes the lock for all and every member starts when it has it, so that
    the members see the same files. The system frees a lock however its process ends; its file
    stays behind. A process alone locks and writes nothing where the arrays are whole.
    """
    if group.count == 1 and store.whole():
        yield
        return
    lock = FileLock(store.lock) if group.first else nullcontext()
    if group.first:
        store.lock.parent.mkdir(parents=True, exist_ok=True)
    with lock:
        group.wait()
        yield


def _make_missing(
    store: "ShardStore",
    group: Processes,
    make: Callable[[np.ndarray], Arrays],
    label: str,
    unit: str,
) -> None:
    missing = [index for index in range(len(store.plan)) if store.read(index) is None]
    group.wait()  # all have seen the same list before anyone shortens it
    mine = group.share(missing)
    rows = sum(len(store.plan.rows(index)) for index in mine)
    quiet = {} if group.first else {"disable": True}
    with tqdm(total=rows, desc=label, unit=unit, **quiet) as bar:
        for index in mine:
            parts = []
            for batch in store.plan.batches(index):
                parts.append(make(batch))
                bar.update(len(batch))
            store.write(index, tuple(map(np.concatenate, zip(*parts, strict=True))))
    group.wait()
    if group.first:
        store.assemble()
    group.wait()


class ShardStore:
    """The files of one or more arrays with the same n rows."""

    def __init__(self, paths: Sequence[Path], plan: Plan) -> None:
        """`paths`: the finished `.npy` files, one an array."""
        self.paths, self.plan = tuple(paths), plan
        self.ledger = paths[0].with_suffix(".json")  # the shards' checksums
        self.folder = paths[0].with_suffix(".shards")  # those not part of the finished files yet
        self.lock = paths[0].with_suffix(".lock")  # held by who makes the arrays; may stay behind

    def whole(self) -> bool:
        """Whether the finished files are there and every shard fits its checksum.

        All bytes are read, once a process and file.
        """
        files = (*self.paths, self.ledger)
        if not all(path.exists() for path in files):
            return False
        stamp = tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
        if stamp not in _whole:
            if any(self._finished(index) is None for index in range(len(self.plan))):
                return False
            _whole.add(stamp)
        return True

    def read(self, index: int) -> Arrays | None:
        """A shard from its own file or from the finished ones; None if neither holds it whole."""
        try:
            with safe_open(self._shard(index), "np") as stored:
                arrays = tuple(stored.get_tensor(str(k)) for k in range(len(self.paths)))
                wanted = (stored.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):  # absent, or its header is damaged
            return self._finished(index)
        fits = checksum(self.plan.rows(index), arrays) == wanted
        return arrays if fits else self._finished(index)

    def write(self, index: int, arrays: Arrays) -> None:
        """Keep a shard in a file of its own."""
        with atomic_path(self._shard(index)) as temporary:
            named = {str(k): np.ascontiguousarray(array) for k, array in enumerate(arrays)}
            save_file(named, temporary, {"sha256": checksum(self.plan.rows(index), arrays)})

    def assemble(self) -> None:
        """Put all shards into the finished files, one at a time; their own files then go.

        InputError where a shard that was written a moment ago is damaged.
        """
        sums = []
        with ExitStack() as stack:
            temporary = [stack.enter_context(atomic_path(path)) for path in self.paths]
            files: list[np.memmap] = []
            for index in range(len(self.plan)):
                arrays = self.read(index)
                if arrays is None:
                    raise InputError(
                        "a shard does not hold what was just written",
                        "Check the disk and its free space, then run again: only this shard is "
                        "made.",
                        file=self._shard(index),
                    )
                sums.append(checksum(self.plan.rows(index), arrays))
                files = files or [
                    np.lib.format.open_memmap(
                        path, "w+", array.dtype, (len(self.plan.order), *array.shape[1:])
                    )
                    for path, array in zip(temporary, arrays, strict=True)
                ]
                for file, array in zip(files, arrays, strict=True):
                    file[self.plan.rows(index)] = array
            for file in files:
                file.flush()
        write_json(self.ledger, {"sha256": sums})
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def open(self) -> list[np.memmap]:
        """The finished arrays, read-only."""
        return [np.load(path, mmap_mode="r") for path in self.paths]

    def _shard(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _finished(self, index: int) -> Arrays | None:
        """A shard's rows in the finished files, if they fit the ledger."""
        try:
            wanted = read_json(self.ledger)["sha256"][index]
            arrays = tuple(file[self.plan.rows(index)] for file in self.open())
        except (OSError, ValueError, LookupError, TypeError):  # absent, truncated or no array
            return None
        return arrays if checksum(self.plan.rows(index), arrays) == wanted else None


def checksum(rows: np.ndarray, arrays: Arrays) -> str:
    """SHA-256 over the row numbers, then each array's type, shape and bytes.

    The row numbers are in it so that a shard of another plan (or another shard's file) never fits.
    """
    digest = hashlib.sha256(np.ascontiguousarray(rows, "<i8").data)
    for array in arrays:
        digest.update(json.dumps([array.dtype.str, array.shape]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
