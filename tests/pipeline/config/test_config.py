"""Every wrong configuration answers with the key, the value and what is allowed; the digest follows the content."""

import os
import subprocess
import sys

import pytest
from helpers import REPO
from pydantic import BaseModel

from pipeline.config import Config, Constant, Regex, load_config
from pipeline.errors import ConfigError

CREDENTIALS = "credentials come from the environment, the files of the cloud's tools or the machine, never from here"
MINIMAL = "input: {images: a.png}\noutput: {path: out}\n"


def write(folder, text):
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def error_of(folder, text, overrides=(), **arguments):
    """The message, without the path of the file."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, **arguments)
    return str(caught.value).replace(path, "FILE")


def section(**values):
    """YAML of a configuration whose input, output or patch have these values."""
    parts = {"input": {"images": "a.png"}, "output": {"path": "out"}}
    for key, value in values.items():
        name, _, below = key.partition("__")
        parts.setdefault(name, {})[below] = value
    return "".join(f"{name}: {{{', '.join(f'{k}: {v}' for k, v in keys.items())}}}\n" for name, keys in parts.items())


def test_the_smallest_configuration_has_these_defaults(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert config.model_dump() == {
        "input": {
            "images": ("a.png",), "manifest": None, "columns": None, "root": None, "fingerprint": "stat", "level": 0,
            "mpp": None, "gsd": None, "page": None, "bands": (), "convert": "as-is", "depth": "exact",
            "max_seconds": 120, "channels": 3, "dtype": "uint8", "range": None, "rasters": {}, "points": None,
            "label": None, "group": "image",
        },
        "output": {
            "path": "out", "encoding": "png", "quality": 95, "shard_size": 256_000_000, "order": "shuffled",
        },
        "patch": {
            "size": (256, 256), "stride": None, "dilation": (1, 1), "origin": (0, 0), "edge": ("pad", "pad"),
            "pad_mode": ("reflect", "reflect"), "pad_value": 0, "crops": None, "scales": (), "cover": {},
            "label": None, "stain": None,
        },
        "quality": None,
        "augment": None,
        "splits": {"train": 1.0},
        "seed": 0,
        "max_rejected": 0.01,
        "gates": None,
        "workers": {
            "device": "auto", "processes_per_gpu": 1, "windows_per_gpu": 2, "accelerator": None, "min_ram": None,
        },
        "beam": {},
    }  # fmt: skip
    assert config.patch.steps == (256, 256)
    assert config.training_split == "train"


def test_everything_that_is_written_arrives(tmp_path):
    config = load_config(
        write(
            tmp_path,
            """
input:
  images: [a/*.tif, b/**/*.png]
  manifest: s3://bucket/slides.csv
  columns: {age: integer, mpp: number, stain: text}
  root: /data
  level: 2
  page: 7
  bands: [4, 3, 2, 1]
  depth: scale
  max_seconds: 5.5
  fingerprint: content
  channels: 4
  dtype: uint16
  range: [0, 4095]
  rasters:
    marked:
      {file: regions, classes: {tumor: 1, pen: 2}, class_from: classification.name, coordinates: world}
    truth: {channels: 3, pad_value: 255}
    later: {file: {match: '_1', replace: '_2'}, level: 1, channels: 4, dtype: uint16}
  label: {regex: '(tumor|normal)'}
  group: folder
patch:
  {size: [64, 32], stride: [48, 16], dilation: [2, 1], origin: [0, 5], edge: [pad, shift], pad_mode: constant,
   pad_value: 65535, crops: {per_megapixel: 0.5, tries: 3}, cover: {marked: {tumor: {min: 0.5}, pen: {max: 0}}},
   label: {raster: marked, min: 0.25}}
output: {path: o, encoding: raw, quality: 50, shard_size: 64MB, order: sequential}
splits: {train: 0.7, val: 0.2, test_1: 0.1}
quality:
  {keep: {sharpness: {min: 20}, nodata: {max: 0.5, min: 0}}, duplicates: 5, tissue_threshold: 12, nodata: 0}
augment: {copies: 2, original: false, flip: true, rotation: 7.5, blur: 1, brightness: 0.1, contrast: 0.2, noise: 0.01}
seed: -5
max_rejected: 1
gates:
  {verify: true, rejected: 0.1, patches: {min: 0.9}, patches_per_label: {max: 2}, leakage: exact,
   drift: {mean: 0.1, std: 0.2, jensen_shannon_divergence: 0.3,
           labels: {infinity_norm: 0.4, jensen_shannon_divergence: 0.5}}}
