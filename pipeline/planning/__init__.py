"""Which pixels go into which shard: headers, then integers.

Never imports shards, versions or TensorFlow.
"""
