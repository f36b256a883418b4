"""The number of shards, and the shard of each region.

The shard is the low bits of a digest, and the number n of shards is a power of two: shards are of similar size, new
images do not move the regions of others, and when n doubles, shards k and k + n together hold what shard k held.
"""

from __future__ import annotations

from pipeline.config import Config
from pipeline.elements import Region, digest
from pipeline.planning.geometry import pixel_bytes, region_size

# Approximate bytes per byte of pixels for photographs and slides; decides only the number of shards.
_ENCODED = {"png": 0.5, "jpeg": 0.12, "raw": 1.0}

_RECORD_OVERHEAD = 300


def patch_bytes(config: Config) -> int:
    """Returns the estimated bytes of a record."""
    height, width = config.patch.size
    pixels = height * width * (1 + len(config.patch.scales))
    return int(pixels * pixel_bytes(config.input) * _ENCODED[config.output.encoding]) + _RECORD_OVERHEAD


def shard_count(patches: int, patch_bytes: int, shard_bytes: int) -> int:
    """Returns the smallest number of shards, a power of two, whose estimated size stays within ``shard_bytes``.

    >>> [shard_count(patches, patch_bytes=98_604, shard_bytes=10_000_000) for patches in (0, 100, 102, 205)]
    [1, 1, 2, 4]
    """
    shards = -(-patches * patch_bytes // shard_bytes)
    return 1 << max(0, shards - 1).bit_length()


def shard_of(region: Region, shards: int, seed: int) -> int:
    """Returns the shard of a region: the low bits of the sum of its image's digest and its number in the image.

    So one large image is dealt over the shards like cards; with a digest for each region the largest of 256 shards
    would have nearly three times its share of 1,200 regions.
    """
    image, (height, width) = region.image, region_size(region.image)
    number = region.row // height * -(-image.width // width) + region.col // width
    return (digest(seed, "shard", image.image_id) + number) & (shards - 1)


def place_of_region(region: Region, seed: int) -> int:
    """Returns a 32-bit number that orders the regions of a shard, whatever the number of shards.

    It is the number of the region's shard among 2 ** 32 with its bits reversed: the low bits, which decide the shard,
    come first.
    """
    return bits_turned(shard_of(region, 1 << 32, seed))


def bits_turned(number: int) -> int:
    """Returns a 32-bit number with its bits reversed.

    >>> hex(bits_turned(0x3)), hex(bits_turned(0x80000000))
    ('0xc0000000', '0x1')
    """
    return int(f"{number:032b}"[::-1], 2)
