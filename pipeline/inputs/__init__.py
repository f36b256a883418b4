"""Which images there are, and what belongs to each of them: names and fingerprints, no pixels.

Never imports readers, Beam or TensorFlow: the command line starts with it.
"""
