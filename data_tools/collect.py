"""Collect demonstrations from a simulator's expert: see `python -m data_tools.collect --help`."""

from instructrl.commands.collect import main

if __name__ == "__main__":
    main()
