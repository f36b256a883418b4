"""Tensor transforms: the arithmetic, cutting, statistics and encoding of patches.

Beam also calls its processing steps "transforms"; here the word means functions on tensors and integers.
Nothing in this package knows Beam, files or clouds. Arrays are ``[height, width, channels]``, positions are
``(row, col)`` in pixels, 0-based, and boxes are half-open.
"""
