"""RLBench, the usual benchmark of the field, installed by the user (`make rlbench`) and not part of InstructRL.

`library.py` is the only file that imports rlbench and pyrep; the others depend only on their interface.
"""
