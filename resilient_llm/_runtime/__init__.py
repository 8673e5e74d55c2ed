"""The state of this process: clock, circuits, observers, traces."""
