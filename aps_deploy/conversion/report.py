"""What a conversion replaced, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampled:
    """One strided module that now selects.

    Attributes:
        module: its path in the original network.
        stride: it had.
        layers: paths of the selecting layers in the converted network, one for each factor of two.
        followers: strided modules that take the same choice, such as the shortcut of a residual block.
        filter_size: of the blur before the selection, the one asked for or the module's own; 1 is none.
    """

    module: str
    stride: int
    layers: tuple[str, ...]
    followers: tuple[str, ...]
    filter_size: int


@dataclass(frozen=True)
class ConversionReport:
    """What `aps_deploy.convert` replaced; ``str`` of it is a text of one line each.

    Attributes:
        sampled: strided modules that choose a component now.
        circular: modules without a stride whose padding wraps now.
        pooled: global poolings that are exact now.
        products: linear layers that became position-free: classifiers, and layers of single pixels.
        new_head: classes of the new classifier, where ``head="gap"`` made one; its weights are not trained.
        position_dependent: activations whose last bits depend on the position in PyTorch on a CPU, module and name; the
            converted network is bit-identical under shifts in ONNX Runtime, and in PyTorch only up to those bits.
    """

    sampled: tuple[Sampled, ...]
    circular: tuple[str, ...]
    pooled: tuple[str, ...]
    products: tuple[str, ...]
    new_head: int | None
    position_dependent: tuple[str, ...]

    def __str__(self) -> str:
        lines = []
        for each in self.sampled:
            follow = f"; {', '.join(each.followers)} follow{'s' * (len(each.followers) == 1)}" * bool(each.followers)
            blur = f", blurred by {each.filter_size} taps" * (each.filter_size > 1)
            lines.append(f"{each.module}: stride {each.stride} became {' and '.join(each.layers)}{blur}{follow}")
        lines.append(f"circular padding in {len(self.circular)} more modules")
        lines.append(f"exact pooling: {', '.join(self.pooled)}")
        lines.append(f"{len(self.products)} linear layers are computed free of positions")
        if self.new_head is not None:
            lines.append(f"new classifier of {self.new_head} classes, not trained")
        if self.position_dependent:
            kinds = sorted({entry.rsplit(": ", 1)[1] for entry in self.position_dependent})
            lines.append(
                f"{', '.join(kinds)} on {len(self.position_dependent)} maps: in PyTorch on a CPU the last bits depend "
                "on the position, in ONNX Runtime they do not"
            )
        return "\n".join(lines)
