"""Train an agent or pretrain its encoder: see `python train.py --help`."""

from instructrl.commands.train import main

if __name__ == "__main__":
    main()