workers: {device: gpu, processes_per_gpu: 3, windows_per_gpu: 4, accelerator: 'type:nvidia-l4', min_ram: 8GiB}
beam: {region: here, max_num_workers: 7, some_ratio: 0.5, dry_run: true, experiments: [a, b]}
""",
        )
    )
    assert config.model_dump() == {
        "input": {
            "images": ("a/*.tif", "b/**/*.png"), "manifest": "s3://bucket/slides.csv",
            "columns": {"age": "integer", "mpp": "number", "stain": "text"},
            "root": "/data", "fingerprint": "content", "level": 2, "mpp": None, "gsd": None, "page": 7,
            "bands": (4, 3, 2, 1), "convert": "as-is", "depth": "scale",
            "max_seconds": 5.5, "channels": 4, "dtype": "uint16", "range": (0, 4095),
            "rasters": {
                "marked": {
                    "file": "regions", "level": 0, "channels": 1, "dtype": "uint8", "pad_value": 0,
                    "classes": {"tumor": 1, "pen": 2}, "class_from": "classification.name", "coordinates": "world",
                },
                "truth": {
                    "file": "mask", "level": 0, "channels": 3, "dtype": "uint8", "pad_value": 255, "classes": {},
                    "class_from": None, "coordinates": "pixels",
                },
                "later": {
                    "file": {"match": "_1", "replace": "_2"}, "level": 1, "channels": 4, "dtype": "uint16",
                    "pad_value": 0, "classes": {}, "class_from": None, "coordinates": "pixels",
                },
            },
            "points": None,
            "label": {"regex": "(tumor|normal)"}, "group": "folder",
        },
        "patch": {
            "size": (64, 32), "stride": (48, 16), "dilation": (2, 1), "origin": (0, 5), "edge": ("pad", "shift"),
            "pad_mode": ("constant", "constant"), "pad_value": 65535,
            "crops": {"per_image": None, "per_megapixel": 0.5, "tries": 3}, "scales": (),
            "cover": {"marked": {"tumor": {"min": 0.5, "max": None}, "pen": {"min": None, "max": 0}}},
            "label": {"raster": "marked", "min": 0.25}, "stain": None,
        },
        "output": {"path": "o", "encoding": "raw", "quality": 50, "shard_size": 64_000_000, "order": "sequential"},
        "quality": {
            "keep": {"sharpness": {"min": 20, "max": None}, "nodata": {"min": 0, "max": 0.5}},
            "duplicates": 5, "tissue_threshold": 12, "nodata": 0,
        },
        "augment": {
            "copies": 2, "original": False, "flip": True, "quarter_turns": False, "rotation": 7.5, "blur": 1,
            "stain": 0, "brightness": 0.1, "contrast": 0.2, "saturation": 0, "hue": 0, "noise": 0.01,
        },
        "splits": {"train": 0.7, "val": 0.2, "test_1": 0.1},
        "seed": -5,
        "max_rejected": 1.0,
        "gates": {
            "verify": True, "rejected": 0.1, "patches": {"min": 0.9, "max": None},
            "patches_per_label": {"min": None, "max": 2}, "leakage": "exact",
            "drift": {
                "mean": 0.1, "std": 0.2, "jensen_shannon_divergence": 0.3,
                "labels": {"infinity_norm": 0.4, "jensen_shannon_divergence": 0.5},
            },
        },
        "workers": {
            "device": "gpu", "processes_per_gpu": 3, "windows_per_gpu": 4, "accelerator": "type:nvidia-l4",
            "min_ram": 8 * 2**30,
        },
        "beam": {
            "region": "here", "max_num_workers": 7, "some_ratio": 0.5, "dry_run": True, "experiments": ["a", "b"],
        },
    }  # fmt: skip
    assert config.patch.steps == (48, 16)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"convert": "gray"}, "input.channels: 3, but input.convert makes 1; set input.channels: 1"),
        ({"bands": [1, 2]}, "input.channels: 3, but input.bands makes 2; set input.channels: 2"),
        ({"bands": [2], "convert": "rgb", "channels": 1}, "input.channels: 1, but input.convert makes 3"),
    ],
)
def test_channels_have_to_be_what_the_conversion_makes(make_config, keys, message):
    with pytest.raises(ValueError, match=message):
        make_config(input=keys)


@pytest.mark.parametrize("path", sorted((REPO / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_that_is_shipped_loads(path):
    load_config(str(path))


# Of one key of one section: what is written, and the line of the error.
WRONG = {
    "input.level": [
        ("-1", "-1 is not allowed: input should be greater than or equal to 0"),
        ("1.5", "1.5 is not allowed: input should be a valid integer"),
    ],
    "input.channels": [("0", "0 is not allowed: input should be greater than or equal to 1")],
    "input.dtype": [("int8", "'int8' is not allowed: input should be 'uint8', 'uint16' or 'float32'")],
    "input.images": [
        ("5", "5 is not allowed: input should be a valid tuple"),
        ("[]", "is missing; give patterns of files, or input.manifest a table"),
    ],
    "input.root": [
        ("5", "5 is not allowed: input should be a valid string"),
        ("s3://key:word@bucket/a", f"holds a name or password before the @; {CREDENTIALS}"),
        ("'https://host/a?sig=x%2F'", f"holds a query after the ?; {CREDENTIALS}"),
    ],
    "input.manifest": [
        ("5", "5 is not allowed: input should be a valid string"),
        ("gs://who@bucket/m.csv", f"holds a name or password before the @; {CREDENTIALS}"),
    ],
    "input.columns": [
        ("{uri: text}", "{'uri': 'text'} is not allowed: 'uri' is a column of patchbeam's own, which is carried "
         "anyway"),
        ("{a/b: text}", "{'a/b': 'text'} is not allowed: 'a/b' is no name of a column; it needs printable characters "
         "without /"),
    ],
    "input.label": [
        ("{}", "{} is not allowed: use exactly one key, regex or constant"),
        ("{regex: (a), constant: b}", "{'regex': '(a)', 'constant': 'b'} is not allowed: use exactly one key, regex or "
         "constant"),
        ("{regexp: (a)}", "{'regexp': '(a)'} is not allowed: use exactly one key, regex or constant"),
    ],
    "patch.size": [
        (value, f"{shown} is not allowed: use a whole number of pixels from 1 up, or two as [rows, columns]")
        for value, shown in (("0", "0"), ("-3", "-3"), ("2.5", "2.5"), ("true", "True"), ("big", "'big'"),
                             ("'64'", "'64'"), ("[1, 2, 3]", "[1, 2, 3]"), ("[]", "[]"), ("[8, 0]", "[8, 0]"))
    ],
    "patch.stride": [
        ("0", "0 is not allowed: use a whole number of pixels from 1 up, or two as [rows, columns]"),
        ("[4, false]", "[4, False] is not allowed: use a whole number of pixels from 1 up, or two as [rows, columns]"),
    ],
    "patch.edge": [("crop", "'crop' is not allowed: use drop, pad or shift, or two of them as [rows, columns]")],
    "patch.pad_mode": [
        ("zero", "'zero' is not allowed: use reflect, symmetric, edge or constant, or two of them as [rows, columns]"),
        ("[edge, edge, edge]", "['edge', 'edge', 'edge'] is not allowed: use reflect, symmetric, edge or constant, or "
         "two of them as [rows, columns]"),
    ],
    "patch.dilation": [
        ("0", "0 is not allowed: use a whole number of pixels from 1 up, or two as [rows, columns]"),
    ],
    "patch.origin": [
        ("0.5", "0.5 is not allowed: use a whole number of pixels, or two as [rows, columns]"),
        ("[1, 2, 3]", "[1, 2, 3] is not allowed: use a whole number of pixels, or two as [rows, columns]"),
    ],
    "input.range": [
        ("5", "5 is not allowed: use the lowest and the highest value as [low, high]"),
        ("[3, 3]", "[3, 3] is not allowed: use the lowest and the highest value as [low, high]"),
        ("[a, 3]", "['a', 3] is not allowed: use the lowest and the highest value as [low, high]"),
    ],
    "quality.keep.sharpness": [
        ("{}", "{} is not allowed: use min, max or both"),
        ("{min: 3, max: 2}", "{'min': 3, 'max': 2} is not allowed: min 3 is above max 2"),
    ],
    "patch.crops": [("{}", "{} is not allowed: use one of per_image and per_megapixel")],
    "quality.duplicates": [("64", "64 is not allowed: input should be less than or equal to 63")],
    "quality.tissue_threshold": [("255", "255 is not allowed: use otsu or a whole number 0..254")],
    "patch.pad_value": [
        ("white", "'white' is not allowed: input should be a valid number"),
    ],
    "output.path": [("5", "5 is not allowed: input should be a valid string")],
    "output.encoding": [("webp", "'webp' is not allowed: input should be 'png', 'jpeg' or 'raw'")],
    "output.quality": [
        ("0", "0 is not allowed: input should be greater than or equal to 1"),
        ("101", "101 is not allowed: input should be less than or equal to 100"),
    ],
    "output.shard_size": [
        (value, f"{shown} is not allowed: use a number with a unit such as 64MB, 1GB or 256MiB")
        for value, shown in (("0", "0"), ("-1", "-1"), ("5XB", "'5XB'"), ("MB", "'MB'"), ("0.5B", "'0.5B'"),
                             ("true", "True"), ("[1]", "[1]"), ("1e9", "'1e9'"))
    ],
    "workers.device": [("tpu", "'tpu' is not allowed: input should be 'auto', 'cpu' or 'gpu'")],
    "workers.processes_per_gpu": [("0", "0 is not allowed: input should be greater than or equal to 1")],
    "workers.windows_per_gpu": [("0", "0 is not allowed: input should be greater than or equal to 1")],
    "workers.min_ram": [("much", "'much' is not allowed: use a number with a unit such as 64MB, 1GB or 256MiB")],
    "output.order": [("random", "'random' is not allowed: input should be 'shuffled' or 'sequential'")],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value", "line"), [(k, v, line) for k, rows in WRONG.items() for v, line in rows])
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(tmp_path, key, value, line):
    *above, last = key.split(".")[1:]
    nested = (
        {key.replace(".", "__"): value} if not above else {f"{key.split('.')[0]}__{above[0]}": f"{{{last}: {value}}}"}
    )
    assert error_of(tmp_path, section(**nested)) == f"FILE:\n  {key}: {line}"


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        ("ptch: {size: 64}", ["ptch: unknown key; did you mean patch?"]),
        ("patch: {sise: 64}", ["patch.sise: unknown key; did you mean size?"]),
        ("patch: {x: 64}", [
            "patch.x: unknown key; known are size, stride, dilation, origin, edge, pad_mode, pad_value, crops, scales, "
            "cover, label, stain"
        ]),
        ("foo: 3", [
            "foo: unknown key; known are input, output, patch, quality, augment, splits, seed, max_rejected, "
            "gates, workers, beam",
        ]),
        ("seed: abc", ["seed: 'abc' is not allowed: input should be a valid integer"]),
        ("gates: {patches: {}}", ["gates.patches: {} is not allowed: use min, max or both"]),
        ("gates: {leakage: perceptual}\naugment: {flip: true, original: false}", [
            "gates.leakage: perceptual looks at patches as they are; set augment.original: true",
        ]),
        ("max_rejected: 2", ["max_rejected: 2 is not allowed: input should be less than or equal to 1"]),
        ("patch: 5", ["patch: 5 is not allowed: input should be a valid dictionary or instance of Patch"]),
        ("patch:", ["patch: None is not allowed: input should be a valid dictionary or instance of Patch"]),
        ("1: 2", ["1: 1 is not allowed: keys should be strings"]),
        ("splits: [train]", ["splits: ['train'] is not allowed: input should be a valid dictionary"]),
        ("splits: {}", ["splits: {} is not allowed: the fractions add up to 0; they have to add up to 1"]),
        ("splits: {train: 0.5}", ["splits: {'train': 0.5} is not allowed: the fractions add up to 0.5; they have to "
                                  "add up to 1"]),
        ("splits: {train: 0.9, val: 0.2}", ["splits: {'train': 0.9, 'val': 0.2} is not allowed: the fractions add up "
                                            "to 1.1; they have to add up to 1"]),
        ("splits: {train: 1.5, val: -0.5}", [
            "splits.train: 1.5 is not allowed: input should be less than or equal to 1",
            "splits.val: -0.5 is not allowed: input should be greater than or equal to 0",
        ]),
        *[
            (f"splits: {{{name}: 1}}", [f"splits: {{'{name}': 1}} is not allowed: the name '{name}' may hold only "
                                        "a-z, 0-9 and _, and starts with a letter"])
            for name in ("Train", "test-a", "a b", "_x", "é", "a/b")
        ],
        ("patch: {edge: crop, sise: 3}\nseed: x", [
            "patch.edge: 'crop' is not allowed: use drop, pad or shift, or two of them as [rows, columns]",
            "patch.sise: unknown key; did you mean size?",
            "seed: 'x' is not allowed: input should be a valid integer",
        ]),
    ],
)  # fmt: skip
def test_wrong_keys_sections_and_splits_are_named_all_at_once(tmp_path, more, lines):
    assert error_of(tmp_path, MINIMAL + more) == "\n".join(["FILE:", *(f"  {line}" for line in lines)])


@pytest.mark.parametrize(
    "option", ["s3_secret_access_key", "s3_access_key_id", "azure_connection_string", "s3_session_token"]
)
def test_secrets_are_no_options_of_a_configuration_and_are_not_shown(tmp_path, option):
    message = error_of(tmp_path, f"{MINIMAL}beam: {{{option}: xyzzy}}")
    assert message == f"FILE:\n  beam: {option} is a secret; {CREDENTIALS}"


def test_missing_input_and_output_are_named(tmp_path):
    missing = "is missing; set it in the file or on the command line"
    assert error_of(tmp_path, "seed: 1") == f"FILE:\n  input: {missing}\n  output: {missing}"
    no_images = "is missing; give patterns of files, or input.manifest a table"
    assert (
        error_of(tmp_path, "input: {}\noutput: {}") == f"FILE:\n  input.images: {no_images}\n  output.path: {missing}"
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"input__dtype": "float32"}, "output.encoding: png cannot hold 3 channels of float32; use raw"),
        ({"input__channels": 5}, "output.encoding: png cannot hold 5 channels of uint8; use raw"),
        ({"output__encoding": "jpeg", "input__dtype": "uint16"},
         "output.encoding: jpeg cannot hold 3 channels of uint16; use png or raw"),
        ({"output__encoding": "jpeg", "input__channels": 4},
         "output.encoding: jpeg cannot hold 4 channels of uint8; use png or raw"),
        ({"output__encoding": "jpeg", "input__channels": 2},
         "output.encoding: jpeg cannot hold 2 channels of uint8; use png or raw"),
        ({"patch__pad_value": 256}, "patch.pad_value: 256 is no uint8; use an integer 0..255"),
        ({"patch__pad_value": -1}, "patch.pad_value: -1 is no uint8; use an integer 0..255"),
        ({"patch__pad_value": 0.5}, "patch.pad_value: 0.5 is no uint8; use an integer 0..255"),
        ({"patch__pad_value": 65536, "input__dtype": "uint16"},
         "patch.pad_value: 65536 is no uint16; use an integer 0..65535"),
        ({"input__points": "{}", "patch__crops": "{per_image: 3}"},
         "input.points, patch.crops: patches lie around points or at random; use one of them"),
        ({"quality__duplicates": 3, "input__dtype": "float32", "output__encoding": "raw"},
         "quality: float32 has no lowest and highest value; set input.range: [low, high]"),
        ({"quality__keep": "{tissue: {min: 0.5}}", "input__channels": 4},
         "quality.keep.tissue: needs the colours of 3 channels, not 4"),
        ({"input__range": "[0, 70000]", "input__dtype": "uint16"},
         "input.range: [0.0, 70000.0] is no part of 0..65535, the values of uint16"),
        ({"input__range": "[0, 100]"}, "input.range: of uint8 it is [0, 255]"),
        ({"patch__crops": "{per_image: 3, tries: 2}"},
         "patch.crops.tries: nothing is drawn again without quality.keep or patch.cover, which say what is good"),
        ({"patch__cover": "{mask: {tumor: {min: 1}}}"},
         "patch.cover.mask: 'mask' is no raster with classes; name them in input.rasters.NAME.classes"),
        ({"patch__label": "{raster: b}", "input__rasters": "{a: {classes: {x: 1}}, b: {}}"},
         "patch.label.raster: 'b' is no raster with classes; there are a"),
        ({"patch__cover": "{a: {y: {min: 1}}}", "input__rasters": "{a: {classes: {x: 1}}}"},
         "patch.cover.a: 'y' is none of its classes, x, nor any"),
        ({"patch__label": "{raster: a}", "input__rasters": "{a: {classes: {x: 1}}}", "input__points": "{label: k}"},
         "patch.label, input.points.label: a patch has one label; keep one of them"),
        ({"patch__scales": "[4, 4]"}, "patch.scales: [4, 4] names one twice"),
        ({"patch__scales": "[4]", "patch__dilation": 2},
         "patch.scales: has no meaning for patches with gaps; use one of scales and dilation"),
        ({"patch__stain": "macenko", "input__channels": 1},
         "patch.stain: is defined for 3 channels of uint8, not 1 of uint8"),
        ({"augment__copies": 3}, "augment: changes nothing; set one of flip, quarter_turns, rotation, blur, stain, "
         "brightness, contrast, saturation, hue, noise"),
        ({"augment__quarter_turns": "true", "patch__size": "[8, 9]"},
         "augment.quarter_turns: needs square patches, not 8 x 9; use flip"),
        ({"augment__stain": 0.1, "input__dtype": "uint16"},
         "augment.stain: is defined for 3 channels of uint8, not 3 of uint16"),
        ({"augment__hue": 5, "input__channels": 4}, "augment.hue: needs the colours of 3 channels, not 4"),
        ({"augment__noise": 0.1, "input__dtype": "float32", "output__encoding": "raw"},
         "augment.noise: float32 has no lowest and highest value; set input.range: [low, high]"),
        ({"patch__origin": "[0, -1]", "patch__edge": "[pad, drop]"},
         "patch.origin: -1 lies outside the image; use edge: pad there, not drop"),
        ({"patch__origin": -511, "patch__dilation": 2},
         "patch.origin: a patch at -511 that spans 511 pixels does not reach the image"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_together_are_named(tmp_path, values, line):
    assert error_of(tmp_path, section(**values)) == f"FILE:\n  {line}"


@pytest.mark.parametrize(
    "values",
    [
        {"output__encoding": "raw", "input__dtype": "float32", "patch__pad_value": -0.5},
        {"output__encoding": "raw", "input__channels": 6},
        {"output__encoding": "png", "input__channels": 4, "input__dtype": "uint16", "patch__pad_value": 65535},
        {"output__encoding": "png", "input__channels": 2},
        {"output__encoding": "jpeg", "input__channels": 1, "patch__pad_value": 255},
        {"patch__origin": "[-1, 9]", "patch__edge": "[pad, drop]"},
        {"patch__origin": -510, "patch__dilation": 2},
        {
            "augment__noise": 0.1,
            "augment__flip": "true",
            "input__dtype": "float32",
            "output__encoding": "raw",
            "input__range": "[0, 1]",
            "input__channels": 7,
        },
        {"augment__hue": 5, "input__dtype": "uint16"},
    ],
    ids=str,
)
def test_values_that_fit_together_are_taken(tmp_path, values):
    load_config(write(tmp_path, section(**values)))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(".nan"),
        pytest.param(".inf"),
    ],
)
def test_a_pad_value_that_is_not_finite_is_named(tmp_path, value):
    assert "patch.pad_value: " in error_of(tmp_path, section(patch__pad_value=value))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("seed", MINIMAL + "seed: yes"),
        ("max_rejected", MINIMAL + "max_rejected: yes"),
        ("splits.train", MINIMAL + "splits: {train: yes}"),
        ("output.quality", section(output__quality="yes")),
        ("input.level", section(input__level="on")),
        ("input.channels", section(input__channels="true", output__encoding="raw")),
        ("patch.pad_value", section(patch__pad_value="yes")),
    ],
)
def test_yes_is_no_number(tmp_path, key, text):
    assert f"{key}: True is not allowed" in error_of(tmp_path, text)


@pytest.mark.parametrize(
    ("key", "said", "error"),
    [
        (key, said, error)
        for key in ("label", "group")
        for said, error in [
            (
                "'patient'",
                "'patient' is not allowed: has 0 groups; put parentheses around the one part that is the name",
            ),
            ("'(a)(b)'", "'(a)(b)' is not allowed: has 2 groups; put parentheses around the one part that is the name"),
            ("'(a'", "'(a' is not allowed: not a regular expression: missing ), unterminated subpattern at position 0"),
            ("5", "5 is not allowed: input should be a valid string"),
        ]
    ],
)
def test_a_wrong_expression_for_names_is_named(tmp_path, key, said, error):
    text = section(**{f"input__{key}": f"{{regex: {said}}}"})
    assert f"\n  input.{key}.regex: {error}" in error_of(tmp_path, text)


def test_a_wrong_expression_for_names_is_one_line(tmp_path):
    assert error_of(tmp_path, section(input__label="{regex: patient}")).splitlines() == [
        "FILE:",
        "  input.label.regex: 'patient' is not allowed: has 0 groups; put parentheses around the one part that is the "
        "name",
    ]


@pytest.mark.parametrize("value", ["null", "{a: 1}", "2024-01-01"])
def test_a_wrong_option_for_beam_is_one_line(tmp_path, value):
    lines = error_of(tmp_path, f"{MINIMAL}beam: {{region: {value}}}").splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("  beam.region: ")


@pytest.mark.parametrize(("key", "value"), [("label", "fold"), ("label", "3"), ("group", "fold"), ("group", "[a]")])
def test_a_wrong_source_of_names_says_what_is_allowed(tmp_path, key, value):
    message = error_of(tmp_path, section(**{f"input__{key}": value}))
    assert message.startswith(f"FILE:\n  input.{key}: ")
    assert "input should be 'folder'" in message or "input should be 'image' or 'folder'" in message


def test_sources_of_names_are_read(tmp_path):
    read = lambda **values: load_config(write(tmp_path, section(**values))).input
    assert read(input__label="folder", input__group="image").label == "folder"
    assert read(input__label="{constant: tumor}").label == Constant(constant="tumor")
    assert read(input__label="{regex: '(t|n)/'}").label == Regex(regex="(t|n)/")
    assert read(input__group="{regex: '(?:x|y)(z)'}").group == Regex(regex="(?:x|y)(z)")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("", "FILE: holds NoneType, expected keys such as input, patch and output"),
        ("- a\n- b", "FILE: holds list, expected keys such as input, patch and output"),
        ("hello", "FILE: holds str, expected keys such as input, patch and output"),
        ("a: [", "FILE: is not YAML: while parsing a flow node"),
        ("a: b: c", "FILE: is not YAML: mapping values are not allowed here"),
        ("a: \x01", "FILE: is not YAML: unacceptable character #x0001"),
        (b"a: \xff", "FILE: is not YAML: 'utf-8' codec can't decode byte 0xff"),
        ("? [a]\n: b", "FILE: is not YAML: while constructing a mapping"),
        ("seed: 1\nseed: 2", "FILE: seed: stands twice"),
        ("input: {images: a, images: b}\noutput: {path: o}", "FILE: images: stands twice"),
        ("a: !!python/object/apply:os.getcwd []", "FILE: is not YAML: could not determine a constructor for the tag"),
        ("a: !!python/name:os.getcwd", "FILE: is not YAML: could not determine a constructor for the tag"),
        ("a: !!python/object:object {}", "FILE: is not YAML: could not determine a constructor for the tag"),
    ],
)
def test_what_is_no_mapping_in_plain_yaml_is_refused(tmp_path, text, start):
    assert error_of(tmp_path, text).startswith(start)


def test_a_duplicate_key_says_where_it_stands(tmp_path):
    message = error_of(tmp_path, MINIMAL + "patch:\n  size: 5\n  size: 6\n")
    assert message == 'FILE: size: stands twice  in "FILE", line 4, column 3; keep one'


def test_a_tag_that_runs_code_runs_nothing(tmp_path):
    error_of(tmp_path, f"seed: !!python/object/apply:os.mkdir ['{tmp_path}/made']")
    assert sorted(os.listdir(tmp_path)) == ["c.yaml"]


def test_a_date_that_does_not_exist_is_a_configuration_error(tmp_path):
    error_of(tmp_path, "input: {images: a.png}\noutput: {path: 2024-02-30}\n")


def test_a_date_that_does_not_exist_is_an_error_after_set_too(tmp_path):
    error_of(tmp_path, MINIMAL, ["output.path=2024-02-30"])


def test_merge_keys_work_as_in_other_yaml(tmp_path):
    text = "input: &both {images: a.png}\noutput: {path: out}\n"
    config = load_config(write(tmp_path, text.replace("a.png}", "a.png, <<: {level: 3}}")))
    assert config.input.level == 3


@pytest.mark.parametrize(("name", "why"), [("none.yaml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, why):
    path = str(tmp_path / name)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: cannot be read: {why}"


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["seed=7"], "seed", 7),
        (["patch.size=512"], "patch.size", (512, 512)),
        (["patch.size=[128, 64]"], "patch.size", (128, 64)),
        (["patch.size=128", "patch.size=96"], "patch.size", (96, 96)),
        (["input.images=[x, y/*]"], "input.images", ("x", "y/*")),
        (["input.images=x"], "input.images", ("x",)),
        (["input.label={constant: a=b}"], "input.label", Constant(constant="a=b")),
        (["input.label.constant=tumor"], "input.label", Constant(constant="tumor")),
        (["splits={train: 0.5, test: 0.5}"], "splits", {"train": 0.5, "test": 0.5}),
        (["splits.train=0.5", "splits.test=0.5"], "splits", {"train": 0.5, "test": 0.5}),
        (["output.shard_size=1GiB"], "output.shard_size", 2**30),
        (["output.path='2024'"], "output.path", "2024"),
        (["input.root="], "input.root", None),
        (["beam.region=here", "beam.experiments=[a]"], "beam", {"region": "here", "experiments": ["a"]}),
    ],
)
def test_set_replaces_a_value(tmp_path, overrides, key, value):
    config = load_config(write(tmp_path, MINIMAL), overrides)
    for part in key.split("."):
        config = getattr(config, part)
    assert config == value


def test_set_leaves_the_other_keys_of_a_section(tmp_path):
    config = load_config(write(tmp_path, MINIMAL + "patch: {size: 64, edge: drop}\n"), ["patch.size=32"])
    assert (config.patch.size, config.patch.edge) == ((32, 32), ("drop", "drop"))


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ("seed", "--set seed: expected key=value, for example --set patch.size=512"),
        ("=5", "--set =5: expected key=value, for example --set patch.size=512"),
        ("", "--set : expected key=value, for example --set patch.size=512"),
        ("patch.size=[", "--set patch.size=[: the value is not YAML: "),
        ("seed=!!python/name:os.getcwd", "--set seed=!!python/name:os.getcwd: the value is not YAML: "),
        ("input.images.0=x", "--set input.images.0=x: images holds 'a.png', which has no keys below it"),
        ("output.path.a.b=x", "--set output.path.a.b=x: path holds 'out', which has no keys below it"),
        ("patch.sise=5", "FILE:\n  patch.sise: unknown key; did you mean size?"),
        ("patch=5", "FILE:\n  patch: 5 is not allowed: input should be a valid dictionary"),
    ],
)
def test_a_wrong_set_is_named(tmp_path, override, start):
    assert error_of(tmp_path, MINIMAL, [override]).startswith(start)


def test_a_duplicate_key_in_a_set_says_which_set(tmp_path):
    assert error_of(tmp_path, MINIMAL, ["patch={size: 1, size: 2}"]).startswith("--set patch={size: 1, size: 2}: ")


def test_input_and_output_of_the_command_line_replace_or_supply_those_of_the_file(tmp_path):
    config = load_config(write(tmp_path, "seed: 1\n"), images=["x", "y"], output="o")
    assert (config.input.images, config.output.path) == (("x", "y"), "o")
    config = load_config(write(tmp_path, section(input__level=1)), ["input.images=z"], images=["x"])
    assert (config.input.images, config.input.level, config.output.path) == (("x",), 1, "out")
    assert error_of(tmp_path, "input: 5", images=["x"]) == "--input: input holds 5, which has no keys below it"


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("1000", 1000), ("1B", 1), ("64MB", 64_000_000), ("1GiB", 2**30), ("1.5 KiB", 1536), ("2kb", 2000),
        ("' 3 MiB '", 3 * 2**20), ("0.1GB", 100_000_000), ("2000.0", 2000),
    ],
)  # fmt: skip
def test_sizes_have_units(tmp_path, said, size):
    assert load_config(write(tmp_path, section(output__shard_size=said))).output.shard_size == size


@pytest.mark.parametrize(
    ("values", "size", "steps"),
    [
        ({}, (256, 256), (256, 256)),
        ({"patch__size": 7}, (7, 7), (7, 7)),
        ({"patch__size": "[7, 9]"}, (7, 9), (7, 9)),
        ({"patch__size": "[7, 9]", "patch__stride": 3}, (7, 9), (3, 3)),
        ({"patch__size": 7, "patch__stride": "[3, 20]"}, (7, 7), (3, 20)),
        ({"patch__stride": "null"}, (256, 256), (256, 256)),
    ],
    ids=str,
)
def test_size_and_stride_are_one_number_or_rows_and_columns(tmp_path, values, size, steps):
    patch = load_config(write(tmp_path, section(**values))).patch
    assert (patch.size, patch.steps) == (size, steps)


@pytest.mark.parametrize(
    ("splits", "training"),
    [({"a": 0.2, "train": 0.8}, "train"), ({"val": 0.2, "other": 0.8}, "val"), ({"all": 1}, "all")],
)
def test_the_training_split_is_train_or_the_first(make_config, splits, training):
    assert make_config(splits=splits).training_split == training


def test_a_configuration_cannot_be_changed(make_config):
    with pytest.raises(ValueError, match="frozen"):
        make_config().patch.size = (1, 1)


# Another value for every key, and whether it makes another dataset.
KEYS = {
    "input.images": (["other/*"], False),
    "input.root": ("/data", False),
    "input.manifest": ("slides.csv", False),
    "input.columns": ({"age": "integer"}, True),
    "output.path": ("elsewhere", False),
    "max_rejected": (0.5, False),
    "gates": ({"verify": True}, False),
    "workers.device": ("cpu", False),
    "workers.processes_per_gpu": (2, False),
    "workers.windows_per_gpu": (3, False),
    "workers.accelerator": ("x", False),
    "workers.min_ram": ("4GB", False),
    "beam": ({"region": "here"}, False),
    "input.max_seconds": (7, False),
    "input.fingerprint": ("content", True),
    "input.level": (1, True),
    "input.page": (0, True),
    "input.mpp": (0.5, True),
    "input.gsd": (10, True),
    "input.bands": ([3, 2, 1], True),
    "input.convert": ("rgb", True),
    "input.depth": ("clip", True),
    "input.channels": (1, True),
    "input.dtype": ("uint16", True),
    "input.range": ([0, 255], True),
    "input.rasters": ({"mask": {}}, True),
    "input.points": ({"label": "kind"}, True),
    "input.label": ("folder", True),
    "input.group": ("folder", True),
    "patch.size": (128, True),
    "patch.stride": (255, True),
    "patch.dilation": (2, True),
    "patch.origin": ([0, 1], True),
    "patch.edge": ("drop", True),
    "patch.pad_mode": ("edge", True),
    "patch.pad_value": (7, True),
    "patch.crops": ({"per_image": 3}, True),
    "patch.scales": ([4], True),
    "patch.cover": ({"mask": {"tumor": {"min": 0.5}}}, True),
    "patch.label": ({"raster": "mask"}, True),
    "patch.stain": ("macenko", True),
    "augment": ({"flip": True}, True),
    "quality": ({"keep": {"sharpness": {"min": 3}}}, True),
    "output.encoding": ("raw", True),
    "output.quality": (90, True),
    "output.shard_size": ("1MB", True),
    "output.order": ("sequential", True),
    "splits": ({"train": 0.9, "validation": 0.1}, True),
    "seed": (1, True),
}


def keys_of(model, prefix=""):
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_table_of_keys_is_complete():
    assert set(keys_of(Config)) == set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_the_digest_follows_every_key_that_changes_the_dataset(make_config, key):
    value, changes = KEYS[key]
    name, _, below = key.partition(".")
    # The others have to be there for these to be allowed.
    other = {"input": {"rasters": {"mask": {"classes": {"tumor": 1}}}}} if key in ("patch.cover", "patch.label") else {}
    changed, plain = make_config(**other, **{name: {below: value} if below else value}), make_config(**other)
    assert changed != plain
    assert (changed.content_digest() != plain.content_digest()) == changes


def test_different_values_of_a_key_have_different_digests(make_config):
    sources = [None, "folder", {"constant": "folder"}, {"constant": "(a)"}, {"regex": "(a)"}]
    digests = {make_config(input={"label": source}).content_digest() for source in sources}
    sizes = [make_config(patch={"size": size}).content_digest() for size in (64, [64, 32], [32, 64])]
    assert len(digests) == 5
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("size", [256, [64, 32]])
def test_a_stride_written_out_like_the_size_does_not_change_the_digest(make_config, size):
    written, left_out = make_config(patch={"size": size, "stride": size}), make_config(patch={"size": size})
    assert written.content_digest() == left_out.content_digest()


def test_equal_values_written_differently_have_one_digest(tmp_path):
    one = load_config(
        write(tmp_path, section(output__shard_size="64MB", patch__size="[8, 8]") + "splits: {train: 1}\n")
    )
    other = load_config(
        write(tmp_path, "splits: {train: 1.0}\n" + section(output__shard_size=64_000_000, patch__size=8))
    )
    assert one.content_digest() == other.content_digest()


def test_the_order_of_the_splits_changes_the_digest_because_it_changes_the_splits(make_config):
    one, other = make_config(splits={"a": 0.5, "b": 0.5}), make_config(splits={"b": 0.5, "a": 0.5})
    assert one.content_digest() != other.content_digest()


def test_the_digest_is_the_same_in_another_process(make_config):
    code = (
        "from pipeline.config import Config; print(Config.model_validate("
        "{'input': {'images': 'x'}, 'output': {'path': 'y'}, 'splits': {'b': 0.25, 'a': 0.75}}).content_digest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.strip() == make_config(splits={"b": 0.25, "a": 0.75}).content_digest()


def timed(folder, *arguments):
    """What a program answers, and the least time of the processor of three tries: other programs may hold it up."""
    seconds = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, timeout=60)
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    return done, min(seconds)


def run_patchbeam(folder, *arguments):
    """What ``patchbeam`` answers, and its time beside that of importing the libraries that it cannot do without."""
    done, seconds = timed(folder, "-m", "pipeline", *arguments)
    _, least = timed(folder, "-c", "import click, numpy, pydantic, yaml")
    return done.returncode, done.stdout, done.stderr, seconds / least


@pytest.mark.parametrize("command", ["build", "plan"])
def test_a_wrong_configuration_answers_at_once(tmp_path, command):
    (tmp_path / "bad.yaml").write_text("input: {images: a.png}\noutput: {pth: out}\n")
    code, out, error, ratio = run_patchbeam(tmp_path, command, "bad.yaml")
    assert (code, out) == (64, "")
    assert error == (
        "patchbeam: bad.yaml:\n"
        "  output.path: is missing; set it in the file or on the command line\n"
        "  output.pth: unknown key; did you mean path?\n"
    )
    assert ratio < 3  # Beam alone would be more than that
    assert os.listdir(tmp_path) == ["bad.yaml"]


def test_a_pattern_without_images_answers_at_once(tmp_path):
    (tmp_path / "c.yaml").write_text("input: {images: [photos/*.jpg]}\noutput: {path: out}\n")
    code, out, error, ratio = run_patchbeam(tmp_path, "build", "c.yaml")
    assert (code, out) == (64, "")
    assert error == (
        "patchbeam: input.images: 'photos/*.jpg' matches no file; ** stands for any number of folders, * for a name\n"
    )
    assert ratio < 3  # Beam alone would be more than that
    assert os.listdir(tmp_path) == ["c.yaml"]


def test_neither_beam_nor_tensorflow_is_imported_to_check_a_configuration():
    code = "import sys, pipeline.cli; print(sorted({'apache_beam', 'tensorflow'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_keys_below_a_section_that_was_left_empty_can_be_set(tmp_path):
    config = load_config(write(tmp_path, MINIMAL + "gates: null\n"), ["gates.drift.labels.infinity_norm=0.5"])
    assert config.gates.drift.labels.infinity_norm == 0.5
