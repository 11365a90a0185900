"""The table at the end of ``tox -e contract``."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from tests.networks.cases import EVERYTHING


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many parts of the contract each option set keeps."""
    if not EVERYTHING:
        return
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            found = re.search(r"\[.*?([a-z0-9_]+-\dd-.*)\]", report.nodeid)
            if found:
                counts[found[1]][outcome] += 1
    terminalreporter.write_line("")
    for case, count in sorted(counts.items()):
        terminalreporter.write_line(f"{case:76} {count['passed']:3} passed {count['failed']:3} failed")
