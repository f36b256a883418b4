"""What runs a build: Beam's options, the local runner, Flink."""
