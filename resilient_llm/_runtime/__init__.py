"""The state of this process: clock, circuits, settings, observers, traces, watchdog."""
