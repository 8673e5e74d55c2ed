"""The public functions and classes, one file each."""
