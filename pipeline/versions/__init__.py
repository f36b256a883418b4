"""One output: who may write to it, which versions are complete, and which one is published.

Never imports dataset or the command line.
"""
