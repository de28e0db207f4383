"""How time and memory grow with the corpus: `python -m benchmarks.growth --reports N`.

N synthetic reports, each a few sentences drawn from Open-I's, go through everything that text goes
through: extraction (Eq. 1), description and de-duplication, cached features of a small random
encoder (Eq. 6), one epoch of prompt learning (Eq. 9). Each size runs in a process of its own.

Two limits of what this shows: distinct sentences number some thousands at most whatever N is,
MIMIC-CXR's are more, and the extractor analyzes each distinct sentence once; and the rate of a
two-layer encoder is not BERT's (`python -m benchmarks` measures MiniLM's).
"""

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizerFast

from rctpl_utils.datasets.openi import openi_archive, read_openi
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.text_tower import MAX_TOKENS, TextTower, minilm_folder
from rctpl_utils.errors import InputError
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts.encode import build_corpus
from rctpl_utils.prompts.training import learn_prompts
from rctpl_utils.run.execution import peak_memory
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor, build_splitter
from rctpl_utils.text.knowledge import describe_triplets
from rctpl_utils.text.reports import Report, with_enough_concepts
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.vocabulary import TRAINING_CONCEPTS

MIMIC_REPORTS = 223_673  # paper 4.1.1
STAGES = ("extraction", "description", "encoding", "one epoch")
HELD = ("triplets", "distinct sentences with a finding", "distinct descriptions")
HELD += ("reports in the epoch",)


class SmallEncoder:
    """A random text tower with MiniLM's tokenizer: two layers of 64 numbers, 32 dimensions out.

    Offers the part of the `Encoder` protocol that text needs.
    """

    name = "small random text tower"
    dimension = 32
    context_width = 64

    def __init__(self, seed: int = 0) -> None:
        tokenizer = BertTokenizerFast.from_pretrained(minilm_folder())
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.context_width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * self.context_width,
            max_position_embeddings=2 * MAX_TOKENS,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bert = BertModel(config, add_pooling_layer=False)
            projection = torch.nn.Linear(self.context_width, self.dimension, bias=False)
        self.text = freeze(TextTower(bert, tokenizer, projection))
        self.device = self.text.device
        self.text_key = self.text.key

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts to (n, d) unit vectors."""
        return self.text(texts)

    def encode_prompts(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        """Context (M, W) and L names to (L, d) unit vectors."""
        return self.text.prompt(context, class_names)


def resampled_reports(count: int, seed: int = 0) -> list[Report]:
    """Synthetic reports: as many sentences as a random Open-I report has, each drawn from all."""
    if count < 1:
        raise InputError(f"{count} reports asked for", "Ask for at least one.")
    sources = _openi_sentences()
    pool = np.array([sentence for source in sources for sentence in source], object)
    generator = np.random.default_rng(seed)
    lengths = generator.choice([len(source) for source in sources], count)
    ends = np.cumsum(lengths)
    drawn = generator.integers(0, len(pool), ends[-1])
    return [
        Report(f"s{50_000_000 + i}", f"p{10_000_000 + i}", " ".join(pool[rows]), "", "train")
        for i, rows in enumerate(np.split(drawn, ends[:-1]))
    ]


@cache
def _openi_sentences() -> list[list[str]]:
    """The sentences of each Open-I report that has text."""
    split = build_splitter()
    texts = (f"{each.findings} {each.impression}".strip() for each in read_openi(openi_archive()))
    return [[_ended(sentence.text) for sentence in split(text).sents] for text in texts if text]


def _ended(sentence: str) -> str:
    """With a full stop, or it would run into the sentence that follows."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def run_stages(count: int, folder: Path, threads: int) -> dict[str, float]:
    """All text stages for `count` reports: seconds a stage, and what the corpus holds."""
    torch.set_num_threads(threads)
    reports, encoder = resampled_reports(count), SmallEncoder()
    marks = [time.perf_counter()]
    triplets = triplets_frame(SpacyExtractor().extract(reports))
    marks.append(time.perf_counter())
    kept = with_enough_concepts(reports, triplets)
    described, _ = describe_triplets(triplets)
    marks.append(time.perf_counter())
    corpus = build_corpus(encoder, kept, triplets, TRAINING_CONCEPTS, folder)
    marks.append(time.perf_counter())
    settings = PromptLearning(epochs=1)
    learn_prompts(encoder, corpus, TRAINING_CONCEPTS, settings, 0, progress=False)
    marks.append(time.perf_counter())
    seconds = dict(zip(STAGES, np.diff(marks).tolist(), strict=True))
    held = (len(triplets), triplets["sentence"].nunique(), len(described), len(corpus))
    return {"reports": count, **seconds, **dict(zip(HELD, held, strict=True))}


def measure_growth(count: int) -> pd.DataFrame:
    """A quarter, half and all of `count` reports through all stages, each in a new process.

    A row a size: reports, seconds a stage (`STAGES`), counts, and `peak GB`, the resident memory of
    the process at its highest (mapped files included). Fewer than four are an `InputError`.
    """
    if count < 4:
        raise InputError(f"{count} reports asked for", "Ask for at least four.")
    rows = []
    for size in (count // 4, count // 2, count):
        with (
            tempfile.TemporaryDirectory() as folder,
            peak_memory() as peak,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        ):
            row = pool.submit(run_stages, size, Path(folder), torch.get_num_threads()).result()
        rows.append({**row, "peak GB": peak.bytes / 1e9})
    return pd.DataFrame(rows)


def growth_table(rows: pd.DataFrame) -> str:
    """The measurements as lines; `growth` is the exponent k of time ~ N^k from half to all.

    1.00 is linear; less, where a fixed part weighs.
    """

    def told(column: str, form: str) -> str:
        pairs = zip(rows["reports"], rows[column], strict=True)
        return "  ".join(f"{count:7d}: {form.format(value)}" for count, value in pairs)

    lines, ratio = [], rows["reports"].iloc[-1] / rows["reports"].iloc[-2]
    for stage in STAGES:
        half, whole = rows[stage].iloc[-2:]
        growth = f"growth {math.log(whole / half, ratio):.2f}"
        lines.append(f"{stage:12s} {told(stage, '{:7.1f} s')}  {growth}")
    lines.append(f"{'peak memory':12s} {told('peak GB', '{:7.2f} GB')}")
    held = ", ".join(f"{int(rows[name].iloc[-1])} {name}" for name in HELD)
    return "\n".join([*lines, f"at the last size: {held}"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how time and memory grow with a synthetic corpus."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument(
        "--reports", type=int, metavar="N", default=MIMIC_REPORTS,
        help="the largest corpus; by default as many reports as MIMIC-CXR has",
    )  # fmt: skip
    print(growth_table(measure_growth(parser.parse_args(arguments).reports)))


if __name__ == "__main__":
    main()
