"""Writes the files of a shard from its plan: the only package in which pixels are cut.

Never imports versions or dataset.
"""
