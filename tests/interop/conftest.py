"""Fixtures of several test files of weights."""

import collections
import sys
import types
import typing

import pytest


@pytest.fixture
def fake_omegaconf(monkeypatch):
    """Modules whose objects pickle like those of OmegaConf, which need not be installed."""

    def node(module, name):
        cls = type(name, (), {"__module__": module})
        monkeypatch.setitem(sys.modules, module, sys.modules.get(module) or types.ModuleType(module))
        monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
        return cls

    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    metadata_class = node("omegaconf.base", "ContainerMetadata")
    config_class = node("omegaconf.dictconfig", "DictConfig")
    value_class = node("omegaconf.nodes", "AnyNode")
    config, value, metadata = config_class(), value_class(), metadata_class()
    resolvers = collections.defaultdict(dict)
    vars(metadata).update(ref_type=typing.Any, object_type=dict, key_type=int, resolver_cache=resolvers)
    vars(value).update(_parent=config, _val=3, _metadata=metadata)
    vars(config).update(_metadata=metadata, _content={"views": value})
    return config
