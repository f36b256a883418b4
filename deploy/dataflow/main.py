"""Starts a build as a Dataflow Flex Template: submits the job and ends. ``patchbeam build`` publishes the result.

A launcher does not start the job itself. It makes Beam write the description of the job to ``--template_location``, and
Dataflow starts the job only after this program has ended, so the program cannot wait for it. When the job is done,
``patchbeam build`` with the same configuration finds all shards finished and publishes. See docs/dataflow.md.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import sys
import tempfile
from typing import Any

from pipeline import storage
from pipeline.build import begin, find_previous, make_pipeline, unchanged
from pipeline.config import Config, load_config
from pipeline.errors import UsageError
from pipeline.inputs.listing import find_images
from pipeline.runners.options import parse_options
from pipeline.versions import lease


def main(arguments: list[str] | None = None) -> None:
    """Takes the parameters of metadata.json; all other flags are Beam options, which the launcher passes on."""
    parser = argparse.ArgumentParser(prog="main.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="URI", help="The configuration: a YAML file.")
    parser.add_argument("--input", metavar="PATTERN", help="Replaces input.images.")
    parser.add_argument("--output", metavar="FOLDER", help="Replaces output.path.")
    known, flags = parser.parse_known_args(arguments)
    try:
        config = read_config(known.config, known.input, known.output)
        folder = submit(config, parse_options(flags, config.beam))
    except UsageError as error:
        sys.exit(f"patchbeam: {error}")
    if folder is None:
        sys.exit(f"patchbeam: nothing changed since the build that is published in {config.output.path}: no job")
    print(f"patchbeam: the job writes to {folder}; when it is done, patchbeam build publishes it")


def read_config(uri: str, images: str | None, output: str | None) -> Config:
    """Reads the configuration from a local path or a bucket."""
    with tempfile.TemporaryDirectory() as folder:
        path = uri
        if not storage.is_local(uri):
            path = os.path.join(folder, posixpath.basename(uri))
            with open(path, "wb") as file:
                file.write(storage.read_bytes(uri))
        return load_config(path, images=[images] if images else [], output=output)


def submit(config: Config, options: Any) -> str | None:
    """Submits the job that ``patchbeam build`` would run, without waiting for it.

    Returns:
        The folder of the version that the job writes, which is that of an unfinished build if there is one; None if
        the published version has the same images and configuration.
    """
    config, listing = find_images(config)
    with lease.hold(config.output.path):
        if unchanged(config, listing):
            return None
        version = begin(config, listing)
        make_pipeline(config, options, version, listing.images, find_previous(config)).run()
    return version.folder


if __name__ == "__main__":
    main()
