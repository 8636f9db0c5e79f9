"""A store of each kind, started once, and a new folder in it for each test."""

import uuid

import pytest

from muskie_jax.storage.address import storage_path
from muskie_tests.object_storage import emulated


@pytest.fixture(scope="session", params=["gs", "s3"])
def store(request):
    for package in {"gs": ("gcsfs", "gcp_storage_emulator"), "s3": ("s3fs", "moto")}[request.param]:
        pytest.importorskip(package)
    with emulated(request.param) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture
def url(store):
    """A URL where nothing is."""
    yield store.url(f"{uuid.uuid4().hex}/run")
    store.fault = lambda method, path: None


@pytest.fixture
def workdir(url):
    return storage_path(url)
