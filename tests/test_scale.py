"""Two processes give what one gives; the corpus of the growth benchmark; the command lines."""

import dataclasses
import socket

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_world import write
from two_processes import SETTINGS, TEXTS, ToyEncoder, one_epoch, worker
from weights import save_stand_in

from benchmarks import growth
from rctpl_utils.encoders import features, parallel_training
from rctpl_utils.encoders.parallel_training import Processes, processes
from rctpl_utils.errors import InputError
from rctpl_utils.prompts import encode, learn
from rctpl_utils.prompts.prompts import Prompts
from rctpl_utils.prompts.training import initial_contexts
from rctpl_utils.text.concepts.spacy_extractor import SpacyExtractor
from rctpl_utils.text.reports import SPLIT_TABLE, read_mimic_reports
from rctpl_utils.text.triplets import triplets_frame
from rctpl_utils.workspace import Workspace


def test_two_processes_give_the_prompts_of_one_and_the_same_features(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "TEXT_BATCH", features.TEXT_BATCH)  # put back afterwards
    monkeypatch.setattr(features, "TEXT_SHARD", features.TEXT_SHARD)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found, alone, _ = one_epoch(tmp_path / "one")
    torch.set_num_threads(threads)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, tmp_path), nprocs=2)
    pair = [torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2)]
    assert [each["group"] for each in pair] == [(0, 2), (1, 2)]
    # each encoded its part: shards of six texts by length, turn by turn, none twice
    assert sorted(pair[0]["asked"] + pair[1]["asked"]) == sorted(TEXTS)
    assert [len(each["asked"]) for each in pair] == [12, 10]
    shape = SETTINGS.context_length, ToyEncoder.context_width
    started = initial_contexts(*shape, torch.Generator().manual_seed(0))
    for index, branch in enumerate(("report", "concept")):
        one = getattr(alone, branch)
        first, second = (each["contexts"][index] for each in pair)
        assert torch.equal(first, second)
        assert (one - first).abs().max() < 1e-4
        assert (one - started[branch]).abs().max() > 1e-3  # and it did move
    for each in pair:
        assert np.array_equal(found, each["features"].numpy())
        assert each["losses"] == pytest.approx([r["report_loss"] for r in alone.history], rel=1e-5)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_weighted_parts_make_the_mean_of_the_batch(values, count):
    weighted, seen = [], []
    for index in range(count):
        part, weight = Processes(index, count).share_of_batch(values)
        assert len(part)
        weighted.append(weight * np.mean(part))
        seen += part if weight else []
    assert np.mean(weighted) == pytest.approx(np.mean(values), abs=1e-9)
    assert sorted(seen) == sorted(values)


def test_without_a_launcher_there_is_one_process_which_changes_no_bit(monkeypatch):
    alone, rows = Processes(), np.arange(7)
    part, weight = alone.share_of_batch(rows)
    assert part.tolist() == rows.tolist() and weight == 1.0
    value = torch.randn(3, requires_grad=True)
    (value * 0.1).sum().backward()
    before = value.grad.clone()
    alone.average_gradients([value])
    assert alone.mean(value) is value and torch.equal(value.grad, before)
    assert alone.first and not Processes(1, 2).first
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(parallel_training, "_state", lambda: pytest.fail("accelerate was asked"))
    assert processes() == Processes(0, 1)


def test_resampled_reports_hold_sentences_of_openi_only():
    reports = growth.resampled_reports(50)
    assert [r.text for r in reports] == [r.text for r in growth.resampled_reports(50)]
    assert len({r.report_id for r in reports}) == 50 and all(r.split == "train" for r in reports)
    assert len({r.text for r in reports}) > 40
    whole = " ".join(
        f"{r.findings} {r.impression}".strip() for r in growth.read_openi(growth.openi_archive())
    )
    sentences = [s.text for r in reports[:5] for s in growth.build_splitter()(r.text).sents]
    assert sentences and all(sentence.rstrip(".") in whole for sentence in sentences)
    with pytest.raises(InputError, match="at least one"):
        growth.resampled_reports(0)
    with pytest.raises(InputError, match="at least four"):
        growth.measure_growth(3)


