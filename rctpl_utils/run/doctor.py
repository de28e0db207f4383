"""What is there, what is missing, what can be run: `python -m rctpl_utils doctor --data-root DIR`.

Every data set and the weights: found or not, layout, counts against the official ones, a film
decoded, licence and where to apply; then the machine; then what can be run now. Exit status: 0 all
that the paper's tables need is there in full (or the root is an embedded world, which makes its own
weights), 1 something is missing, partial or unusable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from tqdm import tqdm

from rctpl_utils.datasets import DATASETS
from rctpl_utils.datasets.official import OFFICIAL
from rctpl_utils.options import command
from rctpl_utils.profiles import PROFILES
from rctpl_utils.run.doctor_checks import (
    ABSENT,
    PARTIAL,
    SIMULATED,
    Finding,
    check_dataset,
    check_weights,
    machine,
)
from rctpl_utils.run.schedule import find_notebooks, needs_of, number_of
from rctpl_utils.workspace import NOTEBOOKS

WIDTH = 100
PROFILES_READING = tuple(name for name, each in PROFILES.items() if each.world is None)
TEXTS = "mimic-cxr"  # whose reports the prompts are learned from: all notebooks read it
ENCODER = "03"  # the notebook that opens the weights
# notebooks, what they make, the data set that they read besides
RUNS: tuple[tuple[str, str, str | None], ...] = (
    ("01, 02", "triplets and descriptions", None),
    ("03, 04", "features and prompts", None),
    ("05", "Table 1 and Figure 3, ChestX-ray14", "chestxray14"),
    ("05", "Table 1 and Figure 3, CheXpert", "chexpert"),
    ("05", "Table 1, COVID", "covidx"),
    ("05", "Table 1, RSNA", "rsna"),
    ("06", "Table 2, RSNA", "rsna"),
    ("06", "Table 3, SIIM-ACR", "siim"),
    ("06", "Table 4, COVID Rural", "covid-rural"),
    ("07", "Table 5", "chexpert5x200"),
    ("08", "Figure 4, CheXpert", "chexpert"),
    ("08", "Figure 4, COVID", "covidx"),
    ("08", "Figure 4, COVID Rural", "covid-rural"),
    ("09", "Figures 1 and 2", None),
    ("09", "Figures 5 and 6", "chestxray14"),
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
        needed = {DATASETS[name][0] for *_, name in RUNS if name} | {TEXTS}
        whole = all(finding.sound for finding in self.datasets if finding.name in needed)
        return whole and (self.simulated or self.checkpoint.sound)

    def runnable(self) -> list[tuple[str, str, str]]:
        """(notebook, what it makes, yes or why not) for each line of `RUNS`."""
        states = {name: f.state for f in self.datasets for name in f.usable}
        needs = needs_of(find_notebooks(NOTEBOOKS)).items()
        encoding = {number_of(one) for one, all_ in needs
                    if ENCODER in map(number_of, (one, *all_))}  # fmt: skip
        lines = []
        for notebooks, makes, other in RUNS:
            names = [TEXTS, other] if other else [TEXTS]
            missing = [name for name in names if name not in states]
            weighed = encoding & set(notebooks.split(", "))
            if weighed and not (self.simulated or self.checkpoint.sound):
                missing.append("checkpoint")
            partial = [name for name in names if states.get(name) == PARTIAL]
            verdict = f"not run: needs {', '.join(missing)}" if missing else "yes"
            if partial and not missing:
                verdict = f"on a part of {', '.join(partial)} (--allow-partial)"
            lines.append((notebooks, makes, verdict))
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
    parser = command("doctor", __doc__.split("\n\n")[1])
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
        shown = wrap(text, WIDTH - 14, break_long_words=False, break_on_hyphens=False) or [""]
        labels = [f"  {label}", *[""] * (len(shown) - 1)]
        lines += [f"{name:<14}{line}" for name, line in zip(labels, shown, strict=True)]
    return lines
