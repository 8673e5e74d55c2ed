"""What processes share through a store: its records, and the mirror of the registry. Pure."""
