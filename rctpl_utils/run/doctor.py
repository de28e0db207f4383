"""What is there, what is missing, what can be run: `python -m rctpl_utils doctor --data-root DIR`.

Every data set and the weights: found or not, layout, counts against the official ones, a film
decoded, licence and where to apply; then the machine; then what can be run now. Exit status: 0 all
that the paper's tables need is there in full (or the root is an embedded world, which makes its own
weights), 1 something is missing, partial or unusable.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from tqdm import tqdm

from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.official import OFFICIAL
from rctpl_utils.profiles import PROFILES
from rctpl_utils.run.doctor_checks import ABSENT, PARTIAL, SIMULATED, Finding, check_dataset
from rctpl_utils.run.doctor_setup import check_weights, machine

WIDTH = 100
PROFILES_READING = tuple(name for name, each in PROFILES.items() if each.world is None)
_TEXTS = ("mimic-cxr",)  # whose reports the prompts are learned from
# notebook, what it makes, the data sets that it reads, whether it needs the frozen encoder
RUNS: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("01, 02", "triplets and descriptions", _TEXTS, False),
    ("03, 04", "features and prompts", _TEXTS, True),
    ("05", "Table 1 and Figure 3, ChestX-ray14", (*_TEXTS, "chestxray14"), True),
    ("05", "Table 1 and Figure 3, CheXpert", (*_TEXTS, "chexpert"), True),
    ("05", "Table 1, COVID", (*_TEXTS, "covidx"), True),
    ("05", "Table 1, RSNA", (*_TEXTS, "rsna"), True),
    ("06", "Table 2, RSNA", (*_TEXTS, "rsna"), True),
    ("06", "Table 3, SIIM-ACR", (*_TEXTS, "siim"), True),
    ("06", "Table 4, COVID Rural", (*_TEXTS, "covid-rural"), True),
    ("07", "Table 5", (*_TEXTS, "chexpert5x200"), True),
    ("08", "Figure 4, CheXpert", (*_TEXTS, "chexpert"), True),
    ("08", "Figure 4, COVID", (*_TEXTS, "covidx"), True),
    ("08", "Figure 4, COVID Rural", (*_TEXTS, "covid-rural"), True),
    ("09", "Figures 1 and 2", _TEXTS, True),
    ("09", "Figures 5 and 6", (*_TEXTS, "chestxray14"), True),
)


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        datasets: one a data set.
        checkpoint: of the weights.
        machine: (label, text) pairs.
    """

    datasets: tuple[Finding, ...]
    checkpoint: Finding
    machine: tuple[tuple[str, str], ...]

    @property
    def simulated(self) -> bool:
        """Whether the data root is an embedded world, which pre-trains its own encoder."""
        return any(finding.state == SIMULATED for finding in self.datasets)

    @property
    def sound(self) -> bool:
        """Whether nothing that `RUNS` needs is missing."""
        needed = {DATASETS[name][0] for _, _, names, _ in RUNS for name in names}
        whole = all(finding.sound for finding in self.datasets if finding.name in needed)
        return whole and (self.simulated or self.checkpoint.sound)

    def runnable(self) -> list[tuple[str, str, str]]:
        """(notebook, what it makes, yes or why not) for each line of `RUNS`."""
        states = {name: f.state for f in self.datasets for name in f.usable}
        lines = []
        for notebook, makes, names, needs_weights in RUNS:
            missing = [name for name in names if name not in states]
            if needs_weights and not (self.simulated or self.checkpoint.sound):
                missing.append("checkpoint")
            partial = [name for name in names if states.get(name) == PARTIAL]
            verdict = f"not run: needs {', '.join(missing)}" if missing else "yes"
            if partial and not missing:
                verdict = f"on a part of {', '.join(partial)} (--allow-partial)"
            lines.append((notebook, makes, verdict))
        return lines

    def __str__(self) -> str:
        """The table that the command prints."""
        blocks = ["\n".join(_block(finding)) for finding in (*self.datasets, self.checkpoint)]
        blocks.append("\n".join(["machine", *_facts(self.machine)]))
        lines = ["what can be run now"]
        lines += [f"  {nb:<7}{makes:<36}{verdict}" for nb, makes, verdict in self.runnable()]
        return "\n\n".join([*blocks, "\n".join(lines)])


def examine(
    data_root: str | Path, checkpoint: str | Path | None = None, profile: str = PROFILES_READING[0]
) -> Diagnosis:
    """Check everything; reads all tables and lists all images, and decodes a few.

    Args:
        data_root: the folder that holds the data sets' folders; may be absent.
        checkpoint: MedCLIP's weights; None where there are none.
        profile: the one that is to be run: "paper" or "paper-vit".
    """
    root = Path(data_root).expanduser().resolve()
    names = tqdm(OFFICIAL, desc="data sets", leave=False)
    findings = tuple(check_dataset(name, root) for name in names)
    weights = None if checkpoint is None else Path(checkpoint).expanduser()
    return Diagnosis(findings, check_weights(weights, profile), machine(root))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the diagnosis; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rctpl_utils doctor", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--data-root", required=True, metavar="DIR", help="the data sets' folder")
    parser.add_argument("--checkpoint", metavar="FILE", help="MedCLIP's weights")
    parser.add_argument(
        "--profile",
        choices=PROFILES_READING,
        default=PROFILES_READING[0],
        help="which encoder the weights are to be of: ResNet-50 (default) or Swin",
    )
    options = parser.parse_args(arguments)
    diagnosis = examine(options.data_root, options.checkpoint, options.profile)
    print(diagnosis)
    return 0 if diagnosis.sound else 1


def _block(finding: Finding) -> list[str]:
    sign = "not found" if finding.state == ABSENT else finding.state
    return [f"{finding.name:<14}{finding.title}: {sign}", *_facts(finding.facts)]


def _facts(facts: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    for label, text in facts:
        first, *rest = wrap(text, WIDTH - 14, break_long_words=False, break_on_hyphens=False) or [
            ""
        ]
        lines += [f"  {label:<12}{first}", *(f"{'':<14}{line}" for line in rest)]
    return lines
