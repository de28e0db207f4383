"""Grad-CAM of the concept branch's score (paper 4.3.3; Selvaraju et al. 2017, Eq. 1 and 2)."""

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from tqdm import tqdm

from rctpl_utils.encoders.base import Encoder
from rctpl_utils.scoring import IMAGE_TEMPERATURE, concept_scores

PAIRS = 128  # pairs of image and class that are held at once, whatever the number of images


def gradcam_maps(encoder: Encoder, images: Tensor, class_embeddings: Tensor) -> np.ndarray:
    """Which parts of an image raise its concept score p'_i (Eq. 7, 8), one map a class.

    With A^k the channels of the encoder's `saliency_layer` and a_k the mean of d p'_i / d A^k over
    its cells, the map is ReLU(sum_k a_k A^k). pytorch-grad-cam stretches it to [0, 1] and resizes
    it to the input; where no channel speaks for the class it is zero everywhere. The trunk below
    that layer runs once an image and without a graph, the head above it once a pair of image and
    class; no weight receives a gradient. Preprocessed images (n, C, S, S) and E^C (L, d) to (n, L,
    S, S) float32.
    """
    count, classes = len(images), len(class_embeddings)
    maps = np.empty((count, classes, *images.shape[-2:]), np.float32)
    step = max(PAIRS // classes, 1)
    scorer = _ConceptScorer(encoder.image_module, class_embeddings.detach())

    # the graph begins at this layer's map, which is repeated once a class
    cut = encoder.saliency_layer.register_forward_hook(
        lambda _module, _inputs, map_: map_.detach().repeat_interleave(classes, 0).requires_grad_()
    )
    cam = GradCAM(scorer, [encoder.saliency_layer])  # its hooks come after `cut`, so see its output
    try:
        starts = range(0, count, step)
        for start in tqdm(starts, desc="Grad-CAM", unit="batch", disable=count <= step):
            batch = images[start : start + step].to(encoder.device)
            targets = [ClassifierOutputTarget(k) for _ in batch for k in range(classes)]
            with torch.enable_grad():
                part = cam(batch, targets)  # (n' * L, S, S), all classes of an image together
            maps[start : start + step] = part.reshape(len(batch), classes, *part.shape[1:])
    finally:  # not GradCAM's own context manager, which swallows an IndexError
        cam.activations_and_grads.release()
        cut.remove()
    return maps


class _ConceptScorer(nn.Module):
    """Images to concept scores, as pytorch-grad-cam wants a classifier: (n, C, S, S) to (n, L)."""

    def __init__(self, image_module: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.image_module = image_module
        self.register_buffer("embeddings", embeddings)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.image_module(images).dense_features.flatten(1, 2)  # (n, h * w, d)
        return concept_scores(cells, self.embeddings, IMAGE_TEMPERATURE)
