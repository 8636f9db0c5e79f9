"""A progress bar for a terminal; lines where standard error is a file."""

import sys
import time

from muskie_jax.writers import duration, log

BAR_WIDTH = 24  # characters
LINE_SECONDS = 10  # between lines that are not in a terminal


class ProgressBar:
    """Shows how many of `total` items are done, their rate and the time left, on standard error.

    Args:
      total: number of items.
      items: what is counted, in the plural, such as "photographs".
    """

    def __init__(self, total: int, items: str):
        self.total, self.items, self.done = total, items, 0
        self.start = self.shown = time.perf_counter()
        self.in_terminal = sys.stderr.isatty()

    def advance(self, count: int) -> None:
        """Counts items as done."""
        self.done += count
        now, is_last = time.perf_counter(), self.done == self.total
        seconds = now - self.start
        left = f"{duration((self.total - self.done) * seconds / self.done)} left"
        text = f"{self.done} of {self.total} {self.items}, {duration(seconds) if is_last else left}"
        if self.in_terminal:
            filled = BAR_WIDTH * self.done // self.total
            bar = "█" * filled + "░" * (BAR_WIDTH - filled)
            print(f"\r\033[K{bar} {text}", end="\n" if is_last else "", file=sys.stderr, flush=True)
        elif is_last or now - self.shown > LINE_SECONDS:
            log(text)
            self.shown = now
