"""Runs a tool of convmae with an encoder smaller than any recipe's: small.py TOOL [options], in which model.size is tiny."""

import sys

from convmae.backbones import SIZES, Dims
from convmae.tools import cli

SIZES["tiny"] = Dims((8, 16, 32), (1, 1, 1), 2)

if __name__ == "__main__":
    sys.exit(cli.main())
