"""The request path as pure functions: numbers and small named tuples in, new ones out.

The simulator calls them once per service tick with amounts, the live mesh once per request with
ones; there is no second implementation of either.
"""
