"""Frozen vocabulary that everything shares. Imports the standard library only."""
