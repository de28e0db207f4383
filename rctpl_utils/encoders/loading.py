"""From a profile, or from the notes in a prompt file, to the frozen encoder."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.biovil import BioViL
from rctpl_utils.encoders.medclip import MedCLIP
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.errors import InputError
from rctpl_utils.workspace import Workspace

STANDIN = "standin"  # pre-trained in the run; the others are read from a checkpoint
_LOAD: dict[str, Callable[..., Encoder]] = {
    STANDIN: StandIn.load,
    "medclip-resnet50": partial(MedCLIP.load, tower="resnet50"),
    "medclip-vit": partial(MedCLIP.load, tower="vit"),
    "biovil": BioViL.load,
}
_CHECK: dict[str, Callable[[str | Path], None]] = {
    "medclip-resnet50": partial(MedCLIP.check, tower="resnet50"),
    "medclip-vit": partial(MedCLIP.check, tower="vit"),
    "biovil": BioViL.check,
}


def load_encoder(workspace: Workspace, seed: int | None = None) -> Encoder:
    """A seed's frozen encoder on the run's device: its stand-in, or the one in the checkpoint.

    Args:
        seed: the profile's first by default; without effect where a checkpoint serves all seeds.

    Raises:
        InputError: files that are absent, damaged, or of another model.
    """
    kind = workspace.profile.encoder
    return open_encoder(kind, _file(workspace, seed), workspace.device)


def load_encoders(workspace: Workspace) -> tuple[Encoder, ...]:
    """One frozen encoder a seed of the profile; a checkpoint's is the same object for all.

    Raises:
        InputError: as `load_encoder`.
    """
    seeds = workspace.profile.seeds
    if workspace.profile.encoder != STANDIN:
        return (load_encoder(workspace),) * len(seeds)
    return tuple(load_encoder(workspace, seed) for seed in seeds)


def open_encoder(kind: str, path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """A frozen encoder from its file or folder.

    Args:
        kind: "standin", "medclip-resnet50", "medclip-vit" or "biovil".
        path: see the `load` of each.
        device: where the model goes.

    Raises:
        InputError: an unknown kind; files that are absent, damaged, or of another model.
    """
    if kind not in _LOAD:
        raise InputError(f"there is no encoder {kind!r}", f"Choose one of: {', '.join(_LOAD)}.")
    return _LOAD[kind](path, device)


def check_checkpoint(kind: str, path: str | Path) -> None:
    """Look through a checkpoint and what it needs, without building the model: a few seconds.

    Raises:
        InputError: what `open_encoder` would raise.
    """
    if kind not in _CHECK:
        raise InputError(
            f"the encoder {kind!r} has no checkpoint", f"Choose one of: {', '.join(_CHECK)}."
        )
    _CHECK[kind](path)


def check_encoder(workspace: Workspace) -> None:
    """What a run does first: look through its checkpoint, if its profile reads one.

    Raises:
        InputError: no checkpoint, or one that `load_encoder` would refuse; where files of the text
            model are missing, the message says what to download and where to put it.
    """
    if workspace.profile.encoder != STANDIN:
        check_checkpoint(workspace.profile.encoder, _file(workspace))


def encoder_notes(workspace: Workspace, seed: int) -> dict[str, str]:
    """What a prompt file's metadata say of its encoder: `encoder_kind` and `encoder_file`.

    The file is relative to the prompts' folder, so that a run may be moved as a whole and no
    user's folders are told to those who are given the prompts alone.
    """
    relative = os.path.relpath(_file(workspace, seed), workspace.prompts)
    return {"encoder_kind": workspace.profile.encoder, "encoder_file": Path(relative).as_posix()}


def named_encoder(prompt_file: str | Path, metadata: dict[str, str]) -> Encoder:
    """The encoder that a prompt file's metadata name, on the CPU.

    Raises:
        InputError: it is not where the metadata say; files that are damaged or of another model.
    """
    # prompts of before there was a choice name no kind
    kind = metadata.get("encoder_kind", STANDIN)
    path = Path(prompt_file).parent / metadata["encoder_file"]
    if kind != STANDIN and not path.exists():
        raise InputError(
            f"the prompts' encoder ({kind}) is not where they were learned",
            f'Give it: RCTPL.load(file, open_encoder("{kind}", checkpoint)).',
            file=path,
        )
    return open_encoder(kind, path)


def _file(workspace: Workspace, seed: int | None = None) -> Path:
    """Where a seed's encoder is, the first seed's by default.

    Raises:
        InputError: a profile that needs a checkpoint, and none was given.
    """
    if workspace.profile.encoder == STANDIN:
        return workspace.encoder(workspace.profile.seeds[0] if seed is None else seed)
    if workspace.checkpoint is None:
        raise InputError("this profile needs a checkpoint", "Give it with --checkpoint FILE.")
    return workspace.checkpoint
