"""docs/openg2g.md shows what happens: its blocks are run, one after the other, and what they print is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("openg2g")
pytest.importorskip("gymnasium")
pytest.importorskip("pandas")

from test_docs import test_the_blocks_do_what_the_document_says as run_blocks

pytestmark = pytest.mark.slow


def test_the_page_for_openg2g_users(binary: Path) -> None:
    run_blocks("docs/openg2g.md", binary)
