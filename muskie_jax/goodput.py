"""Goodput: the share of a run's wall time that went into updates that count, over all of its starts.

`goodput.json` in the work directory has one entry for each start of the run. The first process rewrites it
while it trains, so it survives a kill. Time after the last record of a killed start counts as downtime.
"""

import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import time
from collections.abc import Iterator, Sequence

from muskie_jax.errors import AT_END
from muskie_jax.files import DAMAGED_RECORD, replace_text
from muskie_jax.processes import interrupt
from muskie_jax.writers import duration

FILE = "goodput.json"
RECORD_SECONDS = 1.0  # shortest time between two records of a run that logs often
STEPS, START, COMPILE, DATA_WAIT, SAVE, EVALUATION, END = (
    "steps", "start", "compile", "data_wait", "save", "evaluation", "end",
)  # fmt: skip
REPEATED, DOWNTIME = "repeated", "downtime"
PARTS = (STEPS, START, COMPILE, DATA_WAIT, SAVE, EVALUATION, END, REPEATED, DOWNTIME)


@dataclasses.dataclass
class Start:
    """What one start of a run did.

    Attributes:
      began: time at which the program started, in seconds since 1970.
      recorded: time of this record, in seconds since 1970.
      first_step: step that it continued from.
      step: last update that it began.
      finished: whether it reached the last step of the run, so that a pause afterwards is no downtime.
      seconds: seconds by part, of all parts but REPEATED and DOWNTIME.
    """

    began: float
    recorded: float
    first_step: int = 0
    step: int = 0
    finished: bool = False
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def total_seconds(starts: Sequence[Start]) -> dict[str, float]:
    """Returns the seconds of each of PARTS, over all starts; their sum is the wall time of the run.

    Updates after the step that a later start continued from were computed again. Their share of the time in
    updates is REPEATED. DOWNTIME is the time between starts, unless the run was finished.
    """
    total: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    continued_from: float = math.inf
    for start in reversed(starts):
        spent = dict(start.seconds)
        in_steps, count = spent.pop(STEPS, 0.0), start.step - start.first_step
        kept = max(0.0, min(start.step, continued_from) - start.first_step)
        total[STEPS] += in_steps * kept / count if count else 0.0
        total[REPEATED] += in_steps * (1 - kept / count) if count else in_steps
        for part, seconds in spent.items():
            total[part] = total.get(part, 0.0) + seconds
        continued_from = min(continued_from, start.first_step)
    for before, after in itertools.pairwise(starts):
        if not before.finished:
            total[DOWNTIME] += max(0.0, after.began - before.recorded)
    return total


def share(seconds: dict[str, float]) -> float:
    """Returns the share of STEPS in the sum of all parts; 0 if there was no time."""
    wall = sum(seconds.values())
    return seconds[STEPS] / wall if wall else 0.0


def describe(starts: Sequence[Start]) -> list[str]:
    """Returns two lines about the goodput of a run and the other parts of its time."""
    seconds = total_seconds(starts)
    wall = sum(seconds.values()) or 1.0
    times = f"{len(starts)} start{'s' * (len(starts) != 1)}"
    parts = [
        f"{part.replace('_', ' ')} {seconds[part] / wall:.1%}"
        for part in seconds
        if part != STEPS and seconds[part]
    ]
    return [
        f"Goodput: {share(seconds):.1%} of {duration(wall)} was spent in steps that count, over {times}.",
        f"  {', '.join(parts)}",
    ]


def read_starts(workdir: pathlib.Path) -> list[Start]:
    """Returns the recorded starts of a run; none if there is no record, or if it is damaged."""
    try:
        starts = [Start(**entry) for entry in json.loads((workdir / FILE).read_text())]
        for start in starts:
            numbers = (start.began, start.recorded, start.first_step, start.step, *start.seconds.values())
            if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
                return []
    except (OSError, *DAMAGED_RECORD):
        return []
    return starts


class Goodput:
    """Measures where the time of this start goes, and records it beside the earlier starts.

    It is a context, at whose end the last record is written. `begin` starts a part of the time, `during` a
    part inside another. Both take about a microsecond.

    Args:
      workdir: folder of the record; None in a process that keeps none.
    """

    def __init__(self, workdir: pathlib.Path | None):
        self._path = workdir / FILE if workdir else None
        self._earlier = read_starts(workdir) if workdir else []
        now, program = time.time(), interrupt.program()
        began = program.since if program else now
        self._start = Start(began, now)
        self._part = START
        self._mark = time.perf_counter() - max(0.0, now - began)
        self._written = -math.inf

    def __enter__(self) -> "Goodput":
        AT_END.append(self.record)  # if the process is ended at once
        return self

    def __exit__(self, *_) -> None:
        AT_END.remove(self.record)
        self.record()

    def begin(self, part: str) -> None:
        """Counts the time from now on as `part`."""
        now = time.perf_counter()
        seconds = self._start.seconds
        seconds[self._part] = seconds.get(self._part, 0.0) + now - self._mark
        self._part, self._mark = part, now

    @contextlib.contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Counts the time inside the context as `part`, and afterwards continues with the part before."""
        before = self._part
        self.begin(part)
        try:
            yield
        finally:
            self.begin(before)

    def continue_from(self, step: int, finished: bool = False) -> None:
        """Sets the step that this start continues from, and writes its first record."""
        self._start.first_step = self._start.step = step
        self._start.finished = finished
        self.record()

    def reached(self, step: int, finished: bool = False) -> None:
        """Sets the last update that was begun; the record is rewritten unless that was just done."""
        self._start.step, self._start.finished = step, finished
        if time.perf_counter() - self._written > RECORD_SECONDS:
            self.record()

    def record(self) -> None:
        """Rewrites the record. A disk that is full does not end the run for it."""
        self.begin(self._part)
        self._start.recorded, self._written = time.time(), time.perf_counter()
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            replace_text(self._path, json.dumps([dataclasses.asdict(start) for start in self.starts()]))

    def starts(self) -> list[Start]:
        """Returns all starts of the run, this one last."""
        return [*self._earlier, self._start]

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each part so far, see `total_seconds`."""
        self.begin(self._part)
        return total_seconds(self.starts())

    def share(self) -> float:
        """Returns the goodput so far, from 0 to 1."""
        return share(self.seconds())
