"""Builds the CPU kernels in place: python -m rnnopt.layers.kernels."""

import sys

from rnnopt.layers.kernels.build import main

sys.exit(main())
