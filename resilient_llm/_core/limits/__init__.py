"""Limits on what is sent: token buckets, places in flight, and the limits that providers report."""
