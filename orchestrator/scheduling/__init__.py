"""Scheduling policies: rules as data, the zoo, and what learned ones see."""
