"""MeDSLIP (Fan et al. 2024) from its released checkpoint: MedKLIP with two streams.

A learned mask m, linear in the cell x and not bounded, divides it: m x goes to the stream of
pathologies, (1 - m) x to that of anatomy (`models/model_MeDSLIP.py` of Shef-AIRE/MeDSLIP, in
`PreTrain_MeDSLIP` and `Sample_zero-shot_Classification_CXR14`). Scores and maps are those of the
pathologies' stream, as MedKLIP's; the other stream, which only pre-training uses, is not built.

Two things in the authors' repository contradict each other. Its sample of grounding leaves the
mask out (it feeds both streams with the mask layer's output); classification and pre-training are
followed here. And the streams are called "e" and "p" in older files, "pathology" and "anatomy" in
newer ones; both are read, since the released file was not at hand.
"""

from pathlib import Path

from torch import Tensor, nn

from rctpl_utils.baselines.released.medklip import CHANNELS, MedKLIP, renamed
from rctpl_utils.encoders.checkpoint import Layout

WEIGHTS = "MeDSLIP_resnet50.pth"
# stream of pathologies, that of anatomy, the layer that texts enter by
NEWER = ("pathology", "anatomy", "pathology_embedding_layer")
OLDER = ("e", "p", "disease_embedding_layer")


class MeDSLIP(MedKLIP):
    """See the module; everything else is `MedKLIP`'s."""

    name = "MeDSLIP"
    weights = WEIGHTS

    def __init__(self, folder: str | Path) -> None:
        """A model with random weights; `folder` holds what `EntityTexts` reads."""
        super().__init__(folder)
        self.mask = nn.Linear(CHANNELS, CHANNELS)

    @classmethod
    def layout(cls, state: dict[str, Tensor]) -> Layout:
        """How `MeDSLIP.state_dict` names what the model holds, in whichever of its two ways."""
        older = any(name.endswith(f"{OLDER[2]}.weight") for name in state)
        pathology, anatomy, enter = OLDER if older else NEWER
        names = {
            "trunk": "res_features",
            "mask": "mask_generator",
            "wide": f"res_l1_{pathology}",
            "narrow": f"res_l2_{pathology}",
            "enter": enter,
            "decoder": f"decoder_{pathology}",
            "exist": f"classifier_{pathology}",
        }
        unused = (  # the other stream, and both projections for the contrast to prototypes
            rf"(res_l1|res_l2|decoder|classifier)_{anatomy}\..+",
            rf"cl_fc_({pathology}|{anatomy})\.(weight|bias)",
        )
        return renamed(names, unused)

    def cells(self, features: Tensor) -> Tensor:
        """The pathologies' share of the trunk's cells (n, T, 1024), (n, T, 256)."""
        return super().cells(self.mask(features) * features)
