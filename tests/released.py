"""Files of exactly the released layouts, with random weights: names and shapes written by hand.

Names are those of the libraries with which the files were made (transformers 4.23, torchvision),
not those of the installed ones. `CASES` has every model that is read from such files.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.baselines.released import chexzero
from rctpl_utils.baselines.released.gloria import GLoRIA
from rctpl_utils.baselines.released.medklip import ENTITIES, TEXTS, MedKLIP, MeDSLIP
from rctpl_utils.encoders.published import IMAGE_WEIGHTS, BioViL, MedCLIP, relative_position_index

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a photo of mass edema both lungs the heart and pleura pleural "
    "effusion is seen in left right lower lobe no evidence ##s . , !"
)
WORDS = VOCABULARY.split()
WIDTH = 768
CONFIGS = Path(__file__).parent / "cases"
TABLE = json.loads((CONFIGS / "released_shapes.json").read_text("utf-8"))
Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def prefixed(prefix: str, values: dict) -> dict:
    """Every name with a prefix."""
    return {prefix + name: value for name, value in values.items()}


def stripped(prefix: str, values: dict) -> dict:
    """The values under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def listed(part: str, **given: Any) -> Shapes:
    """A part of `cases/released_shapes.json`, for these sizes, layers and names."""
    shapes: Shapes = {}
    for name, sizes in TABLE[part].items():
        factors = ([given.get(each) or int(each) for each in s.split("*")] for s in sizes.split())
        shape, own = tuple(map(math.prod, factors)), name.format(**given)
        both = [own[:-1] + "weight", own[:-1] + "bias"] if own.endswith(".*") else [own]
        shapes |= dict(zip(both, (shape, shape[:1]), strict=False))
    return shapes


def random_state(shapes: Shapes, seed: int) -> State:
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


# --- BERT


def write_base_model(folder: Path, layers: int, intermediate: int = 256, **extra) -> Path:
    """A BERT's `config.json` and `vocab.txt`: as wide as the real one, few words, few layers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((CONFIGS / "bert_config.json").read_text("utf-8"))
    extra |= {"num_hidden_layers": layers, "intermediate_size": intermediate}
    (folder / "config.json").write_text(json.dumps(config | extra), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return folder


def reference_bert(state: State, prefix: str, folder: Path) -> tuple[BertModel, BertTokenizerFast]:
    """transformers' own BERT with the weights of a released file, and its tokenizer."""
    config = BertConfig.from_dict(json.loads((folder / "config.json").read_text()))
    bert, own = BertModel(config, add_pooling_layer=False).eval(), stripped(prefix, state)
    bert.load_state_dict({name: own[name] for name in bert_shapes(config.num_hidden_layers)})
    return bert, BertTokenizerFast.from_pretrained(folder)


def bert_shapes(layers: int, intermediate: int = 256) -> Shapes:
    """BERT without its pooler."""
    shapes = listed("bert", words=len(WORDS))
    for k in range(layers):
        shapes |= listed("bert layer", k=k, intermediate=intermediate)
    return shapes


def pooler(prefix: str) -> Shapes:
    """BERT's pooler, which files hold and no model calls."""
    return {f"{prefix}pooler.dense.weight": (WIDTH, WIDTH), f"{prefix}pooler.dense.bias": (WIDTH,)}


# --- image towers


def swin_shapes() -> Shapes:
    """Swin-tiny as transformers 4 names it, without the stored index."""
    shapes = listed("swin")
    for stage, (depth, heads) in enumerate(zip((2, 2, 6, 2), (3, 6, 12, 24), strict=True)):
        size = {"stage": stage, "width": 96 * 2**stage}
        for k in range(depth):
            shapes |= listed("swin block", k=k, heads=heads, **size)
        if stage < 3:
            shapes |= listed("swin merge", **size)
    return shapes


def resnet_shapes(head: bool) -> Shapes:
    """torchvision's ResNet-50, with or without the classifier of ImageNet."""
    with torch.device("meta"):
        state = resnet50(weights=None).state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if head or not k.startswith("fc.")}


