"""Backtests of the twin: traces replayed, and asked at moments with nothing but their past."""
