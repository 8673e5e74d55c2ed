"""Limits on what is sent: token buckets, places in flight, and what providers report of their own."""
