"""Rates and ratios of the expensive steps, measured in one run: `python -m rctpl_utils.benchmark`.

With `--reports 223673` it measures how time and memory grow with a corpus instead (`scale`).
Needs nothing but the installed packages: the reports are Open-I's, the encoder has random image
weights (their values do not change a rate). Figures hold for the machine at hand.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from rctpl_utils.concepts import triplets_frame
from rctpl_utils.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.corpus import TextCorpus
from rctpl_utils.embedded.anatomy import load_anatomy
from rctpl_utils.embedded.cases import Case, Lesion
from rctpl_utils.embedded.radiograph import render
from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.standin import StandIn
from rctpl_utils.knowledge import describe_triplets
from rctpl_utils.openi import openi_archive, read_openi
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts import initial_context
from rctpl_utils.reports import Report, with_enough_concepts
from rctpl_utils.scale import MIMIC_REPORTS, growth_table, measure_growth
from rctpl_utils.training import BRANCHES, batch_losses, embed_classes
from rctpl_utils.vocabulary import TRAINING_CONCEPTS, prompt_name
from rctpl_utils.workspace import Workspace

REPEATS = 3
LOOP_REPORTS = 512  # in the training loops


def main(arguments: Sequence[str] | None = None) -> None:
    """Print every rate and ratio, or how time and memory grow with a synthetic corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--reports", type=int, metavar="N",
        help=f"measure growth up to N resampled reports (MIMIC-CXR has {MIMIC_REPORTS})",
    )  # fmt: skip
    parser.add_argument("--output", default=None, help="where build/cache lies (the projected CT)")
    options = parser.parse_args(arguments)
    if options.reports is not None:
        print(growth_table(measure_growth(options.reports)))
        return
    workspace = Workspace.open("embedded", output=options.output)
    torch.manual_seed(0)
    encoder = freeze(StandIn(workspace.profile.world.image_size)).to(workspace.device)
    reports = _openi_reports()
    print(f"{torch.get_num_threads()} threads, device {workspace.device}, features in float32\n")
    triplets = _extraction(reports)
    chosen = with_enough_concepts(reports, triplets)
    _prompt_training(encoder, chosen[:LOOP_REPORTS], triplets)
    _matrix_share(encoder)
    _encoding(encoder, reports)
    _rendering(workspace)


