"""The images of a build, and the files and names that belong to each: names and fingerprints, no pixels.

This package never imports readers, Beam or TensorFlow, because the command line starts with it.
"""
