"""One record: a view of a scene as it lies in a shard, an example of the TFDS features below."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

# Encoded files go in and come out unchanged.
DECODERS = {"image": tfds.decode.SkipDecoding(), "depth": tfds.decode.SkipDecoding()}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is known of a view beside its image.

    Attributes:
      depth: a 16-bit PNG of the image's size: z-depth in millimetres, so up to 65.5 m, rounded to the
        nearest; 0 = missing.
      intrinsics: float64 (3, 3), pixels; the image's upper left corner is (0, 0), its first pixel's
        centre (0.5, 0.5).
      world_to_camera: float64 (4, 4), metres, OpenCV axes.
    """

    depth: bytes
    intrinsics: np.ndarray
    world_to_camera: np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """A view.

    Attributes:
      image: the encoded file.
      scene: the name of the scene it is of.
      frame: its path below the source's root.
      geometry: None where it is not known.
    """

    image: bytes
    scene: str
    frame: str
    geometry: Geometry | None = None


@functools.cache
def features(geometry: bool) -> tfds.features.FeaturesDict:
    """The TFDS features of records with or without geometry."""
    kinds = {
        "image": tfds.features.Image(doc="The encoded file; its EXIF orientation is not applied."),
        "scene": tfds.features.Text(doc="Name of the scene."),
        "frame": tfds.features.Text(doc="Path of the image below the root of its source."),
    }
    if geometry:
        # Matrices as bytes: a tf.train.Example has no 64-bit floats.
        matrix = functools.partial(tfds.features.Tensor, dtype=np.float64, encoding="bytes")
        kinds |= {
            "depth": tfds.features.Image(
                shape=(None, None, 1),
                dtype=np.uint16,
                encoding_format="png",
                doc="z-depth in millimetres; 0 = missing.",
            ),
            "intrinsics": matrix(shape=(3, 3), doc="Pixels; the image's upper left corner is (0, 0)."),
            "world_to_camera": matrix(shape=(4, 4), doc="Metres; x right, y down, z forward."),
        }
    return tfds.features.FeaturesDict(kinds)


@functools.cache
def _serializer(geometry: bool) -> ExampleSerializer:
    return ExampleSerializer(features(geometry).get_serialized_info())


def serialize(record: Record) -> bytes:
    """The record's bytes in a shard."""
    # Names on disk need not be valid UTF-8.
    scene, frame = os.fsencode(record.scene), os.fsencode(record.frame)
    example = {"image": record.image, "scene": scene, "frame": frame}
    geometry = record.geometry
    if geometry:
        example |= {field.name: getattr(geometry, field.name) for field in dataclasses.fields(geometry)}
    encoded = features(geometry is not None).encode_example(example)
    # In a fixed order of features, so that the same pack has the same bytes.
    return _serializer(geometry is not None).get_tf_example(encoded).SerializeToString(deterministic=True)


def from_example(example: Mapping[str, Any]) -> Record:
    """The record that TFDS read with `DECODERS`."""
    names = [field.name for field in dataclasses.fields(Geometry)]
    geometry = Geometry(*(example[name] for name in names)) if names[0] in example else None
    scene, frame = (os.fsdecode(example[key]) for key in ("scene", "frame"))
    return Record(example["image"], scene, frame, geometry)
