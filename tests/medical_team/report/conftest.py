"""One browser for all tests of the page."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from report_reader import Reader

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import headless_chromium

        missing = headless_chromium.missing_browser()
    except ModuleNotFoundError:
        missing = "selenium is not installed; pip install -r requirements-dev.txt"
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    if missing and os.environ.get("CI"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    with headless_chromium.chromium() as driver:
        yield driver
    del sys.modules["headless_chromium"]


@pytest.fixture
def reader(browser: Any) -> Reader:
    return Reader(browser)
