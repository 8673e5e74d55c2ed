"""One stream: which items are held back, and how long the next item may take."""
