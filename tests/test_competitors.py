"""From competitors to rows of the tables: their scores, maps and vectors reach the right place."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from rctpl_utils.baselines import registry, released
from rctpl_utils.baselines.base import CLASSIFY, GROUND
from rctpl_utils.baselines.registry import Competitor, grounders, retrieval_pairs, scorers
from rctpl_utils.baselines.report import cost_file, curve, rate_table, save_costs, save_curves
from rctpl_utils.encoders.frame import Frame
from rctpl_utils.errors import InputError
from rctpl_utils.evaluation.results import data_note, intervals_note, table_note
from rctpl_utils.evaluation.retrieval import Side, standardized, unit
from rctpl_utils.evaluation.table1 import SUPERVISED
from rctpl_utils.files import write_json
from rctpl_utils.profiles import get_profile
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.reporting.method_map import _group, _mean_over_sets, training_costs
from rctpl_utils.reporting.tables import save_grounding_tables, save_table1, save_table5
from rctpl_utils.workspace import Workspace

FILMS = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)  # more than a batch
NAMES = [f"film{k:03d}" for k in range(len(FILMS))]
ASKED = ("Edema", "Mass")
ORDER = np.random.default_rng(1).permutation(len(FILMS))[:50]


class Model:
    """Scores are a film's own numbers; its map points at the cell that the first number names."""

    name, published = "model", frozenset({CLASSIFY})

    def classify(self, films, concepts):
        return films[:, : len(concepts)]

    def ground(self, films, concept):
        maps = torch.zeros(len(films), 2, 2)
        maps.view(-1, 4)[torch.arange(len(films)), films[:, 0].long()] = 1
        return maps

    def embed_images(self, films):
        return films

    def embed_texts(self, texts):
        return torch.tensor([[len(text), text.count("a"), 1.0] for text in texts])


class Films:
    """A data set of which only the order and the paths matter."""

    def __init__(self, names=NAMES, paths=None):
        self.records = pd.DataFrame({"image_id": names, "path": paths or names})

    def __len__(self):
        return len(self.records)


def reader(numbers):
    return lambda dataset: lambda rows: torch.from_numpy(np.array(numbers, np.float32)[rows])


def asked_of(dataset, rows):
    return SimpleNamespace(dataset=dataset, rows=np.array(rows), concept="Edema")


COMPETITOR = Competitor("model", (Model(), Model()), (reader(FILMS),) * 2)
IMAGES = Side(pd.DataFrame({"item_id": [NAMES[k] for k in ORDER]}), [], {})


@pytest.fixture
def smoke(tmp_path):
    return Workspace.open("smoke", output=tmp_path, device="cpu")


def test_a_data_set_is_opened_once_for_all_models_and_seeds():
    opened, dataset = [], Films()

    def noted(asked):
        opened.append(asked)
        return reader(FILMS)(asked)

    competitors = [Competitor(name, (Model(), Model()), (noted, noted)) for name in "ab"]
    found = scorers(competitors)
    assert list(found) == ["a", "b"]
    for run in [*found["a"], *found["b"]]:
        assert run(dataset, ASKED) == pytest.approx(FILMS[:, :2])
    for row in grounders(competitors):
        assert [len(maker(asked_of(dataset, [0, 2]))) for maker in row.makers] == [2, 2]
    assert opened == [dataset]
    found["a"][0](Films(), ASKED)
    assert len(opened) == 2


def test_maps_say_whether_they_are_the_methods_own():
    films = reader([[3, 0, 0], [0, 0, 0], [1, 0, 0]])
    (row,) = grounders([Competitor("m", (Model(),), (films,))])
    assert row.name == "m" and len(row.makers) == 1 and not row.native
    maps = row.makers[0](asked_of(Films(), [0, 2]))
    assert maps.flatten(1).argmax(dim=1).tolist() == [3, 1]
    grounds = Model()
    grounds.published = frozenset({GROUND})
    assert grounders([Competitor("m", (grounds,), (films,))])[0].native


