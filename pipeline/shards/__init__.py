"""From the plan of a shard to its files: the only room in which pixels are cut.

Never imports versions or dataset.
"""
