"""Stand-ins as files of weights, for tests."""

from pathlib import Path

from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.simulation.stand_ins import add_stand_in


def save_stand_in(encoder: StandIn, path: Path, seed: int = 0) -> None:
    """Write an encoder's learned weights beside a manifest, as a run has them."""
    learned = {k: v for k, v in encoder.state_dict().items() if not k.startswith("text.bert.")}
    notes = {"kind": "stand-in", "seed": seed, "image_size": encoder.image_size, "curve": []}
    add_stand_in(path.parent, path.name, learned, notes)


def rounded(encoder: StandIn) -> StandIn:
    """The encoder with matrices that half precision can hold, so that a file changes nothing."""
    for name, value in encoder.state_dict().items():
        if value.is_floating_point() and value.ndim >= 2 and not name.startswith("text.bert."):
            value.copy_(value.half())
    return encoder
