"""Share independent pieces of NumPy work among threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch


def run_all(tasks: Sequence[Callable[[], None]]) -> None:
    """Run tasks, in order, on as many threads as torch uses."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda task: task(), tasks))
