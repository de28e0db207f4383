"""Rates and ratios of the expensive steps, measured in one run: `python -m benchmarks`.

Needs the installed packages and the CT that ./run_all.sh fetches: the reports are Open-I's, the
encoder has random image weights (their values do not change a rate). Figures hold for the machine
at hand. `python -m benchmarks.growth` measures how time grows with a corpus, and
`python -m benchmarks.prompt_step` a step of prompt training on a GPU.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import prompt_step
from benchmarks.measuring import load_before, rate, ratio, table, take_turns, verdict
from rctpl_utils.datasets.openi import openi_archive, read_openi
from rctpl_utils.encoders.base import fast_dtype, freeze
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts.training import (
    BRANCHES,
    TextCorpus,
    batch_losses,
    embed_classes,
    initial_context,
)
from rctpl_utils.simulation.anatomy import load_anatomy
from rctpl_utils.simulation.cases import Case, Lesion
from rctpl_utils.simulation.radiograph import render
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.knowledge import describe_triplets
from rctpl_utils.text.reports import Report, with_enough_concepts
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name
from rctpl_utils.workspace import Workspace

LOOP_REPORTS = 128  # two batches of the paper's size
FASTER, SHARE = 20, 0.75  # goals: cached over re-encoding; of the float32 matrix rate
FILMS = 32

Line = tuple[str, str]
Texts = tuple[list[str], list[str]]  # the reports and the distinct descriptions


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every rate and ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--output", default=None, help="where build/cache lies (the projected CT)")
    workspace = Workspace.open("embedded", output=parser.parse_args(arguments).output)
    load = load_before()
    torch.manual_seed(0)
    encoder = freeze(StandIn(workspace.profile.world.image_size)).to(workspace.device)
    print(f"{torch.get_num_threads()} threads, device {workspace.device}, image towers in "
          f"{fast_dtype(workspace.device)}, load before {load}")  # fmt: skip
    reports = openi_reports()
    lines = cached_epoch(encoder, reports, load) + matrix_share(encoder, load)
    lines += [*encoding(encoder, reports), drawing(workspace)]
    print(table(lines))
    prompt_step.main()


def openi_reports() -> list[Report]:
    """Open-I's reports that have text."""
    return [
        Report(each.uid, each.uid, each.findings, each.impression, "train")
        for each in read_openi(openi_archive())
        if each.findings or each.impression
    ]


def cached_epoch(encoder: StandIn, reports: list[Report], load: float | None) -> list[Line]:
    """One epoch over the same batches: features cached, against encoding every batch again."""
    some = reports[: 4 * LOOP_REPORTS]
    triplets = triplets_frame(SpacyExtractor().extract(some))
    chosen = with_enough_concepts(some, triplets)[:LOOP_REPORTS]
    corpus, texts = make_corpus(encoder, chosen, triplets)
    settings = PromptLearning()
    anew, cached = take_turns(
        lambda: epoch(encoder, corpus, texts, settings),
        lambda: epoch(encoder, corpus, None, settings),
    )
    faster = ratio(anew, cached)
    return [
        ("an epoch, cached", f"{cached.text('.2f')} s for {len(corpus)} reports"),
        ("an epoch, encoding anew", f"{anew.text('.2f')} s"),
        ("cached is faster", f"{faster.text()} times: {verdict(faster, FASTER, load)}"),
    ]


def make_corpus(
    encoder: StandIn, reports: list[Report], triplets: pd.DataFrame
) -> tuple[TextCorpus, Texts]:
    """The reports' features with random labels, and the texts they are features of."""
    own = triplets[triplets["report_id"].isin([r.report_id for r in reports])]
    described, mapping = describe_triplets(own)
    rows = mapping.groupby("report_id")["text_id"].apply(lambda ids: ids.to_numpy())
    texts = [report.text for report in reports], list(described["text"])
    labels = np.random.default_rng(0).random((len(reports), len(TRAINING_CONCEPTS))) < 0.1
    corpus = TextCorpus(
        *(_encoded(encoder, each) for each in texts),
        [rows[report.report_id] for report in reports],
        labels.astype(np.float32),
    )
    return corpus, texts


