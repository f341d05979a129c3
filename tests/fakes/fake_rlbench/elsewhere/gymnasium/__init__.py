"""Empty stand-in: RLBench only imports it."""
