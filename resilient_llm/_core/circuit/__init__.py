"""One circuit: its state, its counts, and the permits that it gives."""
