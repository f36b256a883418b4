"""Reads a version back: for training, verification, gates and display.

Never imports shards, build or the command line.
"""