def test_stages_run_and_growth_is_the_exponent(tmp_path):
    row = growth.run_stages(60, tmp_path, torch.get_num_threads())
    assert row["reports"] == 60 and row["triplets"] >= row["distinct sentences with a finding"] > 10
    assert 0 < row["reports in the epoch"] <= 60 and len(list(tmp_path.glob("text-*.npy"))) == 2
    assert all(row[stage] > 0 for stage in growth.STAGES)
    sizes = np.array([10, 20, 40])
    made = {"reports": sizes, "extraction": sizes, "encoding": sizes**2, "peak GB": 0.5}
    table = growth.growth_table(pd.DataFrame([row] * 3).assign(**made))
    lines = dict(line.split(maxsplit=1) for line in table.splitlines())
    assert lines["extraction"].endswith("growth 1.00") and "40:    40.0 s" in lines["extraction"]
    assert lines["encoding"].endswith("growth 2.00") and lines["description"].endswith("0.00")


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (encode, ["--profile", "smoke"], "run notebooks 03"),
        (learn, ["--profile", "smoke"], "run notebooks 03"),
        (encode, ["--profile", "none"], "no profile"),
        (learn, ["--profile", "none"], "no profile"),
        (encode, ["nih", "--profile", "smoke"], "nothing is called 'nih'"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(command, arguments, says, tmp_path, capsys):
    assert command.main([*arguments, "--output", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory, encoder):
    """A run with six reports, their triplets, an encoder and one image set."""
    workspace = Workspace.open("smoke", output=tmp_path_factory.mktemp("run"))
    for seed in workspace.profile.seeds:
        save_stand_in(encoder, workspace.encoder(seed), seed)
    root = workspace.data_root / "mimic-cxr"
    rows = []
    for k, split in enumerate(["train"] * 4 + ["validate"] * 2):
        patient, study = f"p1000000{k}", f"s5000000{k}"
        path = root / "files" / "p10" / patient / f"{study}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(f"FINAL REPORT\n FINDINGS: Mild edema number {k}. No pneumothorax.\n")
        rows.append((f"d{k}", study[1:], patient[1:], split))
    columns = ["dicom_id", "study_id", "subject_id", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(root / SPLIT_TABLE, index=False)
    triplets = triplets_frame(SpacyExtractor().extract(read_mimic_reports(root)))
    triplets.to_parquet(workspace.triplets)
    write("rsna", workspace.data_root)
    return workspace


def test_all_that_is_there_is_encoded_and_the_rest_is_named(run, monkeypatch):
    sets = {name: encode.DATASETS[name] for name in ("chestxray14", "rsna", "siim")}
    monkeypatch.setattr(encode, "DATASETS", sets)
    lines = encode.encode(run, [])
    assert lines[0] == "texts of 4 training and 2 validation reports"
    assert "siim: not there" in lines and "chestxray14: not there" in lines
    counts = [line.split(": ")[1] for line in lines if line.startswith("rsna, ")]
    assert len(counts) == 2 and not any(count.startswith("0 ") for count in counts)
    assert len(list(run.features.glob("image-rsna-*-g.npy"))) == 2
    stamps = {path: path.stat().st_mtime_ns for path in run.features.iterdir()}
    assert encode.encode(run, ["rsna"]) == [line for line in lines if line.startswith("rsna")]
    assert stamps == {path: path.stat().st_mtime_ns for path in run.features.iterdir()}
    with pytest.raises(InputError, match="'siim' is absent"):
        encode.encode(run, ["siim"])


def test_prompts_are_learned_where_notebook_04_looks(run):
    settings = dataclasses.replace(run.profile.prompts, epochs=1, context_length=2)
    profile = dataclasses.replace(run.profile, prompts=settings, seeds=(0,))
    run = dataclasses.replace(run, profile=profile)
    (line,) = learn.learn(run, ["rc-tpl"])
    assert line.startswith("rc-tpl: 1 seeds, ranking loss of the last epoch: report ")
    prompts = Prompts.load(run.prompts / "rc-tpl-0.safetensors")
    assert prompts.report.shape == (2, 384)
