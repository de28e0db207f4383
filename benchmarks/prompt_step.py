"""A step of prompt training on a GPU, in several ways: `python -m benchmarks.prompt_step`.

At MedCLIP's size: a BERT of 12 layers and width 768 with random weights, 20 classes, two contexts
of 12 vectors, batches of 64 reports. On a GPU arithmetic takes little of such a step; the launches
of some hundred small kernels take the rest. Each way starts from the same contexts; after some
steps its class embeddings are compared with those of the step as the package takes it.

Needs torch, transformers and what `rctpl_utils.prompts.training` imports: no
weights, no other data.
"""

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from benchmarks.measuring import load_before, rate, table, verdict
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.text_tower import TextTower
from rctpl_utils.prompts.training import BRANCHES, TextBatch, batch_losses, embed_classes
from rctpl_utils.scoring import TEXT_TEMPERATURE
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name

GOAL = 150  # steps a second
SAME = 1e-3  # how far class embeddings may differ
STEPS = 20  # before they are compared, and in one measurement
LENGTH, DIMENSION, BATCH, DESCRIPTIONS = 12, 512, 64, 8
LAYERS = (1, 2, -1)  # those that MedCLIP averages
NAMES = [prompt_name(concept) for concept in TRAINING_CONCEPTS]

Embed = Callable[[Tensor], Tensor]  # contexts (2, M, W) to class embeddings (2, L, d)


