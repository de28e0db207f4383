"""Files of exactly the released layouts, with random weights: names and shapes written by hand.

Names are those of the libraries with which the files were made (transformers 4.23, torchvision),
not those of the installed ones.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models import resnet50

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of mass edema both lungs the heart and pleura pleural "
    "effusion is seen in left right lower lobe no evidence ##s . , !"
)
WORDS = VOCABULARY.split()
WIDTH = 768
Shapes = dict[str, tuple[int, ...]]


def write_base_model(folder: Path, layers: int, intermediate: int = 256, **extra) -> Path:
    """A BERT's `config.json` and `vocab.txt`: as wide as the real one, few words, few layers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": len(WORDS),
    }
    (folder / "config.json").write_text(json.dumps(config | extra), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def bert_shapes(layers: int, intermediate: int = 256) -> Shapes:
    """BERT without its pooler."""
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (512, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **_pair("embeddings.LayerNorm", WIDTH),
    }
    for k in range(layers):
        layer = f"encoder.layer.{k}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _pair(f"{layer}.attention.{name}", WIDTH, WIDTH)
        shapes |= _pair(f"{layer}.attention.output.LayerNorm", WIDTH)
        shapes |= _pair(f"{layer}.intermediate.dense", intermediate, WIDTH)
        shapes |= _pair(f"{layer}.output.dense", WIDTH, intermediate)
        shapes |= _pair(f"{layer}.output.LayerNorm", WIDTH)
    return shapes


def swin_shapes() -> Shapes:
    """Swin-tiny as transformers 4 names it, without the stored index."""
    shapes = {
        **_pair("embeddings.patch_embeddings.projection", 96, 3, 4, 4),
        **_pair("embeddings.norm", 96),
        **_pair("layernorm", 768),
    }
    for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        width = 96 * 2**stage
        for k in range(depth):
            block = f"encoder.layers.{stage}.blocks.{k}"
            for name in ("self.query", "self.key", "self.value", "output.dense"):
                shapes |= _pair(f"{block}.attention.{name}", width, width)
            shapes[f"{block}.attention.self.relative_position_bias_table"] = (169, heads)
            shapes |= _pair(f"{block}.layernorm_before", width)
            shapes |= _pair(f"{block}.layernorm_after", width)
            shapes |= _pair(f"{block}.intermediate.dense", 4 * width, width)
            shapes |= _pair(f"{block}.output.dense", width, 4 * width)
        if stage < 3:
            merge = f"encoder.layers.{stage}.downsample"
            shapes[f"{merge}.reduction.weight"] = (2 * width, 4 * width)
            shapes |= _pair(f"{merge}.norm", 4 * width)
    return shapes


def resnet_shapes(head: bool) -> Shapes:
    """torchvision's ResNet-50, with or without the classifier of ImageNet."""
    with torch.device("meta"):
        state = resnet50(weights=None).state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if head or not k.startswith("fc.")}


def medclip_shapes(tower: str, layers: int, intermediate: int = 256) -> Shapes:
    """`MedCLIPModel.state_dict` without what no module needs."""
    if tower == "resnet50":
        image = {**resnet_shapes(head=False), "fc.weight": (512, 2048)}
        shapes = prefixed("vision_model.model.", image)
    else:
        shapes = prefixed("vision_model.model.", swin_shapes())
        shapes["vision_model.projection_head.weight"] = (512, 768)
    shapes |= prefixed("text_model.model.", bert_shapes(layers, intermediate))
    return shapes | {"text_model.projection_head.weight": (512, WIDTH)}


def prefixed(prefix: str, values: dict) -> dict:
    """Every name with a prefix."""
    return {prefix + name: value for name, value in values.items()}


def stripped(prefix: str, values: dict) -> dict:
    """The values under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def random_state(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Values of about the size that trained ones have, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _random(name, shape, generator) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    noise = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return 0.5 + noise.abs()
    if name.endswith("table") or "_embeddings.weight" in name:
        return 0.3 * noise
    if len(shape) > 1:
        return noise * math.sqrt(2 / math.prod(shape[1:]))
    return 0.1 * noise + (1 if name.endswith("weight") else 0)


def _pair(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def biovil_text_shapes(layers: int, intermediate: int = 256) -> Shapes:
    """`CXRBertModel.state_dict` without the head for masked words."""
    head = "cls_projection_head"
    return {
        **prefixed("bert.", bert_shapes(layers, intermediate)),
        **_pair(f"{head}.dense_to_hidden", 128, WIDTH),
        **_pair(f"{head}.LayerNorm", 128),
        **_pair(f"{head}.dense_to_output", 128, 128),
    }


def biovil_image_shapes() -> Shapes:
    """`ImageModel.state_dict` of hi-ml-multimodal, ImageNet's classifier and all."""
    normalization = ("weight", "bias", "running_mean", "running_var")
    return {
        **prefixed("encoder.encoder.", resnet_shapes(head=True)),
        "projector.model.0.weight": (128, 2048, 1, 1),
        **{f"projector.model.1.{name}": (128,) for name in normalization},
        "projector.model.1.num_batches_tracked": (),
        **_pair("projector.model.3", 128, 128, 1, 1),
    }