def test_a_map_of_the_whole_film_is_set_into_the_padded_square(tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((40, 80), np.uint8)).save(path)
    films = reader([[3, 0, 0]])  # the lower right quarter of the film
    (row,) = grounders([Competitor("m", (Model(),), (films,), frame=Frame("film"))])
    placed = row.makers[0](asked_of(Films(["wide"], [str(path)]), [0]))[0]
    side = len(placed)
    down, across = np.unravel_index(int(placed.argmax()), placed.shape)
    assert 0.5 < down / side < 0.75 and across / side > 0.5  # the film fills the middle half
    assert placed[: side // 4 - 1].max() == 0


def test_retrieval_vectors_follow_the_order_of_the_sides(monkeypatch):
    monkeypatch.setattr(registry, "open_split", lambda *_: Films())
    said = ["an edema", "no", "an edema", "a mass at a base"]
    sentences = Side(pd.DataFrame({"sentence": said}), [], {})
    (first, second) = retrieval_pairs(None, [COMPETITOR], IMAGES, sentences)["model"]
    assert first.images == pytest.approx(unit(standardized(FILMS[ORDER])), abs=1e-5)
    vectors = np.array([[len(t), t.count("a"), 1.0] for t in said], np.float32)
    assert first.sentences == pytest.approx(unit(standardized(vectors)), abs=1e-5)
    assert (first.sentences == second.sentences).all()
    assert registry.published([COMPETITOR]) == {"model": False}


def test_references_are_a_row_more_in_each_table(monkeypatch):
    """Retrieval compares a film's logits with the class that its sentence is given."""
    logits = FILMS[:, [0, 1, 2, 0, 1]]
    reference = SimpleNamespace(scores=lambda _, asked: logits[:, : len(asked)], activation_map=len)
    monkeypatch.setattr(registry, "open_split", lambda *_: Films())
    assert list(scorers([COMPETITOR], [reference])) == ["model", SUPERVISED]
    *_, row = grounders([COMPETITOR], [reference])
    assert (row.name, row.makers, row.native) == (SUPERVISED, (len,), False)
    shown = pd.DataFrame({"sentence": ["a", "b"], "concept": ["Edema", "Atelectasis"]})
    (pair,) = retrieval_pairs(None, [], IMAGES, Side(shown, [], {}), [reference])[SUPERVISED]
    assert pair.images == pytest.approx(unit(standardized(logits[ORDER])))
    assert pair.sentences.argmax(axis=1).tolist() == [3, 0]


def test_a_profile_with_its_own_training_lacks_no_baseline(tmp_path):
    assert registry.why_absent(SimpleNamespace(profile=get_profile("smoke"))) == {}
    (tmp_path / "weights" / "gloria").mkdir(parents=True)
    found = registry.why_absent(SimpleNamespace(profile=get_profile("paper"), data_root=tmp_path))
    assert found["ConVIRT"] == found["MedPrompt-ViT"] == "no public weights"
    assert found["CheXzero"] == "weights not there" and "GLoRIA" not in found


def test_released_checkpoints_that_are_there_become_rows(monkeypatch, tmp_path):
    class Released(Model):
        name, device = "GLoRIA", torch.device("cpu")
        frame = Frame("square", 0.875)

        def preprocess(self, pixels):
            return torch.full((3,), float(pixels.mean()))

    monkeypatch.setattr(released, "load_released", lambda name, *_: Released())
    (tmp_path / "weights" / "gloria").mkdir(parents=True)
    workspace = SimpleNamespace(data_root=tmp_path, device=torch.device("cpu"))
    (row,) = registry.load_checkpoints(workspace)
    assert (row.name, row.frame, len(row.models)) == ("GLoRIA", Released.frame, 1)
    dataset = Films([f"f{k}" for k in range(5)])
    dataset.pixels = lambda index: np.full((2, 2), index / 10)
    scores = scorers([row])["GLoRIA"][0](dataset, ASKED)
    assert scores == pytest.approx(np.repeat(np.arange(5)[:, None] / 10, 2, axis=1))


def test_captions_say_what_the_baselines_are_where_this_run_trained_them(smoke):
    released = SimpleNamespace(profile=replace(smoke.profile, baselines=None))
    assert table_note(released) == f"{data_note(smoke)} {intervals_note(smoke)}"
    real = SimpleNamespace(profile=replace(smoke.profile, world=None))
    assert "seed k has its own encoder" in intervals_note(smoke)
    assert "all seeds share the encoder" in intervals_note(real)
    said = table_note(smoke).removeprefix(data_note(smoke))
    assert "miniatures" in said and "one budget (notebook 04b)." in said
    save_table1(smoke, {})
    save_grounding_tables(smoke, {})
    save_table5(smoke, None)
    for number in range(1, 6):
        for kind, shown in (("md", said), ("tex", said.replace("%", "\\%"))):
            assert shown in (smoke.figures / f"table{number}.{kind}").read_text(encoding="utf-8")


def test_rates_and_curves_show_what_was_kept(smoke):
    run = {"unit": "views", "rate": 1e-3}
    run["rates"] = [{"learning_rate": 1e-3, "auc": 0.7}, {"learning_rate": 3e-3, "auc": 0.6}]
    run["history"] = [{"seed": 0, "views": 64 * k, "loss": 1 / k} for k in (1, 2, 3)]
    table = rate_table({"a": run, "b": {**run, "rates": []}})
    assert table.loc["a"].tolist() == [0.7, 0.6] and list(table.index) == ["a"]
    (line,) = curve({"a": run}, "a").axes[0].lines
    assert line.get_xdata().tolist() == [64, 128, 192]
    assert curve({}, "a") is None and rate_table({}).empty
    assert save_curves(smoke, {}, "baseline_curves") is None
    assert not list(smoke.figures.iterdir())


def a_run(seconds: float, parameters: int, **seen: int) -> dict:
    """Two seeds of two steps; the last step counts."""
    steps = [(0, 1), (0, 2), (1, 1), (1, 2)]
    history = [{"seed": k, "step": step, "seconds": step * seconds + k} | seen for k, step in steps]
    return {"parameters": parameters, "history": history}


@pytest.mark.parametrize("first, second", [(0, 1), (1, 0)])
def test_costs_are_whole_whichever_notebook_ran_first(smoke, first, second):
    for variant, seconds in (("rc-tpl", 4.0), ("rc-tpl-plus", 5.0)):
        for seed in smoke.profile.seeds:
            path = smoke.prompts / f"{variant}-{seed}.safetensors"
            Prompts(torch.zeros(2, 3), torch.zeros(2, 3), {}).save(path)
            curve = {"history": [{"seconds": 1}, {"seconds": seconds}]}
            write_json(path.with_suffix(".history.json"), curve)
    learners = {"TaI-DPT": a_run(2.0, 5), "CoOp, 4": a_run(3.0, 6)}
    miniatures = {"ConVIRT": a_run(1.0, 7, views=64, tokens=9)}
    given = ("baselines", miniatures), ("prompt_learners", learners, {"CoOp, 4": 4})
    save_costs(smoke, *given[first])
    before = cost_file(smoke, given[first][0]).read_bytes()
    with pytest.raises(InputError, match=r"Run notebook 04[bc] first"):
        training_costs(smoke)
    save_costs(smoke, *given[second])
    assert cost_file(smoke, given[first][0]).read_bytes() == before
    costs = training_costs(smoke)
    assert list(costs.index) == ["ConVIRT", "TaI-DPT", "CoOp, 4", "RC-TPL", "RC-TPL+"]
    assert costs["seconds"].tolist() == [2.5, 4.5, 6.5, 4.0, 5.0]
    assert costs["parameters"].tolist() == [7, 5, 6, 12, 12]
    assert costs["labeled images a class"].tolist() == [0, 0, 4, 0, 0]
    assert costs.loc["ConVIRT", ["views", "tokens"]].tolist() == [64, 9]
    save_costs(smoke, "baselines", {})  # a profile that trains none
    assert list(training_costs(smoke).index) == ["TaI-DPT", "CoOp, 4", "RC-TPL", "RC-TPL+"]


def test_the_map_of_methods_groups_and_averages():
    names = ["GLoRIA", "TaI-DPT", "CoOp, 16"]
    costs = pd.DataFrame({"labeled images a class": [0, 0, 16]}, index=names)
    groups = ["written by hand", "films with reports", "learned from text alone", "labeled films"]
    assert [_group(name, costs) for name in ("class names", *costs.index)] == groups
    values = {"a": [0.6, 0.5, 0.7], "b": [0.8, 0.8, 0.8]}
    draws = {(name, "m", "auc"): np.array(each) for name, each in values.items()}
    draws["b", "m", "acc"] = np.zeros(3)
    found = _mean_over_sets(draws, "m", "auc")
    assert found["value"] == pytest.approx(0.7)
    assert found["ci_low"] == pytest.approx(0.6525) and found["ci_high"] == pytest.approx(0.7475)
    assert np.isnan(_mean_over_sets(draws, "x", "auc")["value"])
