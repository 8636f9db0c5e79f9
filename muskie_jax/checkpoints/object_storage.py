"""Checkpoints in object storage: which are complete, how they are moved, and what Orbax needs for s3://.

A folder of objects cannot be renamed in one step, so Orbax writes the marker `commit_success.txt` last. A
step without it is incomplete: it is never restored, and the next run deletes it.
"""

import functools
import os
import pathlib
import shutil
from typing import Any

import orbax.checkpoint as ocp

from muskie_jax.errors import UserError
from muskie_jax.storage.address import as_os_errors, filesystem, is_remote

MARKER = "commit_success.txt"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # environment variables, as in Amazon's tools
S3 = "s3://"
SERVICE_PACKAGES = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3")
# TensorStore's errors of requests that were refused or not answered.
SERVICE_STATUSES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "ABORTED")


def is_complete(checkpoint: pathlib.Path) -> bool:
    """Returns whether a checkpoint was written to its end; those on disks get their name last."""
    return not is_remote(checkpoint) or (checkpoint / MARKER).exists()


def manager_options(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the options of Orbax's manager that a folder in object storage needs."""
    if not is_remote(folder):
        return {}
    prepare_orbax(folder)
    mode = ocp.options.AtomicityMode.COMMIT_FILE  # the default for gs:// alone
    return {"atomicity_options": ocp.options.AtomicityOptions(mode=mode), "cleanup_tmp_directories": True}


def prepare_orbax(folder: pathlib.Path) -> None:
    """Makes sure that Orbax can read and write a folder; call it before its first use."""
    if os.fspath(folder).startswith(S3):
        _teach_orbax_s3()


def is_storage_failure(error: BaseException) -> bool:
    """Returns whether a storage service refused a request or did not answer: no proof of damage."""
    package = type(error).__module__.partition(".")[0]
    return package in SERVICE_PACKAGES or any(status in str(error) for status in SERVICE_STATUSES)


def move(source: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a checkpoint; raises OSError.

    In object storage, the target's marker is written last and the source's is deleted first. If the move is
    interrupted, one of the two is complete, or both are.
    """
    if not is_remote(source):
        shutil.move(source, target)  # a folder of damaged checkpoints may be on another disk
        return
    with as_os_errors():
        files = filesystem(source)
        base = files._strip_protocol(os.fspath(source))
        names = [path[len(base) + 1 :] for path in files.find(base)]
        for name in sorted(names, key=lambda name: name == MARKER):
            files.cp_file(f"{source}/{name}", f"{target}/{name}")
        for name in sorted(names, key=lambda name: name != MARKER):
            files.rm_file(f"{source}/{name}")


@functools.cache
def _teach_orbax_s3() -> None:
    """Makes Orbax pass s3:// to TensorStore, which has a driver for it.

    Orbax 0.12.8 knows gs:// alone, and takes other URLs for paths. These three functions are all that
    differs, so they are extended.
    """
    try:
        from orbax.checkpoint._src.path import gcs_utils
        from orbax.checkpoint._src.serialization import tensorstore_utils

        normalize, of_gcs = tensorstore_utils._normalize_path, gcs_utils.get_kvstore_for_gcs
        uses_driver = tensorstore_utils._use_gcs_driver
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"orbax-checkpoint {ocp.__version__} cannot be used with s3://: install the version in "
            "constraints.txt"
        ) from error

    def kvstore(path: str) -> dict[str, Any]:
        if not path.startswith(S3):
            return of_gcs(path)
        bucket, _, key = path.removeprefix(S3).partition("/")
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
        spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": key}
        if endpoint:
            spec["endpoint"] = endpoint
        if os.environ.get("AWS_ACCESS_KEY_ID"):
            # Other providers would be asked as well, and log an error for each file that they miss.
            spec["aws_credentials"] = {"type": "environment"}
        return spec

    tensorstore_utils._normalize_path = lambda path: normalize(path).replace("s3:/", S3)
    tensorstore_utils._use_gcs_driver = lambda path: path.startswith(S3) or uses_driver(path)
    gcs_utils.get_kvstore_for_gcs = kvstore
