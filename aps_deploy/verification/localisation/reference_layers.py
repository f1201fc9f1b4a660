"""The outputs of the reference's modules, for an image or for inputs that are given to each layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aps_deploy.plugins.switch import without_kernels
from aps_deploy.verification.comparing import Images
from aps_deploy.verification.references.checkpoint import CheckpointReference

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class ModuleOutputs:
    """What the innermost modules of a network make.

    Attributes:
        outputs: by module path, in the order of the calls; of a module that is called twice, the first.
        products: for each batch norm that follows a convolution, the path of that convolution: an exported file has
            one node for the two.
        multiplying: paths of the convolutions, blurs and matrix products.
    """

    outputs: dict[str, Array]
    products: dict[str, str]
    multiplying: frozenset[str]

    def layers(self) -> tuple[str, ...]:
        """Return the modules that complete a layer of an exported file, in order."""
        inner = set(self.products.values())
        return tuple(
            name for name in self.outputs if name in self.products or (name in self.multiplying and name not in inner)
        )


def module_outputs(
    reference: CheckpointReference,
    images: Images,
    forced: npt.NDArray[np.int64] | None,
    given: Mapping[str, Array] | None = None,
) -> ModuleOutputs:
    """Return what every innermost module of the reference makes.

    Args:
        reference: float32; it is not changed.
        images: (N, 3, H, W).
        forced: (N, L) indices to select by; None lets the reference choose.
        given: inputs that modules get instead of their own, by path: what the file gave this layer. One of another
            shape is not used.
    """
    import torch
    from torch import nn

    from aps_deploy.layers import Blur
    from aps_deploy.runtimes.torch_session import full_float32

    outputs: dict[str, Array] = {}
    products: dict[str, str] = {}
    last: list[str] = []
    multiplying: set[str] = set()
    handles: list[Any] = []
    device = next(reference.model.parameters()).device

    def watch(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            wanted = (given or {}).get(name)
            if wanted is None or name in outputs or tuple(arguments[0].shape) != wanted.shape:
                return None
            return (torch.from_numpy(np.array(wanted, np.float32)).to(device), *arguments[1:])

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor) and name not in outputs:
                outputs[name] = output.detach().cpu().numpy()
                if isinstance(module, nn.BatchNorm2d) and last:
                    products[name] = last[-1]
                elif isinstance(module, nn.Conv2d):
                    last[:] = [name]

        handles.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

    for name, module in reference.model.named_modules():
        if not list(module.children()):
            watch(name, module)
        if isinstance(module, (nn.Conv2d, nn.Linear, Blur)):
            multiplying.add(name)
    try:
        # Without the kernels: they would never make the blurred maps that are taken here.
        with torch.inference_mode(), full_float32(), without_kernels():
            indices = None if forced is None else torch.from_numpy(np.array(forced)).to(device)
            reference.model.forward_with_selection(torch.from_numpy(np.array(images)).to(device), indices)
    finally:
        for handle in handles:
            handle.remove()
    return ModuleOutputs(outputs, products, frozenset(multiplying))
