"""A version read back: to train with, to check, to judge, to show.

Never imports shards, build or the command line.
"""
