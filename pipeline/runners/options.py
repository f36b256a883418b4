"""The options of the runners: they are checked, and by default choose a local runner on all cores."""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.parallel import cores

_LOCAL = ("direct", "fnapi")


def parse_options(flags: list[str], configured: Mapping[str, Any] | None = None) -> Any:
    """Parses Beam options; the default is the local runner with a thread for every core.

    Args:
        flags: from the command line.
        configured: from the configuration, ``{"region": "europe-west4", "experiments": ["a", "b"], "dry_run": True}``.
            An option that both give is taken from the command line.

    Raises:
        ConfigError: for flags that Beam does not know, which Beam itself would drop with a warning.
    """
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.runners.runner import create_runner

    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for cls in {cls.__name__: cls for cls in _subclasses(PipelineOptions)}.values():
        if "_add_argparse_args" in vars(cls):
            cls._add_argparse_args(parser)
    given = option_names(flags)
    flags = [*_as_flags({k: v for k, v in (configured or {}).items() if k not in given}, parser), *flags]
    try:
        _, unknown = parser.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise ConfigError(f"Beam options: {error}") from error
    if unknown:
        raise ConfigError(f"Beam options: {' '.join(unknown)}: not known to Beam; see patchbeam build --help")
    options = PipelineOptions(flags)
    if not runs_locally(options):
        try:
            create_runner(options.view_as(StandardOptions).runner)
        except (ValueError, ImportError, AttributeError) as error:
            raise ConfigError(f"Beam options: --runner={options.view_as(StandardOptions).runner}: {error}") from error
    else:
        options.view_as(StandardOptions).runner = "FnApiRunner"
        direct = options.view_as(DirectOptions)
        if not any(flag.startswith("--direct_num_workers") for flag in flags) or not direct.direct_num_workers:
            direct.direct_num_workers = cores()  # 0 means all cores, too
        if not any(flag.startswith("--direct_running_mode") for flag in flags):
            direct.direct_running_mode = "multi_threading" if direct.direct_num_workers != 1 else "in_memory"
    return options


def complete_options(flags: Iterable[str], configured: Mapping[str, Any]) -> Any:
    """Returns Beam's options as a build needs them: checked, and for Flink completed with what the cluster reports.

    Args:
        flags: from the command line.
        configured: from the configuration.

    Raises:
        ConfigError: as :func:`parse_options` does.
        ClusterError: if no Flink cluster answers.
    """
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    options = parse_options(list(flags), configured)
    if is_flink(options):
        from pipeline.runners import flink

        flink.complete_options(options, option_names(flags) | configured.keys())
    return options


def option_names(flags: Iterable[str]) -> set[str]:
    """Returns the names of the options that flags give: ``--region=here`` gives ``region``."""
    return {flag.partition("=")[0].lstrip("-") for flag in flags}


def _as_flags(options: Mapping[str, Any], parser: argparse.ArgumentParser) -> Iterator[str]:
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                yield f"--{name}"
            elif one is False:
                yield from _switched_off(name, parser)
            else:
                yield f"--{name}={one}"


def _switched_off(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields the flag that makes an option false; none where it is false anyway."""
    actions = [action for action in parser._actions if action.dest == name]
    if not actions:
        yield f"--{name}=False"  # Beam does not know it, which the error will say
    yield from (action.option_strings[0] for action in actions if isinstance(action, argparse._StoreFalseAction))


def _subclasses(cls: Any) -> list[Any]:
    return [cls, *itertools.chain.from_iterable(_subclasses(below) for below in cls.__subclasses__())]


def runs_locally(options: Any) -> bool:
    """Returns whether the pipeline runs on this machine, started by this process."""
    from apache_beam.options.pipeline_options import StandardOptions

    name = options.view_as(StandardOptions).runner or "DirectRunner"
    return name.lower().removesuffix("runner") in _LOCAL


def is_flink(options: Any) -> bool:
    """Returns whether the pipeline runs on Flink."""
    from apache_beam.options.pipeline_options import StandardOptions

    return (options.view_as(StandardOptions).runner or "").lower() == "flinkrunner"


def threads_per_process(options: Any) -> int | None:
    """Returns the number of threads that cut and encode in each worker process; None if workers are other machines."""
    from apache_beam.options.pipeline_options import DirectOptions

    if not runs_locally(options):
        return None
    direct = options.view_as(DirectOptions)
    processes = direct.direct_num_workers if direct.direct_running_mode == "multi_processing" else 1
    return max(1, cores() // processes)
