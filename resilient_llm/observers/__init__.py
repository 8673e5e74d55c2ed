"""Observers that export events, one file each. To add one: a function that takes an event.

An observer imports its third-party library inside a function, and is subscribed by
``observe``, or by the wiring if it is a default.
"""
