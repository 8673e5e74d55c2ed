"""Drivers: the code that calls, sleeps or awaits. They decide nothing.

One call is made elsewhere: a wrapper makes the healthy first attempt itself, see
``_binding/wrapper_code.py``.
"""