def epoch(
    encoder: StandIn, corpus: TextCorpus, texts: Texts | None, settings: PromptLearning
) -> None:
    """Learn from every report once; with `texts`, a batch's texts go through the encoder first."""
    generator = torch.Generator().manual_seed(0)
    contexts = {
        branch: initial_context(settings.context_length, encoder.context_width, generator)
        .to(encoder.device)
        .requires_grad_()
        for branch in BRANCHES
    }
    optimizer = torch.optim.AdamW(contexts.values(), lr=settings.learning_rate)
    names = [prompt_name(concept) for concept in TRAINING_CONCEPTS]
    for start in range(0, len(corpus), settings.batch_size):
        rows = np.arange(start, min(start + settings.batch_size, len(corpus)))
        if texts is not None:
            encoder.encode_text([texts[0][i] for i in rows])
            encoder.encode_text([texts[1][j] for i in rows for j in corpus.description_rows[i]])
        losses = batch_losses(
            corpus.batch(rows, encoder.device),
            embed_classes(encoder, contexts, names),
            1 / 50,
            settings.margin,
        )
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimizer.step()


def matrix_share(encoder: StandIn, load: float | None) -> list[Line]:
    """A step's operations a second against those of a plain float32 matrix product."""
    names = [prompt_name(concept) for concept in TRAINING_CONCEPTS]
    generator = torch.Generator().manual_seed(0)
    context = initial_context(12, encoder.context_width, generator)
    context = context.to(encoder.device).requires_grad_()

    def step() -> None:
        embeddings = embed_classes(encoder, dict.fromkeys(BRANCHES, context), names)
        sum(each.sum() for each in embeddings.values()).backward()

    with FlopCounterMode(display=False) as counter:
        step()
    operations = counter.get_total_flops()
    side = 2048
    square = torch.randn(side, side, device=encoder.device)
    steps, products = take_turns(step, lambda: square @ square)
    share = ratio(products, steps, operations / (2 * side**3))
    return [
        ("prompt step", f"{operations / steps.median / 1e9:.0f} GFLOP/s"),
        ("float32 matrix product", f"{2 * side**3 / products.median / 1e9:.0f} GFLOP/s"),
        ("the step's share of it", f"{share.text('.0%')}: {verdict(share, SHARE, load)}"),
    ]


def encoding(encoder: StandIn, reports: list[Report]) -> list[Line]:
    """Texts and films through their towers."""
    texts = sorted((report.text for report in reports[:128]), key=len)
    images = torch.rand(64, 1, encoder.image_size, encoder.image_size)
    found = rate(lambda: _encoded(encoder, texts), len(texts))
    films = rate(lambda: encoder.encode_image(images), len(images))
    return [
        ("text encoding", f"{found.text('.0f')} reports/s"),
        ("image encoding", f"{films.text('.0f')} images/s"),
    ]


def drawing(workspace: Workspace) -> Line:
    """Simulated films, in one process."""
    anatomy, size = load_anatomy(workspace.cache), workspace.profile.world.image_size
    lesion = Lesion("Pneumonia", "left", "lower", 0.5, None)
    cases = [Case(f"i{k}", f"p{k}", (lesion,), "test", "rsna", k) for k in range(FILMS)]
    found = rate(lambda: [render(case, anatomy, size) for case in cases], FILMS)
    return "drawing", f"{found.text('.0f')} films/s, one process, {size} px"


def _encoded(encoder: StandIn, texts: list[str]) -> np.ndarray:
    parts = [encoder.encode_text(texts[i : i + 64]) for i in range(0, len(texts), 64)]
    return torch.cat(parts).cpu().numpy()


if __name__ == "__main__":
    main()
