"""What evaluations during training share: batches of held-out scenes, and a program that measures them."""

import abc
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.data.mixture import Mixture, evaluation_sampler
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.metrics import Mean, merge_all
from muskie_jax.programs import batch_shapes
from muskie_jax.reconstruction.settings import has_geometry
from muskie_jax.rendering import BatchPlacer


class HeldOutEvaluator(abc.ABC):
    """Evaluates parameters on held-out scenes during training.

    Every source contributes the same number of groups, whatever its weight in training. The groups depend
    only on `config.evaluation`, `config.batch.groups` and the masks, so runs are comparable.

    Args:
      config: config of the run.
      mixture: the sources; groups come from their held-out scenes.
      mesh: the devices.

    Attributes:
      measures: names of the figures that `run` always yields.
      error: the measure by which checkpoints are compared; lower is better.
      by_source: measures that are also yielded for every source, if there are several.
      bucket: height, width and number of views of all groups.
    """

    measures: ClassVar[tuple[str, ...]]
    error: ClassVar[str]
    by_source: ClassVar[tuple[str, ...]]

    def __init__(self, config: ConfigDict, mixture: Mixture, mesh: Mesh):
        self.names = mixture.names
        groups = min(config.batch.groups, config.evaluation.groups)
        samplers = [evaluation_sampler(config, source) for source in mixture.held_out_by_source()]
        self.num_batches = math.ceil(config.evaluation.groups / groups / len(samplers))
        geometry = has_geometry(config)
        self.placer = BatchPlacer(groups, mixture.worlds, mixture.photos, mesh, geometry)
        self.pipelines = [
            Pipeline(sampler, self.placer.rows, threads=config.data.threads) for sampler in samplers
        ]
        views, patch = config.evaluation.views, config.model.patch
        height, width = config.evaluation.size
        self.bucket = Bucket(height, width, views)
        self._shapes = batch_shapes(self.bucket, groups, views, patch, mesh, geometry)
        self._batches: list[dict[str, np.ndarray]] | None = None
        self._measure = jax.jit(self._measure_batch, out_shardings=NamedSharding(mesh, P()))

    @property
    def total_batches(self) -> int:
        """The number of batches of all sources."""
        return self.num_batches * len(self.pipelines)

    def load(self) -> list[dict[str, np.ndarray]]:
        """Returns this host's batches, source by source; loads them on the first call only."""
        if self._batches is None:
            updates = [itertools.islice(p.updates(), self.num_batches) for p in self.pipelines]
            self._batches = [update[0][1] for update in itertools.chain.from_iterable(updates)]
        return self._batches

    def to_compile(self, params) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """Returns the programs of an evaluation by name, given the parameters' shapes; see `Programs`."""
        name = f"evaluation {self.bucket}"
        lower = {name: functools.partial(self._measure.lower, params, dict(self._shapes))}
        return self.placer.to_compile([self.bucket], self.bucket.views) | lower

    def run(self, params) -> Iterator[tuple[str, float]]:
        """Yields the figures of the parameters, by name.

        They are `measures`. With several sources, those of `by_source` follow, such as `mse/<source>`.
        """
        measured = []
        for number, batch in enumerate(self.load()):
            metrics, parts = self._measure(params, self.placer(self.bucket, batch))
            source = self.names[int(batch["source"][0])]
            of_source = {f"{name}/{source}": metrics[name] for name in self.by_source}
            measured.append(metrics | (of_source if len(self.pipelines) > 1 else {}))
            if number == 0:
                self._keep(parts)
        merged = merge_all(jax.device_get(measured))
        yield from ((name, float(mean.compute())) for name, mean in merged.items())

    def figures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields names and pictures of the latest run."""
        yield from ()

    @abc.abstractmethod
    def describe(self, values: Mapping[str, float]) -> str:
        """Returns a line about the figures of `run`."""

    @abc.abstractmethod
    def _measure_batch(self, params: Any, batch: dict[str, Array]) -> tuple[dict[str, Mean], Any]:
        """Returns a batch's metrics, and what `figures` needs of it. It is compiled."""

    @abc.abstractmethod
    def _keep(self, parts: Any) -> None:
        """Stores the second result of `_measure_batch` of the first batch, for `figures`."""