# --- whole files


def medclip_shapes(tower: str, layers: int, intermediate: int = 256) -> Shapes:
    """`MedCLIPModel.state_dict`."""
    if tower == "resnet50":
        image = {**resnet_shapes(head=False), "fc.weight": (512, 2048)}
        shapes = prefixed("vision_model.model.", image)
    else:
        shapes = prefixed("vision_model.model.", swin_shapes())
        shapes["vision_model.projection_head.weight"] = (512, 768)
    shapes |= prefixed("text_model.model.", bert_shapes(layers, intermediate))
    shapes |= pooler("text_model.model.") | {"logit_scale": ()}
    return shapes | {"text_model.projection_head.weight": (512, WIDTH)}


def medclip_constants(tower: str) -> State:
    """What transformers 4.23 stored besides (medclip's issue tracker and haotian-liu/LLaVA, issue
    1204, name `position_ids`)."""
    found = {"text_model.model.embeddings.position_ids": torch.arange(512)[None]}
    if tower == "vit":
        for stage, depth in enumerate((2, 2, 6, 2)):
            for k in range(depth):
                name = f"encoder.layers.{stage}.blocks.{k}.attention.self.relative_position_index"
                found[f"vision_model.model.{name}"] = relative_position_index()
    return found


def biovil_text_shapes(layers: int, intermediate: int = 256) -> Shapes:
    """`CXRBertModel.state_dict`."""
    return prefixed("bert.", bert_shapes(layers, intermediate)) | listed("biovil text")


def biovil_image_shapes() -> Shapes:
    """`ImageModel.state_dict` of hi-ml-multimodal, ImageNet's classifier and all."""
    return prefixed("encoder.encoder.", resnet_shapes(head=True)) | listed("biovil image")


def gloria_shapes(layers: int, intermediate: int = 256) -> Shapes:
    """`PretrainModel.state_dict` of marshuang80/gloria."""
    text, image = "gloria.text_encoder.model.", "gloria.img_encoder.model."
    shapes = prefixed(text, bert_shapes(layers, intermediate)) | pooler(text)
    return shapes | prefixed(image, resnet_shapes(head=False)) | listed("gloria image")


