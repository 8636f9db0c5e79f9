"""A store of each kind, started once, and a new folder in it for each test."""

import contextlib
import functools
import uuid

import pytest

from muskie_jax.storage.address import storage_path
from muskie_tests.object_storage import emulated


@pytest.fixture(scope="session")
def running():
    """Starts a store once and keeps it to the end: processes cache clients with its address."""
    with contextlib.ExitStack() as open_stores:
        yield functools.cache(lambda scheme: open_stores.enter_context(emulated(scheme)))


@pytest.fixture(params=["gs", "s3"])
def store(request, running, monkeypatch):
    for package in {"gs": ("gcsfs", "gcp_storage_emulator"), "s3": ("s3fs", "moto")}[request.param]:
        pytest.importorskip(package)
    store = running(request.param)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture
def url(store):
    """A URL where nothing is."""
    yield store.url(f"{uuid.uuid4().hex}/run")
    store.fault = lambda method, path: None


@pytest.fixture
def workdir(url):
    return storage_path(url)
