"""From a profile, or from a prompt file's notes, to the frozen encoder; else an InputError."""

import os
from pathlib import Path

import torch

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.encoders.published import BioViL, MedCLIP
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.errors import InputError
from rctpl_utils.workspace import Workspace

STANDIN = "standin"  # pre-trained in the run; the others are read from a checkpoint
_PUBLISHED = {
    "medclip-resnet50": (MedCLIP, {"tower": "resnet50"}),
    "medclip-vit": (MedCLIP, {"tower": "vit"}),
    "biovil": (BioViL, {}),
}


def load_encoders(workspace: Workspace) -> tuple[Encoder, ...]:
    """One frozen encoder a seed, on the run's device; a checkpoint's is the same object for all."""
    kind, seeds = workspace.profile.encoder, workspace.profile.seeds
    if kind != STANDIN:
        return (open_encoder(kind, _file(workspace), workspace.device),) * len(seeds)
    return tuple(open_encoder(kind, _file(workspace, each), workspace.device) for each in seeds)


def open_encoder(kind: str, path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """A frozen encoder from its file or folder; see the class of each kind for what that holds."""
    if kind == STANDIN:
        return StandIn.load(path, device)
    if kind not in _PUBLISHED:
        kinds = ", ".join((STANDIN, *_PUBLISHED))
        raise InputError(f"there is no encoder {kind!r}", f"Choose one of: {kinds}.")
    made, options = _PUBLISHED[kind]
    return made.load(path, device, **options)


def check_checkpoint(kind: str, path: str | Path) -> None:
    """Raise what `open_encoder` would, without building the model: a few seconds."""
    if kind not in _PUBLISHED:
        problem = f"the encoder {kind!r} has no checkpoint"
        raise InputError(problem, f"Choose one of: {', '.join(_PUBLISHED)}.")
    made, options = _PUBLISHED[kind]
    made.check(path, **options)


def check_encoder(workspace: Workspace) -> None:
    """What a run does first: look through its checkpoint, if its profile reads one."""
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
    """The encoder that a prompt file's metadata name, on the CPU."""
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
    """Where a seed's encoder is; a checkpoint, which some profiles need, serves all seeds."""
    if workspace.profile.encoder == STANDIN:
        return workspace.encoder(seed)
    if workspace.checkpoint is None:
        raise InputError("this profile needs a checkpoint", "Give it with --checkpoint FILE.")
    return workspace.checkpoint
