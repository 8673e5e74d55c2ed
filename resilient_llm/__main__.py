"""Runs the command line for ``python -m resilient_llm``."""

from __future__ import annotations

import sys

from resilient_llm.cli import main

sys.exit(main())