def clip_shapes(size: chexzero.ClipSize) -> Shapes:
    """`CLIP.state_dict` of openai/CLIP with a vision transformer."""
    shapes = listed("clip", places=(size.image_side // size.patch) ** 2 + 1, **asdict(size))
    for k in range(size.vision_layers):
        shapes |= listed("clip block", tower="visual.transformer", k=k, width=size.vision_width)
    for k in range(size.text_layers):
        shapes |= listed("clip block", tower="transformer", k=k, width=size.text_width)
    return shapes


STAGES = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6}  # places in a Sequential
NEWER, OLDER = ("pathology", "anatomy"), ("e", "p")  # the streams' names in files of MeDSLIP


def medklip_shapes() -> Shapes:
    """`MedKLIP.state_dict`."""
    entrance = listed("entrance", name="disease_embedding_layer")
    return _trunk_shapes() | entrance | _stream_shapes("")


def medslip_shapes(streams: tuple[str, str]) -> Shapes:
    """`MeDSLIP.state_dict` with the streams of newer or of older files."""
    enter = "pathology_embedding_layer" if streams == NEWER else "disease_embedding_layer"
    shapes = _trunk_shapes() | listed("medslip") | listed("entrance", name=enter)
    return shapes | _stream_shapes(f"_{streams[0]}") | _stream_shapes(f"_{streams[1]}")


def _trunk_shapes() -> Shapes:
    """`res_features`: torchvision's ResNet-50 without the last stage, in a Sequential."""
    split = ((*name.split(".", 1), shape) for name, shape in resnet_shapes(head=False).items())
    return {
        f"res_features.{STAGES[stage]}.{rest}": shape
        for stage, rest, shape in split
        if stage in STAGES
    }


def _stream_shapes(stream: str) -> Shapes:
    """Four layers of 256, four heads, 1024 hidden (`models/transformer.py`), and what is around."""
    shapes = listed("stream", stream=stream)
    for k in range(4):
        shapes |= listed("stream layer", stream=stream, k=k)
    return shapes


# --- what lies beside a checkpoint

LETTERS = [chr(code) for code in range(33, 127)]
MERGES = ["n o</w>", "e d", "ed e", "ede m", "edem a</w>", "m a", "s s</w>", "ma ss</w>"]
PIECES = [
    *LETTERS, *(f"{letter}</w>" for letter in LETTERS), *(each.replace(" ", "") for each in MERGES),
    "<|startoftext|>", "<|endoftext|>",
]  # fmt: skip
SMALL_CLIP = chexzero.ClipSize(
    dimension=32, vision_width=128, vision_layers=2, text_width=64, text_layers=2,
    vocabulary=len(PIECES),
)  # fmt: skip
# Sentences in the small vocabulary, each with its own end, so that no two entities are alike.
FILLER = ["edema", "mass", "both", "lungs", "the", "heart", "and", "pleura"]
ENTITY_TEXTS = [
    f"A {FILLER[k % 8]} is seen in {FILLER[k // 8 % 8]} {FILLER[k // 64]}." for k in range(75)
]


def write_tokenizer(folder: Path) -> None:
    """CLIP's byte pairs, few."""
    ids = {token: k for k, token in enumerate(PIECES)}
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")


def write_entities(folder: Path) -> State:
    """The entities' texts, in the authors' order and with their misspelling, and BERT's weights."""
    names = ["eumonia" if name == "pneumonia" else name for name in ENTITIES]
    texts = dict(zip(names, ENTITY_TEXTS, strict=True))
    (folder / TEXTS).write_text(json.dumps(texts), "utf-8")
    write_base_model(folder / "bioclinicalbert", 2)
    bert = random_state(prefixed("bert.", bert_shapes(2) | pooler("")) | {"cls.bias": (2,)}, 3)
    torch.save(bert, folder / "bioclinicalbert" / "pytorch_model.bin")
    return bert


@dataclass(frozen=True)
class Case:
    """A model that is read from released files, small or of the published size (`full`)."""

    make: type
    shapes: Callable[[bool], tuple[Shapes, ...]]  # from `full`: names and shapes of each file
    beside: Callable[[Path, bool], object]  # writes what lies beside, from a folder and `full`
    unused: tuple[str, ...] = ()  # how the names begin that no model holds
    constants: State = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    wrap: Callable[[State], object] = dict  # how its training loop saves it
    scales: dict[str, float] = field(default_factory=dict)  # where random values are too large

    @property
    def files(self) -> tuple[str, ...]:
        """Their names."""
        more = (IMAGE_WEIGHTS[0],) if self.make is BioViL else ()
        return (self.make.weights[0], *more)

    def states(self) -> tuple[State, ...]:
        """Random weights of the small model, one state a file."""
        first, *others = (random_state(each, k) for k, each in enumerate(self.shapes(False)))
        for name, scale in self.scales.items():
            first[name] *= scale
        return (first | self.constants, *others)

    def write(self, folder: Path, *states: State) -> Path:
        """All files of a small model with these states."""
        self.beside(folder, False)
        for state, name in zip(states, self.files, strict=True):
            torch.save(self.wrap(state), folder / name)
        return folder

    def load(self, folder: Path):
        """The model of these files, a small one."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chexzero, "SIZE", SMALL_CLIP)  # names and code are the same
            return self.make.load(folder, **self.options)


class Loaded(NamedTuple):
    """A small model with its files."""

    folder: Path
    states: tuple[State, ...]
    model: Any


def loaded(case: Case, folders: pytest.TempPathFactory) -> Loaded:
    """A small model with random weights."""
    states = case.states()
    folder = case.write(folders.mktemp("released"), *states)
    return Loaded(folder, states, case.load(folder))


def lightning(state: object, **more: object) -> dict[str, object]:
    """A checkpoint as PyTorch Lightning 1.1 writes it."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{}]}
    parameters = {"model": {"vision": {"model_name": "resnet_50"}}}
    about = {"epoch": 12, "global_step": 30000, "pytorch-lightning_version": "1.1.4"}
    loops = {"callbacks": {}, "optimizer_states": [optimizer], "lr_schedulers": [{"best": 1.5}]}
    return {**about, **loops, "state_dict": state, "hyper_parameters": parameters, **more}


def trained(state: State, prefix: str = "module.") -> dict[str, object]:
    """As MedKLIP's training loop does: beside the optimizer's state and the configuration."""
    return {
        "model": prefixed(prefix, state),
        "optimizer": {"state": {0: {"step": 4, "exp_avg": torch.ones(2)}}, "param_groups": []},
        "lr_scheduler": {"base_values": [1e-4]},
        "config": {"d_model": 256, "text_encoder": "emilyalsentzer/Bio_ClinicalBERT"},
        "epoch": 41,
    }


def _size(full: bool, layers: int) -> tuple[int, ...]:
    """Layers of a BERT, and the width between."""
    return (12, 3072) if full else (layers,)


def _bert(layers: int, where: str = "bioclinicalbert", **extra) -> Callable[[Path, bool], Path]:
    return lambda folder, full: write_base_model(folder / where, *_size(full, layers), **extra)


def _medclip(tower: str) -> Case:
    return Case(
        MedCLIP,
        lambda full: (medclip_shapes(tower, *_size(full, 3)),),
        _bert(3),
        ("logit_scale", "text_model.model.pooler"),
        medclip_constants(tower),
        {"tower": tower},
    )


def _medklip(make: type, shapes: Shapes, unused: tuple[str, ...]) -> Case:
    return Case(
        make,
        lambda full: (shapes,),
        lambda folder, full: write_entities(folder),
        unused,
        wrap=trained,
    )


def _medslip(ours: str, other: str) -> Case:
    parts = ("res_l1", "res_l2", "decoder", "classifier", "cl_fc")
    unused = (*(f"{part}_{other}" for part in parts), f"cl_fc_{ours}")
    return _medklip(MeDSLIP, medslip_shapes((ours, other)), unused)


CXR_BERT = {"model_type": "cxr-bert", "architectures": ["CXRBertModel"], "projection_size": 128}
CASES = {
    "medclip-resnet50": _medclip("resnet50"),
    "medclip-vit": _medclip("vit"),
    "biovil": Case(
        BioViL,
        lambda full: (biovil_text_shapes(*_size(full, 2)), biovil_image_shapes()),
        _bert(2, ".", **CXR_BERT),
        ("cls.predictions", "encoder.encoder.fc"),
        {"bert.embeddings.position_ids": torch.arange(512)[None]},
    ),
    "gloria": Case(
        GLoRIA,
        lambda full: (gloria_shapes(*_size(full, 5)),),
        _bert(5),
        ("gloria.text_encoder.model.pooler",),
        {"gloria.text_encoder.model.embeddings.position_ids": torch.arange(512)[None]},
        wrap=lightning,
        # were regions as long as random values make them, a word would attend to one of them alone
        scales={"gloria.img_encoder.local_embedder.weight": 2e-4},
    ),
    "chexzero": Case(
        chexzero.CheXzero,
        lambda full: (clip_shapes(chexzero.ClipSize() if full else SMALL_CLIP),),
        lambda folder, full: write_tokenizer(folder),
        # (width, d): not a convolution's layout
        scales={"visual.proj": (32 / 256) ** 0.5, "text_projection": (32 / 128) ** 0.5},
    ),
    "medklip": _medklip(MedKLIP, medklip_shapes(), ("cl_fc",)),
    "medslip": _medslip(*NEWER),
    "medslip, older": _medslip(*OLDER),
}
