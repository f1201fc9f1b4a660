"""How the work is divided: block sizes and grids from shapes alone, the same for tensors and for plugins.

None of the sizes changes a bit, but for the number of lanes: it sets the tree by which an energy's channels are added,
and follows from the number of channels alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Values of a tile, a power of two: 16 a thread, loaded before the first is needed.
_TILE = 2048
# Blurred values of a tile: each needs f * f loads, so fewer of them.
_BLURRED_TILE = 512
_MOST_LANES = 32
_MOST_BLURRED_LANES = 8
_FEWEST_PIXELS, _MOST_PIXELS = 16, 1024
# Values that one program copies, or blurs.
_BLOCK, _BLURRED_BLOCK = 1024, 512
# Energies and maxima that a program of the score takes at a time.
_BLOCK_ENERGIES = 2048
_BLOCK_MAXIMA = 1024
_MOST_PARTS = 32


@dataclass(frozen=True)
class EnergyTile:
    """The tile of `energies.energy` or `energies.blurred_energy`.

    Attributes:
        block_pixels: pixels of a program, a power of two; as many energies have one block maximum.
        log_lanes: 2**log_lanes channels are loaded at a time.
    """

    block_pixels: int
    log_lanes: int

    def constants(self) -> dict[str, Any]:
        """Return the kernel's constants that describe the tile."""
        return {"BLOCK_PIXELS": self.block_pixels, "LOG_LANES": self.log_lanes}


def energy_tile(channels: int, pixels: int, filter_size: int = 1) -> EnergyTile:
    """Return the tile for maps of so many channels and pixels."""
    most_lanes, values = (_MOST_LANES, _TILE) if filter_size == 1 else (_MOST_BLURRED_LANES, _BLURRED_TILE)
    lanes = min(most_lanes, power_of_two_from(channels))
    wanted = min(values // lanes, power_of_two_from(pixels), _MOST_PIXELS)
    return EnergyTile(max(wanted, _FEWEST_PIXELS), lanes.bit_length() - 1)


def num_parts(height: int, width: int, stride: int) -> int:
    """Return how many programs share the score of an image: a power of two, 1 to 32."""
    positions = (height // stride) * (width // stride)
    return min(_MOST_PARTS, power_of_two_from(num_blocks(positions, score_constants(stride)["BLOCK_POSITIONS"])))


def copying_block(filter_size: int = 1) -> int:
    """Return how many values a program of `taking` writes."""
    return _BLOCK if filter_size == 1 else _BLURRED_BLOCK


def score_constants(stride: int) -> dict[str, int]:
    """Return the block sizes of `scores.score`."""
    components = power_of_two_from(stride**2)
    return {
        "BLOCK_POSITIONS": _BLOCK_ENERGIES // components,
        "BLOCK_COMPONENTS": components,
        "BLOCK_MAXIMA": _BLOCK_MAXIMA,
    }


def power_of_two_from(number: int) -> int:
    """Return the smallest power of two that is not below ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def num_blocks(number: int, block: int) -> int:
    """Return how many blocks hold ``number``."""
    return -(-number // block)
