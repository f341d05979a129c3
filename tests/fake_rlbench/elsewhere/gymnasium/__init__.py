"""RLBench imports it and nothing more."""
