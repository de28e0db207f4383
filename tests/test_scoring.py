"""Eq. 7-9 against hand-computed values and literal loops."""

import math
from itertools import product

import pytest
import torch
from torch.nn.functional import normalize

from rctpl_utils import scoring
from rctpl_utils.scoring import aggregate, concept_scores, ranking_loss, report_ranking_loss


@pytest.mark.parametrize(
    ("scores", "present", "absent", "loss"),
    [
        # three classes: max(0, 1 - 0.9 + 0.2) + max(0, 1 - 0.9 + 0.5) = 0.3 + 0.6
        ([[0.9, 0.2, 0.5]], [[1, 0, 0]], [[0, 1, 1]], 0.9),
        # two reports: max(0, 1 - 1 + 0) = 0 and max(0, 1 - 0 + 3) = 4; the mean is 2
        ([[1.0, 0.0], [0.0, 3.0]], [[1, 0], [1, 0]], [[0, 1], [0, 1]], 2.0),
        # the third class is uncertain and takes no part, whatever its score
        ([[0.0, 5.0, 9.0]], [[1, 0, 0]], [[0, 1, 0]], 6.0),
        ([[0.0, 5.0, -9.0]], [[1, 0, 0]], [[0, 1, 0]], 6.0),
    ],
)
def test_ranking_loss_by_hand(scores, present, absent, loss):
    present, absent = (torch.tensor(each, dtype=torch.bool) for each in (present, absent))
    found = ranking_loss(torch.tensor(scores), present, absent, 1.0)
    assert found.item() == pytest.approx(loss)


def test_aggregate_matches_a_loop():
    generator = torch.Generator().manual_seed(1)
    similarities = torch.randn(2, 5, 3, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    expected = torch.zeros(2, 3)
    for n, i in product(range(2), range(3)):
        kept = [similarities[n, j, i].item() for j in range(5) if mask[n, j]]
        weights = [math.exp(value / 0.3) for value in kept]
        total = sum(weights)
        expected[n, i] = sum(w / total * v for w, v in zip(weights, kept, strict=True))
    assert torch.allclose(aggregate(similarities, 0.3, mask), expected, atol=1e-5)


@pytest.mark.parametrize(("temperature", "score"), [(1e4, 0.5), (1e-3, 0.9)])
def test_aggregate_lies_between_mean_and_maximum(temperature, score):
    similarities = torch.tensor([[[0.1], [0.5], [0.9]]])
    assert aggregate(similarities, temperature).item() == pytest.approx(score, abs=1e-3)


def test_padding_does_not_change_a_report():
    features, classes = (normalize(torch.randn(*n, 4), dim=-1) for n in ((1, 2), (3,)))
    padded = torch.cat([features, torch.ones(1, 3, 4)], dim=1)
    mask = torch.tensor([[True, True, False, False, False]])
    short = concept_scores(features, classes, 0.02)
    assert torch.allclose(short, concept_scores(padded, classes, 0.02, mask), atol=1e-6)


def test_scores_are_cosines_and_fuse_is_their_mean():
    unit = torch.eye(3)
    assert torch.equal(scoring.report_scores(unit, unit), unit)
    assert scoring.similarity_maps(unit.expand(2, 3, 3), unit[:2]).shape == (2, 3, 2)
    assert torch.equal(scoring.fuse(unit, torch.zeros(3, 3)), unit / 2)


def test_report_ranking_by_hand_and_that_it_sees_what_eq_9_cannot():
    scores = torch.tensor([[0.5, 0.0], [0.2, 0.3], [0.9, 0.1]])
    present = torch.tensor([[1, 0], [0, 0], [0, 0]]).bool()
    absent = torch.tensor([[0, 1], [1, 1], [1, 0]]).bool()
    # class 0: report 0 against 1 and 2; class 1 has no report with it and so no pair
    expected = (max(0, 1 - 0.5 + 0.2) + max(0, 1 - 0.5 + 0.9)) / 2
    assert report_ranking_loss(scores, present, absent, 1.0).item() == pytest.approx(expected)
    scores.requires_grad_()
    nothing = torch.zeros_like(present)
    loss = report_ranking_loss(scores, nothing, ~nothing, 1.0)  # a batch without pairs
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()
    torch.manual_seed(0)
    scores, present = torch.randn(6, 4), torch.rand(6, 4) > 0.5
    shifted = scores + torch.randn(6, 1)  # one number a report, the same for all its classes
    arguments = (present, ~present, 1.0)
    assert torch.allclose(ranking_loss(scores, *arguments), ranking_loss(shifted, *arguments))
    before, after = (report_ranking_loss(each, *arguments) for each in (scores, shifted))
    assert not torch.allclose(before, after)
