"""Draw a large picture tile by tile, and smaller ones of it: NumPy on a cluster, values that stay on the workers.

    python examples/tiles.py
    python examples/tiles.py --size 4096 --out big
    anabranch run examples/tiles.py --size 512

The picture is the Mandelbrot set. A tile in its black middle takes many times as long as one at its edge. Chunks of a
map follow the measured pace, so all workers are busy to the end. The pictures are put together where the tiles are, and
only paths travel to this process. From each picture another of half its size is made, down to the size of a tile.
"""

import argparse
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anabranch import Flow, Parameter, task, unmapped
from anabranch.executors import DaskExecutor

TILE = 128  # pixels a side
ROUNDS = 200  # a point that stays near for so long counts as inside
LEFT, TOP, SIDE = -2.2, 1.5, 3.0  # the part of the complex plane that is drawn
# From black over blue and white to orange, as points of a gradient: place, red, green, blue.
COLOURS = np.array([(0, 0, 7, 100), (0.16, 32, 107, 203), (0.42, 237, 255, 255), (0.64, 255, 170, 0), (1, 0, 2, 30)])


@task
def corners(size: int) -> list[tuple[int, int]]:
    """The first row and column of each tile."""
    if size < TILE or size & (size - 1):
        raise ValueError(f"size must be a power of two and at least {TILE}, found {size}")
    return [(row, column) for row in range(0, size, TILE) for column in range(0, size, TILE)]


@task
def draw(corner: tuple[int, int], size: int) -> np.ndarray:
    """A tile: TILE × TILE × 3 bytes."""
    step = SIDE / size
    rows, columns = (np.arange(TILE) + first for first in corner)
    c = (LEFT + columns * step)[None, :] + 1j * (TOP - rows * step)[:, None]
    rounds = np.full(c.size, np.nan)
    left, c = np.arange(c.size), c.ravel()  # those that have not gone far away yet
    z = np.zeros_like(c)
    for number in range(ROUNDS):
        z = z * z + c
        far = np.abs(z)
        gone = far > 8
        rounds[left[gone]] = number + 1 - np.log2(np.log2(far[gone]))  # fractions make the colours run smoothly
        if gone.any():
            left, z, c = left[~gone], z[~gone], c[~gone]
    rounds = rounds.reshape(TILE, TILE)
    place = np.sqrt(np.maximum(rounds, 0) / 24) % 1
    pixels = np.stack([np.interp(place, COLOURS[:, 0], COLOURS[:, colour]) for colour in (1, 2, 3)], axis=-1)
    return np.where(np.isnan(rounds)[..., None], 0, pixels).astype(np.uint8)


@task
def put_together(tiles: list[np.ndarray]) -> np.ndarray:
    """The whole picture, from tiles in rows."""
    side = round(len(tiles) ** 0.5)
    return np.block([[[tile] for tile in tiles[row * side : (row + 1) * side]] for row in range(side)])


@task
def scale(picture: np.ndarray) -> list[np.ndarray]:
    """The picture, another of half its size, and so on, down to the size of a tile."""
    sizes = [picture]
    while len(sizes[-1]) > TILE:
        side = len(sizes[-1]) // 2
        sizes.append(sizes[-1].reshape(side, 2, side, 2, 3).mean(axis=(1, 3)).astype(np.uint8))
    return sizes


@task
def write(picture: np.ndarray, folder: str) -> str:
    """Write a picture to a PNG file. Returns the path."""
    path = Path(folder) / f"mandelbrot-{len(picture)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture))
    return str(path)


def png(picture: np.ndarray) -> bytes:
    """The bytes of a PNG file: a header, the rows with a zero byte before each, an end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # eight bits for each of three colours
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 6)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


with Flow("tiles") as flow:
    size = Parameter("size", default=1024, type=int)
    folder = Parameter("out", default="tiles", type=str)
    tiles = draw.map(corners(size), unmapped(size))
    pictures = write.map(scale(put_together(tiles)), unmapped(folder))


def main(arguments: Sequence[str] | None = None) -> str | None:
    """Run the flow, and print where the pictures are. Returns the problems."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="pixels a side, a power of two (default: %(default)s)")
    parser.add_argument("--out", default="tiles", help="directory of the pictures (default: %(default)s)")
    parser.add_argument("--address", help="of a Dask scheduler; default: a cluster of this machine's cores")
    given = parser.parse_args(arguments)

    state = flow.run(executor=DaskExecutor(given.address), size=given.size, out=given.out)
    if not state.is_successful():
        return state.message
    print(f"{len(state.result[tiles].map_states)} tiles of {TILE} × {TILE} pixels, drawn and put together:")
    for path in state.result[pictures].result:
        print(f"  {path}")
    return None


if __name__ == "__main__":  # worker processes import this file; they must not run it
    raise SystemExit(main())  # a text is printed to standard error, and the exit code is 1
