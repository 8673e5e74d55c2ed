"""One stream: what is held back, and how long its items may take."""
