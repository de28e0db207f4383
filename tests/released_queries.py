"""What the tests of MedKLIP and MeDSLIP share: names and shapes of the released files, written by
hand, and the models' arithmetic done again with the modules of torch and torchvision."""

import json
from pathlib import Path

import torch
from released import WIDTH, bert_shapes, prefixed, random_state, resnet_shapes, write_base_model
from torch import Tensor, nn
from torchvision.models import resnet50

from rctpl_utils.baselines.released.entities import ENTITIES, TEXTS

LAYERS = 2  # of the small BERT
STAGES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}  # places in a Sequential
# Sentences in the small vocabulary, each with its own end, so that no two entities are alike.
FILLER = ["edema", "mass", "both", "lungs", "the", "heart", "and", "pleura"]


def pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def trunk_shapes() -> dict[str, tuple[int, ...]]:
    """`res_features`: torchvision's ResNet-50 without the last stage, in a Sequential."""
    found = {}
    for name, shape in resnet_shapes(head=False).items():
        stage, rest = name.split(".", 1)
        if stage in STAGES:
            found[f"res_features.{STAGES[stage]}.{rest}"] = shape
    return found


def decoder_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Four layers of 256, four heads, 1024 hidden; `models/transformer.py`."""
    shapes = pair(f"{name}.norm", 256)
    for k in range(4):
        layer = f"{name}.layers.{k}"
        for attention in ("self_attn", "multihead_attn"):
            shapes[f"{layer}.{attention}.in_proj_weight"] = (768, 256)
            shapes[f"{layer}.{attention}.in_proj_bias"] = (768,)
            shapes |= pair(f"{layer}.{attention}.out_proj", 256, 256)
        shapes |= pair(f"{layer}.linear1", 1024, 256) | pair(f"{layer}.linear2", 256, 1024)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= pair(f"{layer}.{norm}", 256)
    return shapes


def write_texts(folder: Path) -> list[str]:
    """The entities' file, in the authors' order and with their misspelling, and BERT's weights."""
    texts = [
        f"A {FILLER[k % 8]} is seen in {FILLER[k // 8 % 8]} {FILLER[k // 64]}." for k in range(75)
    ]
    names = ["eumonia" if name == "pneumonia" else name for name in ENTITIES]
    (folder / TEXTS).write_text(json.dumps(dict(zip(names, texts, strict=True))), "utf-8")
    write_base_model(folder / "bioclinicalbert", LAYERS)
    bert = random_state(prefixed("bert.", bert_shapes(LAYERS)), 3)
    bert |= {"bert.pooler.dense.weight": torch.zeros(768, 768), "cls.bias": torch.zeros(2)}
    torch.save(bert, folder / "bioclinicalbert" / "pytorch_model.bin")
    return texts


def save(state: dict[str, Tensor], file: Path, prefix: str = "module.") -> None:
    """As the training loop does: beside the optimizer's state and the configuration."""
    content = {
        "model": prefixed(prefix, state),
        "optimizer": {"state": {0: {"step": 4, "exp_avg": torch.ones(2)}}, "param_groups": []},
        "lr_scheduler": {"base_values": [1e-4]},
        "config": {"d_model": 256, "text_encoder": "emilyalsentzer/Bio_ClinicalBERT"},
        "epoch": 41,
    }
    torch.save(content, file)


def torchvision_cells(state: dict[str, Tensor], films: Tensor) -> Tensor:
    """The third stage of torchvision's own ResNet-50 with a file's weights: (n, 196, 1024)."""
    model = resnet50(weights=None).eval()
    back = {place: stage for stage, place in STAGES.items()}
    own = {}
    for name, value in state.items():
        if name.startswith("res_features."):
            place, rest = name.removeprefix("res_features.").split(".", 1)
            own[f"{back[int(place)]}.{rest}"] = value
    outcome = model.load_state_dict(own, strict=False)
    assert not outcome.unexpected_keys
    assert all(name.startswith(("layer4.", "fc.")) for name in outcome.missing_keys)
    x = model.maxpool(model.relu(model.bn1(model.conv1(films))))
    return model.layer3(model.layer2(model.layer1(x))).flatten(2).transpose(1, 2)


def torch_decoder(state: dict[str, Tensor], name: str) -> nn.TransformerDecoder:
    """torch's own decoder with a file's weights."""
    layer = nn.TransformerDecoderLayer(256, 4, 1024, 0.0, "relu", batch_first=True, norm_first=True)
    model = nn.TransformerDecoder(layer, 4, nn.LayerNorm(256)).eval()
    model.load_state_dict(
        {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
    )
    return model


def attention_by_hand(
    decoder: nn.TransformerDecoder, queries: Tensor, cells: Tensor, blocked: Tensor | None = None
) -> Tensor:
    """The heads' and layers' mean attention, from the projections themselves: (n, Q, T)."""
    means = []
    for layer in decoder.layers:
        x = layer.norm1(queries)
        queries = queries + layer.self_attn(x, x, x, attn_mask=blocked)[0]
        asked = layer.norm2(queries)
        weight, bias = layer.multihead_attn.in_proj_weight, layer.multihead_attn.in_proj_bias
        q = (asked @ weight[:256].T + bias[:256]).unflatten(-1, (4, 64))
        k = (cells @ weight[256:512].T + bias[256:512]).unflatten(-1, (4, 64))
        means.append(torch.einsum("nqhd,nthd->nhqt", q, k).div(8).softmax(dim=-1).mean(dim=1))
        queries = queries + layer.multihead_attn(asked, cells, cells)[0]
        x = layer.norm3(queries)
        queries = queries + layer.linear2(layer.linear1(x).relu())
    return torch.stack(means).mean(dim=0)


__all__ = [
    "LAYERS",
    "WIDTH",
    "attention_by_hand",
    "decoder_shapes",
    "pair",
    "save",
    "torch_decoder",
    "torchvision_cells",
    "trunk_shapes",
    "write_texts",
]
