"""A module in place of the package `wandb`, which records what it gets."""

import importlib.machinery
import types
from typing import Any


class FakeRun:
    """A run: the options it was started with, and the rows that were logged."""

    def __init__(self, options: dict[str, Any]):
        self.options, self.rows, self.metrics, self.finished = options, [], [], False

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished = True


class FakeWandb(types.ModuleType):
    """The module; `runs` lists every call of `init`."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="fake")
        self.runs: list[FakeRun] = []

    def init(self, **options: Any) -> FakeRun:
        self.runs.append(FakeRun(options))
        return self.runs[-1]

    def Image(self, image) -> tuple[str, tuple[int, ...]]:
        return "picture", image.shape