def clock(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median seconds of several calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _openi_reports() -> list[Report]:
    return [
        Report(each.uid, each.uid, each.findings, each.impression, "train")
        for each in read_openi(openi_archive())
        if each.findings or each.impression
    ]


def _extraction(reports: list[Report]) -> pd.DataFrame:
    extractor = SpacyExtractor()
    triplets = triplets_frame(extractor.extract(reports))  # also warms it up
    for count in (len(reports) // 4, len(reports) // 2, len(reports)):
        start = time.perf_counter()
        triplets_frame(SpacyExtractor().extract(reports[:count]))
        seconds = time.perf_counter() - start
        print(
            f"extraction       {count:5d} reports  {seconds:.2f} s  {count / seconds:.0f} reports/s"
        )
    return triplets


def _prompt_training(encoder: StandIn, reports: list[Report], triplets: pd.DataFrame) -> None:
    """One epoch over the same batches: features cached, against encoding every batch again."""
    corpus, texts = _corpus(encoder, reports, triplets)
    settings = PromptLearning()
    for count in (len(reports) // 4, len(reports) // 2, len(reports)):
        cached = clock(lambda n=count: _epoch(encoder, corpus, None, settings, n), 1)
        print(f"prompt training  {count:5d} reports  {cached:6.2f} s an epoch, cached features")
    start = time.perf_counter()
    _epoch(encoder, corpus, texts, settings, len(reports))
    plain = time.perf_counter() - start
    print(f"prompt training  {len(reports):5d} reports  {plain:6.2f} s an epoch, encoding anew")
    print(f"                  cached is {plain / cached:.1f} times faster")


def _corpus(
    encoder: StandIn, reports: list[Report], triplets: pd.DataFrame
) -> tuple[TextCorpus, tuple[list[str], list[str]]]:
    own = triplets[triplets["report_id"].isin([r.report_id for r in reports])]
    described, mapping = describe_triplets(own)
    rows = mapping.groupby("report_id")["text_id"].apply(lambda ids: ids.to_numpy())
    texts = [report.text for report in reports]
    sentences = list(described["text"])
    labels = np.random.default_rng(0).random((len(reports), len(TRAINING_CONCEPTS))) < 0.1
    corpus = TextCorpus(
        np.concatenate(
            [encoder.encode_text(texts[i : i + 64]).numpy() for i in range(0, len(texts), 64)]
        ),
        np.concatenate(
            [
                encoder.encode_text(sentences[i : i + 64]).numpy()
                for i in range(0, len(sentences), 64)
            ]
        ),
        [rows[report.report_id] for report in reports],
        labels.astype(np.float32),
    )
    return corpus, (texts, sentences)


def _epoch(
    encoder: StandIn,
    corpus: TextCorpus,
    texts: tuple[list[str], list[str]] | None,
    settings: PromptLearning,
    count: int,
) -> None:
    generator = torch.Generator().manual_seed(0)
    contexts = {
        branch: initial_context(
            settings.context_length, encoder.context_width, generator
        ).requires_grad_()
        for branch in BRANCHES
    }
    optimizer = torch.optim.AdamW(contexts.values(), lr=settings.learning_rate)
    names = [prompt_name(concept) for concept in TRAINING_CONCEPTS]
    for start in range(0, count, settings.batch_size):
        rows = np.arange(start, min(start + settings.batch_size, count))
        if texts is not None:  # the plain loop: this batch's texts through the encoder
            encoder.encode_text([texts[0][i] for i in rows])
            encoder.encode_text([texts[1][j] for i in rows for j in corpus.description_rows[i]])
        embeddings = embed_classes(encoder, contexts, names)
        losses = batch_losses(
            corpus.batch(rows, encoder.device), embeddings, 1 / 50, settings.margin
        )
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimizer.step()


def _matrix_share(encoder: StandIn) -> None:
    names = [prompt_name(concept) for concept in TRAINING_CONCEPTS]
    context = initial_context(
        12, encoder.context_width, torch.Generator().manual_seed(0)
    ).requires_grad_()

    def step() -> None:
        embeddings = embed_classes(encoder, dict.fromkeys(BRANCHES, context), names)
        sum(each.sum() for each in embeddings.values()).backward()

    with FlopCounterMode(display=False) as counter:
        step()
    rate = counter.get_total_flops() / clock(step, 10) / 1e9
    square = torch.randn(2048, 2048)
    peak = 2 * 2048**3 / clock(lambda: square @ square, 5) / 1e9
    print(f"prompt step       {rate:6.0f} GFLOP/s, {peak:.0f} in a float32 matrix product "
          f"({rate / peak:.0%})")  # fmt: skip


def _encoding(encoder: StandIn, reports: list[Report]) -> None:
    texts = sorted((report.text for report in reports[:512]), key=len)
    batches = [texts[i : i + 64] for i in range(0, len(texts), 64)]
    seconds = clock(lambda: [encoder.encode_text(batch) for batch in batches], 1)
    print(f"text encoding     {len(texts) / seconds:6.0f} reports/s")
    images = torch.rand(64, 1, encoder.image_size, encoder.image_size)
    print(f"image encoding    {64 / clock(lambda: encoder.encode_image(images)):6.0f} images/s")


def _rendering(workspace: Workspace) -> None:
    anatomy, size = load_anatomy(workspace.cache), workspace.profile.world.image_size
    lesion = Lesion("Pneumonia", "left", "lower", 0.5, None)
    cases = [Case(f"i{k}", f"p{k}", (lesion,), "test", "rsna", k) for k in range(32)]
    seconds = clock(lambda: [render(case, anatomy, size) for case in cases], 1)
    print(
        f"rendering         {len(cases) / seconds:6.0f} simulated films/s, one process, {size} px"
    )


if __name__ == "__main__":
    main()
