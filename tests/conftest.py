"""Fixtures that several test files share."""

import pytest
import torch
from hypothesis import settings

from rctpl_utils.encoders.base import freeze
from rctpl_utils.encoders.standin import StandIn

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


@pytest.fixture(scope="session")
def encoder() -> StandIn:
    """A stand-in with random image weights, 64 pixels."""
    torch.manual_seed(7)
    return freeze(StandIn(64))
