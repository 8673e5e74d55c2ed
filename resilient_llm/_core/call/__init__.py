"""One call: the call flow and what it works on."""
