"""``python -m resilient_llm`` is ``resilient-llm``."""

from __future__ import annotations

import sys

from resilient_llm.cli import main

sys.exit(main())
