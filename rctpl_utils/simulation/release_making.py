"""Make the release from nothing but the package's sources: `./run_all.sh release`.

Draws the films, reads the reports, then trains, each as a unit of its own whose weights are written
as it ends: the stand-in of every seed, the supervised references, the eight baselines on each
stand-in, the prompt learners. A killed run goes on where it stopped. Two cores need about 75
minutes for a stand-in, 30 for a reference, 80 for the baselines of a seed (three times that for the
first, which tries every learning rate); an accelerator minutes for all.

    python -m rctpl_utils release            # into build/release/weights
    python -m rctpl_utils release --publish  # then take them into the package
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rctpl_utils.baselines.miniatures import train_miniatures
from rctpl_utils.baselines.prompt_learners import learn_prompt_learners, release_prompt_learners
from rctpl_utils.baselines.supervised import load_references
from rctpl_utils.encoders.release import MANIFEST, RELEASE, manifest, released_file
from rctpl_utils.errors import InputError, one_line
from rctpl_utils.files import atomic_path
from rctpl_utils.simulation.stand_ins import frozen_encoders
from rctpl_utils.simulation.world import build_world
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import Report, run_reports, with_enough_concepts
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.workspace import Workspace


def make_release(workspace: Workspace, processes: int = 2) -> Path:
    """Train everything that is missing or out of date.

    Args:
        workspace: of a profile that trains its own weights ("release"; "smoke" in tests).
        processes: that draw films.

    Returns:
        the folder of weights.
    """
    build_world(workspace, processes=processes)
    reports = run_reports(workspace)
    triplets = _triplets(workspace, reports)
    encoders, _ = frozen_encoders(workspace, reports, triplets)
    load_references(workspace, encoders)
    train_miniatures(workspace, encoders, reports, triplets)
    chosen = [r for r in with_enough_concepts(reports, triplets) if r.split == "train"]
    learn_prompt_learners(workspace, encoders, chosen, triplets)
    release_prompt_learners(workspace)
    return workspace.weights


def publish(made: Path, target: Path = RELEASE) -> None:
    """Verify a folder of weights and put it in the place of the release, whole or not at all.

    Raises:
        InputError: a file that is absent or damaged; the old release is untouched.
        OSError: the disk is full, say; the old release is untouched.
    """
    names = [released_file(name, made).name for name in manifest(made)["files"]]
    fresh, old = (target.with_name(f".{target.name}.{kind}") for kind in ("new", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for name in (*names, MANIFEST):
            shutil.copyfile(made / name, fresh / name)
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.replace(old)
        fresh.replace(target)
    finally:
        if not target.exists() and old.exists():
            old.replace(target)
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _triplets(workspace: Workspace, reports: Sequence[Report]) -> pd.DataFrame:
    if not workspace.triplets.exists():
        found = triplets_frame(SpacyExtractor().extract(reports))
        with atomic_path(workspace.triplets) as temporary:
            found.to_parquet(temporary)
    return pd.read_parquet(workspace.triplets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="./run_all.sh release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")
    parser.add_argument("--output", metavar="DIR", help="where build/ goes")
    parser.add_argument("--processes", type=int, default=2, help="that draw films (default: 2)")
    parser.add_argument("--publish", action="store_true", help="take the weights into the package")
    options = parser.parse_args(arguments)
    try:
        workspace = Workspace.open("release", output=options.output, device=options.device)
        made = make_release(workspace, options.processes)
        if options.publish:
            publish(made)
    except (InputError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(f"{len(manifest(made)['files'])} files of weights in {made}")
    return 0
