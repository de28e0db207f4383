"""Learn the prompts of notebook 04, by several processes if a launcher started them.

    accelerate launch --multi_gpu --num_processes 4 -m rctpl_utils learn \\
        --profile paper --data-root DIR --checkpoint FILE

Needs the triplets (notebook 01) and the encoder. Each process takes its part of every batch, and
gradients are averaged. The prompts go to `build/<profile>/prompts`, where notebook 04 finds them.
"""

from collections.abc import Sequence

from rctpl_utils.encoders.loading import load_encoders
from rctpl_utils.options import add_run_options, command
from rctpl_utils.prompts.encode import load_corpora, run_command
from rctpl_utils.prompts.variants import VARIANTS, learn_rctpl, learn_rctpl_plus
from rctpl_utils.workspace import Workspace


def learn(workspace: Workspace, variants: Sequence[str] = VARIANTS) -> list[str]:
    """Learn the variants' prompts for every seed of the profile, or find them current.

    A line a variant: the last epoch's losses, averaged over seeds.
    """
    encoders = load_encoders(workspace)
    lines = []
    for variant in variants:
        paper = variant == VARIANTS[0]  # its H holds descriptions of absent triplets
        learner = learn_rctpl if paper else learn_rctpl_plus
        corpora = load_corpora(workspace, encoders, absent=paper)
        prompts, curves = learner(workspace, encoders, *corpora)
        last = curves[curves["epoch"] == curves["epoch"].max()]
        losses = ", ".join(
            f"{name.removesuffix('_loss')} {last[name].mean():.3f}"
            for name in ("report_loss", "concept_loss")
        )
        lines.append(f"{variant}: {len(prompts)} seeds, ranking loss of the last epoch: {losses}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 for bad input."""
    parser = command("learn", __doc__)
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: both"
    )
    add_run_options(parser)
    options = parser.parse_args(arguments)
    return run_command(options, lambda workspace: learn(workspace, options.variants))
