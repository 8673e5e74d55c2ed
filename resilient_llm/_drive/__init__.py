"""Drivers: the only code that calls, sleeps or awaits. They decide nothing."""
