"""How many shards there are, and in which of them a region lies.

The shard is the low bits of a digest and the number of shards a power of two: shards come out alike in size, new images
do not move the regions of others, and when the number doubles, shard k and shard k + n hold together what shard k held.
"""

from __future__ import annotations

from pipeline.config import Config
from pipeline.elements import Region, digest
from pipeline.planning.geometry import pixel_bytes, region_size

# Bytes per byte of pixels, roughly, of photographs and slides; decides the number of shards and nothing else.
_ENCODED = {"png": 0.5, "jpeg": 0.12, "raw": 1.0}

_RECORD_OVERHEAD = 300


def patch_bytes(config: Config) -> int:
    """Estimated bytes of a record."""
    height, width = config.patch.size
    pixels = height * width * (1 + len(config.patch.scales))
    return int(pixels * pixel_bytes(config.input) * _ENCODED[config.output.encoding]) + _RECORD_OVERHEAD


def shard_count(patches: int, patch_bytes: int, shard_bytes: int) -> int:
    """The smallest power of two of shards whose estimated size stays within ``shard_bytes``.

    >>> [shard_count(patches, patch_bytes=98_604, shard_bytes=10_000_000) for patches in (0, 100, 102, 205)]
    [1, 1, 2, 4]
    """
    shards = -(-patches * patch_bytes // shard_bytes)
    return 1 << max(0, shards - 1).bit_length()


def shard_of(region: Region, shards: int, seed: int) -> int:
    """The shard of a region: the low bits of the digest of its image, counted on by one from region to region.

    So one large image goes over the shards like cards; with a digest for each region the largest of 256 shards would
    have nearly three times what is its due of 1,200 regions.
    """
    image, (height, width) = region.image, region_size(region.image)
    number = region.row // height * -(-image.width // width) + region.col // width
    return (digest(seed, "shard", image.image_id) + number) & (shards - 1)


def place_of_region(region: Region, seed: int) -> int:
    """A number of 32 bits by which the regions of a shard follow each other, whatever the number of shards.

    It is the number of the region's shard among 2 ** 32, with its bits turned around: the low bits, which decide the
    shard, come first.
    """
    return bits_turned(shard_of(region, 1 << 32, seed))


def bits_turned(number: int) -> int:
    """
    >>> hex(bits_turned(0x3)), hex(bits_turned(0x80000000))
    ('0xc0000000', '0x1')
    """
    return int(f"{number:032b}"[::-1], 2)
