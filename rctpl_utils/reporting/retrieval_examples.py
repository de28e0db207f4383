"""What notebook 07 shows beside Table 5: a few queries, smaller pools, random maps."""

from collections.abc import Mapping, Sequence
from textwrap import fill, shorten

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rctpl_utils.datasets.chexpert import COMPETITION
from rctpl_utils.datasets.images import read_image
from rctpl_utils.evaluation import retrieval
from rctpl_utils.evaluation.metrics import BOOTSTRAP_SEED
from rctpl_utils.evaluation.results import wide_table
from rctpl_utils.evaluation.retrieval import RANKS, Retrieval, represent, top
from rctpl_utils.evaluation.retrieval_sides import DATASET, Side, equal_share
from rctpl_utils.plots import TEXT, panels
from rctpl_utils.reporting.common import draw_film, finished
from rctpl_utils.reporting.tables import IMAGE_TO_TEXT
from rctpl_utils.workspace import Workspace

LONGEST_QUOTE = 90  # characters: Open-I's license allows to show little
MAPS = 5  # random maps a width, averaged
SENTENCES, FILMS = 3, 4  # shown of each query's answers
_RIGHT, _WRONG = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]


def other_pools(sentences: Side) -> dict[str, Side]:
    """Smaller pools: each sentence once with classes of equal size; of held-out reports only. One
    with fewer than max(`RANKS`) sentences, as small worlds have, is left out.
    """
    held_out = sentences.take(sentences.records["held_out"].to_numpy())
    parts = {"distinct": sentences, "held out, distinct": held_out}
    pools = {name: part.take(equal_share(part.records)) for name, part in parts.items()}
    return {
        f"{name} ({len(pool.records)})": pool
        for name, pool in pools.items()
        if len(pool.records) >= max(RANKS)
    }


def compare_pools(outcomes: Mapping[str, Retrieval]) -> pd.DataFrame:
    """Precision@1 and @10, image to text, of each method, by pool of sentences, with intervals."""
    parts = {}
    for name, outcome in outcomes.items():
        rows = outcome.rows[outcome.rows["metric"].isin(IMAGE_TO_TEXT)]
        parts[name] = wide_table(rows.assign(reported=np.nan))[DATASET]
    return pd.concat(parts, axis=1)


def random_map_precision(films: Side, sentences: Side, widths: Sequence[int]) -> pd.DataFrame:
    """Precision, image to text, by cosine after random linear maps of both embeddings, first seed:
    a row a width (how many random directions stand for class embeddings), a column a K.
    """
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    rows = {}
    for width in widths:
        found = []
        for _ in range(MAPS):
            directions = generator.normal(size=(films.embeddings[0].shape[1], width))
            both = (side.embeddings[0] @ directions for side in (films, sentences))
            best = top(*(retrieval.unit(retrieval.standardized(scores)) for scores in both))
            found.append(retrieval.precisions(best, films.classes, sentences.classes).mean(axis=0))
        rows[width] = np.mean(found, axis=0)
    columns = [f"precision_at_{rank}" for rank in RANKS]
    return pd.DataFrame.from_dict(rows, "index", columns=columns).rename_axis("random directions")


def found_sentences(images: Side, sentences: Side, method: str) -> pd.DataFrame:
    """For the first film of each class by its identifier, the sentences found first (first seed),
    each once; where a report must not be quoted, only its identifier.
    """
    pair = represent(images, sentences)[method][0]
    queries, rows = _first_of_each_class(images), []
    found = top(pair.images[queries], pair.sentences, min(len(sentences.records), 40 * SENTENCES))
    for query, items in zip(queries, found, strict=True):
        film = images.records.iloc[query]
        once = sentences.records.iloc[items].drop_duplicates("sentence").head(SENTENCES)
        for rank, item in enumerate(once.itertuples(), start=1):
            quote, source = _quote(item)
            rows.append(
                {
                    "film": film["item_id"].split("/", 2)[-1],
                    "shows": film["concept"],
                    "rank": rank,
                    "sentence": quote,
                    "class": item.concept,
                    "right": item.concept == film["concept"],
                    "source": source,
                }
            )
    return pd.DataFrame(rows)


def found_images(workspace: Workspace, images: Side, sentences: Side, method: str) -> Figure:
    """Draw `retrieval_examples`: for the first sentence of each class by its identifier, the films
    found first (first seed), with hit or miss and their own class.
    """
    pair = represent(images, sentences)[method][0]
    queries = _first_of_each_class(sentences)
    found = top(pair.sentences[queries], pair.images, FILMS)
    figure, axes = panels(len(queries), FILMS, 1.65 * len(queries))
    for line, query, items in zip(axes, queries, found, strict=True):
        asked = sentences.records.iloc[query]
        for axis, item in zip(line, items, strict=True):
            film = images.records.iloc[item]
            right = film["concept"] == asked["concept"]
            draw_film(axis, read_image(film["path"]))
            axis.set_title(f"{'hit' if right else 'miss'}: {film['concept']}", fontsize=TEXT)
            for spine in axis.spines.values():
                spine.set(color=_RIGHT if right else _WRONG, linewidth=2.0)
                spine.set_linestyle("-" if right else "--")
        quote, source = _quote(asked)
        label = f"{asked['concept']}\n{fill(quote, 24)}\n({source})"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    note = (
        "Left: a sentence, its class in the first line; right: the films found first, from left to "
        "right. Hit (solid frame): the film's own class is the sentence's; miss (dashed): it is "
        f"another. {method}, first seed; the first sentence of each class by identifier."
    )
    return finished(workspace, figure, "retrieval_examples", note)


def _first_of_each_class(side: Side) -> np.ndarray:
    return np.array([np.flatnonzero(side.classes == k)[0] for k in range(len(COMPETITION))])


def _quote(sentence: pd.Series) -> tuple[str, str]:
    """The sentence, shortened where it is long, its identifier where nobody may quote it; and its
    source: the Open-I report, or this project's templates.
    """
    if not (sentence.source or sentence.templated):
        return f"[not quoted: {sentence.item_id}]", sentence.report_id
    quote = shorten(sentence.sentence, LONGEST_QUOTE, placeholder=" ...")
    return quote, "templated, ours" if sentence.templated else f"Open-I {sentence.source}"
