"""Every option, looked up in the configuration of the real builder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from aps_deploy.errors import InputError
from aps_deploy.export.engines.building import add_profiles, builder_flags, configure
from aps_deploy.export.engines.cache import cache_key
from aps_deploy.export.engines.network import image_input, new_network, parse_onnx
from aps_deploy.export.engines.profiles import Profile, parse_profile
from aps_deploy.export.engines.settings import EngineSettings, check_settings, compute_capability_names
from aps_deploy.runtimes.tensorrt.log import ToolkitLog, new_logger
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit
from tests.export.engines.toys import toy

RTX = EngineSettings("trt-rtx")


class Workbench:
    """A builder with its configuration and network, kept together as long as any of them is used."""

    def __init__(self, toolkit: Toolkit) -> None:
        self.logger = new_logger(toolkit, ToolkitLog())
        self.builder = toolkit.module.Builder(self.logger)
        self.network = new_network(toolkit, self.builder)
        self.config = self.builder.create_builder_config()


@pytest.fixture
def bench(rtx: Toolkit) -> Workbench:
    return Workbench(rtx)


@pytest.mark.parametrize(
    ("changes", "on", "off"),
    [
        # TF32 is on in a new configuration.
        ({}, ["DISTRIBUTIVE_INDEPENDENCE"], ["TF32", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE"]),
        ({"tf32": True}, ["TF32"], []),
        ({"distributive_independence": False}, [], ["DISTRIBUTIVE_INDEPENDENCE"]),
        ({"version_compatible": True}, ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"], []),
        ({"refit": "any"}, ["REFIT"], ["REFIT_IDENTICAL", "STRIP_PLAN"]),
        ({"refit": "identical"}, ["REFIT_IDENTICAL"], ["REFIT"]),
        ({"strip_weights": True}, ["STRIP_PLAN", "REFIT_IDENTICAL"], ["REFIT"]),
        ({"strip_weights": True, "refit": "any"}, ["STRIP_PLAN", "REFIT"], ["REFIT_IDENTICAL"]),
    ],
)
def test_flags_reach_the_builder(
    rtx: Toolkit, bench: Workbench, changes: dict[str, Any], on: list[str], off: list[str]
) -> None:
    configure(rtx, bench.config, check_settings(dataclasses.replace(RTX, **changes), rtx))
    flags = rtx.module.BuilderFlag
    assert [name for name in on if not bench.config.get_flag(getattr(flags, name))] == []
    assert [name for name in off if bench.config.get_flag(getattr(flags, name))] == []


def test_numbers_and_targets_reach_the_builder(rtx: Toolkit, bench: Workbench) -> None:
    settings = dataclasses.replace(RTX, workspace_mib=300, optimization_level=1, compute_capabilities=("8.6", "12.0"))
    configure(rtx, bench.config, check_settings(settings, rtx))
    config, module = bench.config, rtx.module
    assert config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE) == 300 * 2**20
    assert config.builder_optimization_level == 1
    assert config.profiling_verbosity == module.ProfilingVerbosity.DETAILED
    targets = [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)]
    assert targets == [module.ComputeCapability.SM86, module.ComputeCapability.SM120]


def test_networks_are_strongly_typed(rtx: Toolkit, bench: Workbench) -> None:
    assert bench.network.get_flag(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_profiles_reach_the_builder(rtx: Toolkit, bench: Workbench) -> None:
    parser = parse_onnx(rtx, bench.logger, bench.network, toy().SerializeToString(), "toy.onnx")
    settings = dataclasses.replace(RTX, profiles=(Profile((1, 2, 4)), Profile((8, 8, 32))))
    images = image_input(bench.network, "toy.onnx")
    shapes = add_profiles(bench.builder, bench.config, images, settings, 2)
    assert parser.num_errors == 0
    assert bench.config.num_optimization_profiles == 2
    assert shapes == (
        ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)),
        ((8, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8)),
    )
    with pytest.raises(InputError, match="only one, 8x8"):
        add_profiles(
            bench.builder, bench.config, images, dataclasses.replace(RTX, profiles=(parse_profile("1@16"),)), 2
        )


def test_targets_are_those_the_toolkit_has(rtx: Toolkit) -> None:
    names = compute_capability_names(dataclasses.replace(rtx, gpu=None))
    assert {"7.5", "8.6", "8.9", "12.0"} <= set(names)
    assert "current" not in names
    turing = r"choose from 8\.0, 8\.6, .*, or 7\.5 for a file whose classifier is not float32\."
    for target, hint in (("9.0", turing), ("current", "no GPU here"), ("8,6", "choose from")):
        with pytest.raises(InputError, match=hint):
            check_settings(dataclasses.replace(RTX, compute_capabilities=(target,)), dataclasses.replace(rtx, gpu=None))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("trt-rtx", {"hardware_compatibility": "ampere-plus"}, "--hardware-compatibility does not fit"),
        ("trt-rtx", {"timing_cache": Path("x")}, "--timing-cache does not fit"),
        ("trt", {"compute_capabilities": ("8.6",)}, "--compute-capability does not fit"),
        ("trt", {"workspace_mib": 0}, "--workspace-mib 0 is no memory of a GPU; accepted: 1 to 16777216"),
        ("trt-rtx", {"workspace_mib": 10**14}, f"--workspace-mib {10**14} is no memory of a GPU; accepted: 1 to"),
        ("trt", {"optimization_level": 6}, "--optimization-level 6"),
        ("trt", {"refit": "some"}, "unknown refit mode"),
        ("trt", {"hardware_compatibility": "all"}, "unknown hardware compatibility"),
        ("trt", {"profiles": ()}, "at least one profile"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        EngineSettings(kind, **changes)


def test_independence_is_refused_only_where_asked_for_and_absent(rtx: Toolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toolkit, "has_flag", lambda _, name: name != "DISTRIBUTIVE_INDEPENDENCE")
    assert check_settings(RTX, rtx).distributive_independence is False
    assert "DISTRIBUTIVE_INDEPENDENCE" not in builder_flags(rtx, RTX)
    with pytest.raises(InputError, match="no --distributive-independence"):
        check_settings(dataclasses.replace(RTX, distributive_independence=True), rtx)


def test_every_setting_but_the_timing_cache_changes_the_key(rtx: Toolkit) -> None:
    """A new setting that is left out of the key would hand out an engine of other settings."""
    trt = EngineSettings("trt")
    changes: dict[str, Any] = {
        "kind": "trt",
        "profiles": (Profile((1, 1, 1)),),
        "tf32": True,
        "version_compatible": True,
        "hardware_compatibility": "ampere-plus",
        "compute_capabilities": ("8.6",),
        "strip_weights": True,
        "refit": "any",
        "workspace_mib": 8,
        "optimization_level": 2,
        "distributive_independence": True,
        "timing_cache": Path("times"),
    }
    assert set(changes) == {field.name for field in dataclasses.fields(EngineSettings)}
    keys = {cache_key("0", RTX, rtx), cache_key("1", RTX, rtx)}
    for name, value in changes.items():
        base = trt if name in ("hardware_compatibility", "timing_cache") else RTX
        keys.add(cache_key("0", dataclasses.replace(base, **{name: value}), rtx))
    keys.add(cache_key("0", RTX, dataclasses.replace(rtx, version="1.8.0.1")))
    # "kind": "trt" and the timing cache make one key.
    assert len(keys) == 2 + len(changes) - 1 + 1
