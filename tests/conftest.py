"""Fixtures that several test files share."""

import pytest
import torch

from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.standin import StandIn


@pytest.fixture(scope="session")
def encoder() -> StandIn:
    """A stand-in with random image weights, 64 pixels."""
    torch.manual_seed(7)
    return freeze(StandIn(64))
