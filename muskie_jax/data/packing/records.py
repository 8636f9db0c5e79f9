"""The record format: one view of a scene, stored in a shard as a `tf.train.Example`."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float64
from tensorflow_datasets.core.example_serializer import ExampleSerializer

# Encoded files are stored and returned unchanged.
DECODERS = {"image": tfds.decode.SkipDecoding(), "depth": tfds.decode.SkipDecoding()}


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Depth and camera of a view.

    Attributes:
      depth: a 16-bit PNG of the image's size. It stores z-depth in millimetres, rounded to the nearest,
        up to 65.5 m; 0 = missing.
      intrinsics: camera matrix, in pixels. The image's upper left corner is (0, 0), and the centre of its
        first pixel is (0.5, 0.5).
      world_to_camera: camera pose, in metres, with OpenCV axes (x right, y down, z forward).
    """

    depth: bytes
    intrinsics: Float64[np.ndarray, "3 3"]
    world_to_camera: Float64[np.ndarray, "4 4"]


@dataclasses.dataclass(frozen=True)
class Record:
    """One view.

    Attributes:
      image: the encoded image file.
      scene: name of the scene.
      frame: path of the image, relative to the root of its source.
      geometry: depth and camera; None if unknown.
    """

    image: bytes
    scene: str
    frame: str
    geometry: Geometry | None = None


@functools.cache
def features(geometry: bool) -> tfds.features.FeaturesDict:
    """Returns the TFDS features of records with or without geometry."""
    kinds = {
        "image": tfds.features.Image(doc="The encoded file; its EXIF orientation is not applied."),
        "scene": tfds.features.Text(doc="Name of the scene."),
        "frame": tfds.features.Text(doc="Path of the image below the root of its source."),
    }
    if geometry:
        # Matrices are stored as bytes because tf.train.Example has no float64.
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
    specs: Any = features(geometry).get_serialized_info()  # TFDS annotates the two functions inconsistently
    return ExampleSerializer(specs)


def serialize(record: Record) -> bytes:
    """Returns the record's bytes in a shard, identical for identical records."""
    # os.fsencode because file names need not be valid UTF-8.
    scene, frame = os.fsencode(record.scene), os.fsencode(record.frame)
    example = {"image": record.image, "scene": scene, "frame": frame}
    geometry = record.geometry
    if geometry:
        example |= {field.name: getattr(geometry, field.name) for field in dataclasses.fields(geometry)}
    encoded = features(geometry is not None).encode_example(example)
    # A fixed feature order, so that equal packs are equal byte for byte.
    return _serializer(geometry is not None).get_tf_example(encoded).SerializeToString(deterministic=True)


def record_from_example(example: Mapping[str, Any]) -> Record:
    """Converts an example that TFDS read with `DECODERS` to a record."""
    names = [field.name for field in dataclasses.fields(Geometry)]
    geometry = Geometry(*(example[name] for name in names)) if names[0] in example else None
    scene, frame = (os.fsdecode(example[key]) for key in ("scene", "frame"))
    return Record(example["image"], scene, frame, geometry)
