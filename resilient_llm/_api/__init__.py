"""The public functions and classes, one file for each group of them."""
