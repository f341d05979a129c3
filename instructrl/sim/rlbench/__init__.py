"""RLBench: the benchmark of the field, installed by the user (`make rlbench`) and never part of this suite.

`library.py` is the only file that imports rlbench and pyrep; the others know what these take, give and raise.
"""
