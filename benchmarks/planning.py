"""Time and memory of a plan for very many images in an input manifest, or for very large ones; no file has to exist.

    python benchmarks/planning.py 1000000            # photographs of 400 to 1,200 pixels a side
    python benchmarks/planning.py 10000 36000        # slides of 36,000 x 36,000 pixels
    python benchmarks/planning.py 1 200000

Prints the seconds and the peak of the resident memory of all processes in each step, and how evenly the patches are
spread over the shards. The plan is then made again, with all headers known from a previous version.
"""

import contextlib
import os
import sys
import tempfile
import threading
import time
import types

import apache_beam as beam
import psutil

from pipeline import storage
from pipeline.build import plan_flow
from pipeline.config import Config
from pipeline.elements import Previous, digest
from pipeline.inputs import listing
from pipeline.planning import inspect_images
from pipeline.planning.image_rows import read_images
from pipeline.planning.plan_shards import largest_to_mean, read_plan, shard_patches
from pipeline.readers import Layout
from pipeline.runners.options import parse_options
from pipeline.runners.run import make_runner


def configure(folder, manifest):
    return Config.model_validate(
        {
            "input": {"manifest": manifest},
            "output": {"path": f"{folder}/out", "shard_size": "256MB"},
            "splits": {"train": 0.8, "validation": 0.2},
            "patch": {"size": 256},
        }
    )


def write_manifest(path, rows):
    with open(path, "w") as file:
        file.write("uri,label,group,age\n")
        file.writelines(f"{i % 997:03d}/{i:07d}.jpg,{i % 10},patient{i // 7},{i % 90}\n" for i in range(rows))


def pretend(side):
    """Fakes all files: headers of ``side`` x ``side`` tiled images or, if it is 0, photographs of various sizes."""
    storage.fingerprints = lambda uris: ["1-1"] * len(uris)

    def open_to_scale(uri, *_):
        name = os.path.basename(uri)
        height, width = (side, side) if side else (400 + digest("h", name) % 800, 400 + digest("w", name) % 800)
        layout = Layout(height, width, 3, "uint8", *((256, 256) if side else (height, width)))
        return types.SimpleNamespace(layout=layout, close=lambda: None)

    inspect_images.open_to_scale = open_to_scale


def resident():
    """Returns the resident bytes of this process and of those that it started."""
    total = 0
    for one in [process := psutil.Process(), *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


@contextlib.contextmanager
def measured(what):
    """Prints the seconds of the block and its peak of memory, sampled ten times a second."""
    peak, stop, start = resident(), threading.Event(), time.perf_counter()

    def look():
        nonlocal peak
        while not stop.wait(0.1):
            peak = max(peak, resident())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    print(f"{what:<10}{time.perf_counter() - start:.1f} s, peak {peak / 1e9:.2f} GB", flush=True)


def main(images, side=0, *flags):
    pretend(side)
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(f"{folder}/m.csv", images)
        print(f"{images:,} images; at the start {resident() / 1e9:.2f} GB")
        with measured("listing"):
            config, found = listing.find_images(configure(folder, f"{folder}/m.csv"))
            found.save(f"{folder}/inputs.parquet")
        options = parse_options(list(flags))
        p = beam.Pipeline(runner=make_runner(options), options=options)
        plan_flow(p, config, f"{folder}/inputs.parquet", found.images, folder)
        with measured("plan"):
            p.run().wait_until_finish()
            plan = read_plan(folder)
            uneven = {split: largest_to_mean(shard_patches(folder, split, facts)) for split, facts in plan.items()}
        for split, facts in plan.items():
            print(f"{split:<10}{facts}, largest/mean {uneven[split]:.3f}")
        before = Previous(f"{folder}/before", {})
        storage.copy(f"{folder}/inputs.parquet", f"{before.folder}/inputs.parquet")
        storage.write_table(f"{before.folder}/images.parquet", read_images(folder, found.images))
        p = beam.Pipeline(runner=make_runner(options), options=options)
        plan_flow(p, config, f"{folder}/inputs.parquet", found.images, folder, before)
        with measured("again"):
            p.run().wait_until_finish()


if __name__ == "__main__":
    main(*(int(given) if given.isdigit() else given for given in sys.argv[1:]))
