"""The real servers that backends are held against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.conftest import bao
from tests.support.moto_aws import moto_server

__all__ = ["bao"]


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of AWS as moto has it."""
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url
