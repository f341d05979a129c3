"""The tests. A package, so that it is found before the `tests` that RLBench installs beside itself."""
