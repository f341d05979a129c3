"""Evaluate a trained agent: see `python eval.py --help`."""

from instructrl.commands.evaluate import main

if __name__ == "__main__":
    main()
