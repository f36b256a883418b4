"""The runners of a build: Beam's options, the local runner, Flink."""
