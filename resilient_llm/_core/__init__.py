"""Pure decisions: no I/O, no clock, no dice. Time, randomness and rules are handed in."""
