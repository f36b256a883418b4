"""Compares patchbeam with the bare codecs and with a plain tf.data script, on one large tiled TIFF, in one run.

    python benchmarks/large_image.py [--side 20000] [--encoding jpeg|png] [--repeats 3]

The picture is a mosaic of the sample images in JPEG tiles; every contender makes patches of 256 x 256:

- floor: imagecodecs decodes every tile and encodes every patch in memory, in one thread; the time is divided by the
  number of cores. Nothing is cut, measured, framed or written.
- patchbeam: ``pipeline.shards.write_shards.write_shard`` writes a whole shard on all cores, after TensorFlow started.
- tf.data: tifffile's array, ``tf.image.extract_patches``, ``tf.io.encode_*`` and ``TFRecordWriter`` with parallel maps,
  as the documentation of TensorFlow suggests; it holds the whole picture in memory.
- command: ``patchbeam build`` as a user runs it, including the start-up of Beam and TensorFlow and the analysis.

Each contender runs in its own process, so that the peak of memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

PATCH = 256


def measured(work, pixels: int) -> dict:
    """Runs ``work() -> patches`` and returns wall and CPU seconds, megapixels per second and the peak of memory."""
    usage = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu, start = usage(), time.perf_counter()
    patches = work()
    wall, cpu = time.perf_counter() - start, usage() - cpu
    peak = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
    return {"patches": patches, "wall_s": wall, "cpu_s": cpu, "mp_per_s": pixels / 1e6 / wall, "peak_bytes": peak}


def floor(path: str, side: int, encoding: str, repeats: int) -> list[dict]:
    import tifffile

    from transforms.encoding import encode_patch

    page = tifffile.TiffFile(path).pages[0]

    def work():
        segments = page.segments(maxworkers=1, sort=False)  # decodes in this thread, one tile at a time
        return sum(len(encode_patch(tile[0], encoding)) > 0 for tile, _, _ in segments)

    return [measured(work, side * side) for _ in range(repeats)]


def shard(path: str, side: int, encoding: str, repeats: int) -> list[dict]:
    import tensorflow as tf

    from pipeline.config import Config
    from pipeline.elements import ImageInfo, ShardPlan
    from pipeline.parallel import limit_tensorflow_threads
    from pipeline.planning.geometry import regions_of
    from pipeline.readers import open_image
    from pipeline.shards.write_shards import write_shard

    config = Config.model_validate(
        {"input": {"images": path}, "output": {"path": "x", "encoding": encoding}, "patch": {"size": PATCH}}
    )
    layout = open_image(path).layout
    blocks = (layout.block_height, layout.block_width)
    info = ImageInfo("mosaic.tif", path, "", layout.height, layout.width, *blocks, "train", "", "")
    plan = ShardPlan("train", 0, 1, tuple(regions_of(info, config)))
    cores = os.cpu_count() or 1
    limit_tensorflow_threads(cores)
    tf.zeros(1)
    results = []
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as out:
        for _ in range(repeats):
            spent: dict[str, int] = {}

            def work(spent=spent):
                result, milliseconds = write_shard(plan, config, out, cores)
                spent.update(milliseconds)
                return result.records

            results.append(measured(work, side * side) | {"spent": spent})
    return results


def tf_data(path: str, side: int, encoding: str, repeats: int) -> list[dict]:
    import tensorflow as tf
    import tifffile

    encode = {"jpeg": lambda p: tf.io.encode_jpeg(p, quality=95), "png": tf.io.encode_png}[encoding]

    def cut(strip):
        sizes = [1, PATCH, PATCH, 1]
        patches = tf.image.extract_patches(strip[None], sizes, sizes, [1, 1, 1, 1], "SAME")
        return tf.data.Dataset.from_tensor_slices(tf.reshape(patches, [-1, PATCH, PATCH, 3]))

    def record(patch):
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[patch]))
        return tf.train.Example(features=tf.train.Features(feature={"image": feature})).SerializeToString()

    def work():
        image = tifffile.imread(path)
        strips = tf.data.Dataset.range(0, side, PATCH).map(
            lambda row: tf.numpy_function(lambda r: image[r : r + PATCH], [row], tf.uint8)
        )
        strips = strips.map(lambda s: tf.ensure_shape(s, [None, side, 3]))
        encoded = strips.flat_map(cut).map(encode, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
        count = 0
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as out:
            with tf.io.TFRecordWriter(f"{out}/patches.tfrecord") as writer:
                for patch in encoded.as_numpy_iterator():
                    writer.write(record(patch))
                    count += 1
        return count

    return [measured(work, side * side) for _ in range(repeats)]


def command(path: str, side: int, encoding: str, repeats: int) -> list[dict]:
    def work():
        quickstart = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.yaml"
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as out:
            arguments = ["build", str(quickstart), "--input", path, "--output", out, "--set", "splits={train: 1}"]
            arguments += ["--set", f"output.encoding={encoding}"]
            subprocess.run([sys.executable, "-m", "patchbeam", *arguments], check=True, capture_output=True)
        return (-(-side // PATCH)) ** 2

    return [measured(work, side * side)]


CONTENDERS = {"floor": floor, "patchbeam": shard, "tf.data": tf_data, "command": command}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--encoding", choices=["jpeg", "png"], default="jpeg")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        print(json.dumps(CONTENDERS[given.contender](given.path, given.side, given.encoding, given.repeats)))
        return
    from mosaic import write_mosaic

    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "mosaic.tif")
        write_mosaic(path, given.side)
        print(f"{given.side} x {given.side}, {os.path.getsize(path) / 1e6:.0f} MB, {given.encoding}, {cores} cores")
        best = {}
        for name in CONTENDERS:
            arguments = ["--contender", name, "--path", path, "--side", str(given.side), "--encoding", given.encoding]
            run = [sys.executable, __file__, *arguments, "--repeats", str(given.repeats)]
            environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(run, capture_output=True, text=True, env=environment)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            results = json.loads(done.stdout.splitlines()[-1])
            best[name] = min(results, key=lambda result: result["wall_s"])
            print(_line(name, best[name], best["floor"]["wall_s"] / cores))
    spent = ", ".join(f"{name} {count}" for name, count in best["patchbeam"]["spent"].items())
    print(f"patchbeam, over all threads: {spent}")


def _line(name: str, result: dict, floor_wall: float) -> str:
    return (
        f"{name:<10} wall {result['wall_s']:6.2f} s  CPU {result['cpu_s']:6.2f} s  {result['mp_per_s']:6.1f} MP/s  "
        f"{result['patches'] / result['wall_s']:7.0f} patches/s  peak {result['peak_bytes'] / 1e9:5.2f} GB  "
        f"{floor_wall / result['wall_s']:4.0%} of the floor on all cores"
    )


if __name__ == "__main__":
    main()
