"""The demonstration's picture: how often a prediction changes, for every shift of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from aps_deploy.files import atomic_path

_INK, _QUIET = "#1f2933", "#65727f"


def save_heat_maps(path: Path, maps: dict[str, npt.NDArray[np.float64]], num_images: int) -> None:
    """Draw one heat map per network, side by side on one scale.

    Args:
        path: PNG file to write.
        maps: title to (H, W) shares in 0..1 of images whose prediction changes under the shift (dy, dx).
        num_images: images behind the shares.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    top = max(0.01, *(float(np.nanmax(shares)) for shares in maps.values()))
    figure = Figure(figsize=(4.4 * len(maps) + 0.9, 4.9), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    image = None
    for axis, (title, shares) in zip(axes, maps.items(), strict=True):
        height, width = shares.shape
        # Centred, so that small shifts lie in the middle and the picture wraps around at its border.
        centred = np.roll(shares, (height // 2, width // 2), axis=(0, 1))
        extent = (-width / 2 - 0.5, width / 2 - 0.5, height / 2 - 0.5, -height / 2 - 0.5)
        image = axis.imshow(
            100 * centred, cmap="magma_r", vmin=0, vmax=100 * top, extent=extent, interpolation="nearest"
        )
        changed = float(np.nanmean(shares.ravel()[1:]))
        axis.set_title(f"{title}\n{changed:.1%} of predictions change", fontsize=11, color=_INK)
        axis.set_xlabel("shift to the right, pixels", fontsize=9, color=_QUIET)
        axis.tick_params(labelsize=8, colors=_QUIET)
        for spine in axis.spines.values():
            spine.set_visible(False)
    axes[0].set_ylabel("shift down, pixels", fontsize=9, color=_QUIET)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), shrink=0.85, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(f"images whose prediction changes, % of {num_images}", fontsize=9, color=_QUIET)
    bar.ax.tick_params(labelsize=8, colors=_QUIET)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
