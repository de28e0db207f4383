"""Eq. 7-9 against hand-computed values and literal loops."""

import math

import pytest
import torch

from rctpl_utils.scoring import (
    aggregate,
    concept_scores,
    fuse,
    ranking_loss,
    report_ranking_loss,
    report_scores,
    similarity_maps,
)


def test_ranking_loss_of_three_classes_by_hand():
    scores = torch.tensor([[0.9, 0.2, 0.5]])
    present = torch.tensor([[True, False, False]])
    absent = torch.tensor([[False, True, True]])
    # max(0, 1 - 0.9 + 0.2) + max(0, 1 - 0.9 + 0.5) = 0.3 + 0.6
    assert ranking_loss(scores, present, absent, 1.0).item() == pytest.approx(0.9)


def test_ranking_loss_is_summed_over_pairs_and_averaged_over_reports():
    scores = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    present = torch.tensor([[True, False], [True, False]])
    absent = ~present
    # first report: max(0, 1 - 1 + 0) = 0; second: max(0, 1 - 0 + 3) = 4; mean 2
    assert ranking_loss(scores, present, absent, 1.0).item() == pytest.approx(2.0)


def test_an_uncertain_concept_takes_no_part():
    scores = torch.tensor([[0.0, 5.0, 9.0]])
    present = torch.tensor([[True, False, False]])
    absent = torch.tensor([[False, True, False]])  # the third is uncertain
    changed = scores.clone()
    changed[0, 2] = -9
    before, after = (ranking_loss(s, present, absent, 1.0) for s in (scores, changed))
    assert before.item() == after.item() == pytest.approx(6.0)


def test_aggregate_matches_a_loop():
    generator = torch.Generator().manual_seed(1)
    similarities = torch.randn(2, 5, 3, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    expected = torch.zeros(2, 3)
    for n in range(2):
        for i in range(3):
            kept = [similarities[n, j, i].item() for j in range(5) if mask[n, j]]
            weights = [math.exp(value / 0.3) for value in kept]
            total = sum(weights)
            expected[n, i] = sum(w / total * v for w, v in zip(weights, kept, strict=True))
    assert torch.allclose(aggregate(similarities, 0.3, mask), expected, atol=1e-5)


def test_aggregate_lies_between_mean_and_maximum():
    similarities = torch.tensor([[[0.1], [0.5], [0.9]]])
    assert aggregate(similarities, 1e4).item() == pytest.approx(0.5, abs=1e-3)
    assert aggregate(similarities, 1e-3).item() == pytest.approx(0.9, abs=1e-3)


def test_padding_does_not_change_a_report():
    features = torch.nn.functional.normalize(torch.randn(1, 2, 4), dim=-1)
    classes = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    padded = torch.cat([features, torch.ones(1, 3, 4)], dim=1)
    mask = torch.tensor([[True, True, False, False, False]])
    short = concept_scores(features, classes, 0.02)
    assert torch.allclose(short, concept_scores(padded, classes, 0.02, mask), atol=1e-6)


def test_scores_are_cosines_and_fuse_is_their_mean():
    unit = torch.eye(3)
    assert torch.equal(report_scores(unit, unit), unit)
    assert similarity_maps(unit.expand(2, 3, 3), unit[:2]).shape == (2, 3, 2)
    assert torch.equal(fuse(unit, torch.zeros(3, 3)), unit / 2)


def test_report_ranking_by_hand():
    scores = torch.tensor([[0.5, 0.0], [0.2, 0.3], [0.9, 0.1]])
    present = torch.tensor([[True, False], [False, False], [False, False]])
    absent = torch.tensor([[False, True], [True, True], [True, False]])
    # class 0: report 0 against 1 and 2; class 1 has no report with it and so no pair
    expected = (max(0, 1 - 0.5 + 0.2) + max(0, 1 - 0.5 + 0.9)) / 2
    assert report_ranking_loss(scores, present, absent, 1.0).item() == pytest.approx(expected)


def test_report_ranking_sees_what_eq_9_cannot():
    torch.manual_seed(0)
    scores, present = torch.randn(6, 4), torch.rand(6, 4) > 0.5
    shifted = scores + torch.randn(6, 1)  # one number a report, the same for all its classes
    arguments = (present, ~present, 1.0)
    assert torch.allclose(ranking_loss(scores, *arguments), ranking_loss(shifted, *arguments))
    before, after = (report_ranking_loss(each, *arguments) for each in (scores, shifted))
    assert not torch.allclose(before, after)


def test_report_ranking_of_a_batch_without_pairs_is_zero():
    scores = torch.randn(2, 3, requires_grad=True)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = report_ranking_loss(scores, nothing, ~nothing, 1.0)
    loss.backward()
    assert loss.item() == 0 and torch.equal(scores.grad, torch.zeros(2, 3))
