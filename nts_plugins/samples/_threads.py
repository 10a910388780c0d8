# SPDX-License-Identifier: Apache-2.0
"""Work shared by threads. The kernels let go of the interpreter's lock, so this uses all cores."""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(threads: int, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Call a function on every item and give the results in the items' order, each as soon as it is there.

    What has not begun is dropped when a call raises, or when the caller stops asking.
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
