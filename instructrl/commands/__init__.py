"""The commands behind train.py, eval.py, data_tools.collect and the installed console scripts."""
