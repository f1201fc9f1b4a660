"""The plugins of a build: registered before the file is parsed, counted in the network, described beside the plan.

Only for files of the form ``plugin`` and only for TensorRT. TensorRT for RTX has no plugins: it builds such a file from
the bodies in it, and nothing here touches it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aps_deploy.errors import ApsError, InputError
from aps_deploy.export.engines.settings import EngineSettings
from aps_deploy.runtimes.tensorrt.gpu import Gpu
from aps_deploy.runtimes.tensorrt.toolkit import Toolkit

if TYPE_CHECKING:
    import onnx

    from aps_deploy.plugins.tensorrt.registration import PluginLibrary

# The oldest GPUs that the kernels run on; the driver compiles PTX for them on any later one.
_AMPERE = 80

# Plugins stay registered as long as the process lives, so each toolkit has one library of them.
_libraries: dict[Any, PluginLibrary] = {}


@dataclass(frozen=True)
class PluginBuild:
    """What a build takes from plugins.

    Attributes:
        node_types: how many nodes of each operator the file has.
        compute_capability: what their kernels are compiled for, 90 for 9.0.
        ptx_version: newest PTX that the driver reads, 90 for 9.0.
        triton: version of the compiler.
    """

    node_types: Mapping[str, int]
    compute_capability: int
    ptx_version: int
    triton: str

    @property
    def num_nodes(self) -> int:
        """How many nodes plugins are to compute."""
        return sum(self.node_types.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in the engine's document."""
        return {
            "kernels": dict(self.node_types),
            "compute_capability": f"{self.compute_capability // 10}.{self.compute_capability % 10}",
            "ptx_version": f"{self.ptx_version // 10}.{self.ptx_version % 10}",
            "triton": self.triton,
        }

    def key(self) -> str:
        """Return hexadecimal digits that change with everything of plugins that has a part in a plan."""
        from aps_deploy.plugins.tensorrt import interfaces, kernels
        from aps_deploy.plugins.triton import ahead_of_time, tiles
        from aps_deploy.plugins.triton.kernels import energies, parts, scores, taking

        sources = (interfaces, kernels, ahead_of_time, tiles, energies, parts, scores, taking)
        digest = hashlib.sha256(repr(self.to_dict()).encode())
        for module in sources:
            digest.update(inspect.getsource(module).encode())
        return digest.hexdigest()


def plugin_build(model: onnx.ModelProto, settings: EngineSettings, toolkit: Toolkit) -> PluginBuild | None:
    """Return what the build of a file takes from plugins; None where it takes nothing.

    Raises:
        InputError: the file wants plugins, and their kernels cannot be compiled here or do not run on this GPU.
    """
    from aps_deploy.export.plugin_nodes import plugin_nodes

    found = Counter(node.op_type for node in plugin_nodes(model))
    if toolkit.is_rtx or not found:
        return None
    from aps_deploy.plugins.tensorrt.kernels import triton_version

    assert toolkit.gpu is not None  # its builder runs nowhere else
    own = int(toolkit.gpu.compute_capability.replace(".", ""))
    if own < _AMPERE:
        raise InputError(
            f"the plugins' kernels run on GPUs of compute capability 8.0 and newer, and {toolkit.gpu.name} has "
            f"{toolkit.gpu.compute_capability}; export with --polyphase where."
        )
    capability = _AMPERE if settings.hardware_compatibility == "ampere-plus" else own
    return PluginBuild(dict(sorted(found.items())), capability, ptx_version_of(toolkit.gpu), triton_version())


def ptx_version_of(gpu: Gpu) -> int:
    """Return the newest version of PTX that a GPU's driver reads, 90 for 9.0.

    From CUDA 13 on a version of CUDA and its PTX count alike, from 9.0 for 13.0; before, 12.0 had 8.0 and 12.6 the same
    as 12.5 (release notes of the PTX ISA).
    """
    major, minor = (int(part) for part in gpu.driver.split("."))
    if major >= 13:
        return 10 * (major - 4) + minor
    return 80 + minor - (minor > 5)


def register_plugins(build: PluginBuild, toolkit: Toolkit) -> None:
    """Register the plugins of a build in its toolkit.

    Raises:
        ApsError: the toolkit's module for plugins cannot be loaded.
    """
    from aps_deploy.plugins.tensorrt.kernels import Target
    from aps_deploy.plugins.tensorrt.registration import PluginLibrary

    assert not toolkit.is_rtx
    if toolkit.module not in _libraries:
        try:
            _libraries[toolkit.module] = PluginLibrary(toolkit.module)
        except ImportError as error:
            raise ApsError(
                f"{toolkit.info.title} {toolkit.version} came without its Python interface for plugins ({error}); "
                f"reinstall it: {toolkit.info.install_hint}."
            ) from error
    _libraries[toolkit.module].register(build.node_types, Target(build.compute_capability, build.ptx_version))


def check_plugin_layers(build: PluginBuild, toolkit: Toolkit, network: Any) -> None:
    """Do nothing where the parser gave every node of a plugin to its plugin.

    Raises:
        ApsError: it took bodies instead.
    """
    wanted = toolkit.module.LayerType.PLUGIN_V3
    found = sum(network.get_layer(index).type == wanted for index in range(network.num_layers))
    if found != build.num_nodes:
        raise ApsError(
            f"{toolkit.info.title} {toolkit.version} took {found} of the file's {build.num_nodes} plugin operators as "
            "plugins; nothing was written: export with --polyphase where, which needs none."
        )
