"""The plan of which pixels go into which shard: headers, then integers.

This package never imports shards, versions or TensorFlow.
"""