class Prompter:
    """The part of the `Encoder` protocol that a step needs: a text tower with random weights."""

    def __init__(self, width: int = 768, layers: int = 12, device: str = "cpu") -> None:
        torch.manual_seed(0)
        tokenizer = _tokenizer(NAMES)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
        )
        bert = BertModel(config, add_pooling_layer=False)
        projection = nn.Linear(width, DIMENSION, bias=False)
        self.text = freeze(TextTower(bert, tokenizer, projection, layers=LAYERS).to(device))
        self.context_width, self.device = width, self.text.device

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Contexts and names to (L, d) unit vectors."""
        return self.text.prompt(context, class_names)


class FixedNames(nn.Module):
    """What `embed_classes` gives, the names' tokens taken once: no step waits for the host."""

    def __init__(
        self, tower: TextTower, names: Sequence[str], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.bert = deepcopy(tower.bert).to(dtype)
        self.project, self.dtype = tower.project, dtype
        tokens = tower.tokenize(list(names) * len(BRANCHES))
        self.words = tower.bert.get_input_embeddings()(tokens["input_ids"]).detach()
        seen = tokens["attention_mask"]
        self.seen = torch.cat([seen[:, :1].expand(-1, 1 + LENGTH), seen[:, 1:]], dim=1)
        side = self.seen.shape[1]
        self.mask = self.seen.bool()[:, None, None].expand(-1, 1, side, side)

    def forward(self, contexts: Tensor) -> Tensor:
        """(2, M, W) to (2, L, d)."""
        count = len(self.words) // len(BRANCHES)
        each = contexts.repeat_interleave(count, dim=0)
        embedded = torch.cat([self.words[:, :1], each, self.words[:, 1:]], dim=1)
        states = self.bert(
            attention_mask=self.mask,
            inputs_embeds=embedded.to(self.dtype),
            output_hidden_states=True,
        ).hidden_states
        hidden = torch.stack([states[k] for k in LAYERS]).float().mean(dim=0)
        weights = self.seen.unsqueeze(-1).float()
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return self.project(pooled).unflatten(0, (len(BRANCHES), count))


def ways(encoder: Prompter, contexts: Tensor) -> dict[str, Callable[[], Embed]]:
    """The ways to make class embeddings, the package's own first; each is made when it is asked."""

    def fixed(dtype: torch.dtype = torch.float32) -> FixedNames:
        return FixedNames(encoder.text, NAMES, dtype)

    def graphed(module: FixedNames) -> Embed:
        sample = contexts.detach().clone().requires_grad_()
        return torch.cuda.make_graphed_callables(module, (sample,))

    return {
        "as the package does": lambda: own_way(encoder),
        "tokens once": fixed,
        "CUDA graphs": lambda: graphed(fixed()),
        "torch.compile": lambda: torch.compile(fixed()),
        "bfloat16": lambda: fixed(torch.bfloat16),
        "bfloat16, CUDA graphs": lambda: graphed(fixed(torch.bfloat16)),
    }


def own_way(encoder: Prompter) -> Embed:
    """`training.embed_classes`, as `learn_prompts` calls it."""

    def embed(contexts: Tensor) -> Tensor:
        by_branch = dict(zip(BRANCHES, contexts, strict=True))
        return torch.stack(list(embed_classes(encoder, by_branch, NAMES).values()))

    return embed


def make_step(embed: Embed, start: Tensor, batch: TextBatch) -> tuple[Callable[[], None], Tensor]:
    """One update of the contexts by Eq. 9, and the contexts that it updates."""
    contexts = start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([contexts], lr=2e-5)  # the paper's

    def step() -> None:
        embedded = dict(zip(BRANCHES, embed(contexts), strict=True))
        losses = batch_losses(batch, embedded, TEXT_TEMPERATURE, 1.0)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimizer.step()

    return step, contexts


def random_batch(device: torch.device) -> TextBatch:
    """Random unit features and labels, of a batch's shapes."""
    generator = torch.Generator().manual_seed(0)
    report = torch.randn(BATCH, DIMENSION, generator=generator)
    described = torch.randn(BATCH, DESCRIPTIONS, DIMENSION, generator=generator)
    present = torch.rand(BATCH, len(NAMES), generator=generator) < 0.1
    parts = (
        nn.functional.normalize(report, dim=-1),
        nn.functional.normalize(described, dim=-1),
        torch.ones(BATCH, DESCRIPTIONS, dtype=torch.bool),
        present,
        ~present,
    )
    return TextBatch(*(part.to(device) for part in parts))


def compare(encoder: Prompter, names: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Steps a second of each named way, or of all, and how far its class embeddings are off."""
    load, batch = load_before(), random_batch(encoder.device)
    generator = torch.Generator().manual_seed(1)
    start = 0.02 * torch.randn(len(BRANCHES), LENGTH, encoder.context_width, generator=generator)
    start = start.to(encoder.device)
    lines, reference = [], None
    for name, make in ways(encoder, start).items():
        if names is not None and name not in names:
            continue
        try:
            step, contexts = make_step(make(), start, batch)
            for _ in range(STEPS):
                step()
        except (RuntimeError, NotImplementedError) as error:  # what torch cannot capture or compile
            lines.append((name, f"not to be had: {(str(error).splitlines() or ['?'])[0]}"))
            continue
        with torch.no_grad():
            found = own_way(encoder)(contexts)
        reference = found if reference is None else reference
        off = (found - reference).abs().max().item()
        speed = rate(lambda step=step: [step() for _ in range(STEPS)], STEPS)
        same = "the same" if off <= SAME else "too far off"
        said = f"{speed.text()} steps/s: {verdict(speed, GOAL, load)}; off by {off:.1e}, {same}"
        lines.append((name, said))
    return lines


def main() -> None:
    """Print steps a second, or that there is no GPU."""
    if not torch.cuda.is_available():
        print("prompt steps on a GPU: not measured: no GPU")
        return
    print(f"prompt steps at MedCLIP's size, {torch.cuda.get_device_name()}")
    print(table(compare(Prompter(device="cuda"))))


def _tokenizer(names: Sequence[str]) -> BertTokenizerFast:
    """One that knows the words of some names."""
    words = np.unique([word for name in names for word in name.lower().split()])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        return BertTokenizerFast.from_pretrained(folder)


if __name__ == "__main__":
    main()
