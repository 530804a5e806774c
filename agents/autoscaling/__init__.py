"""Forecast tables on disk, and what predictive scaling is worth beside a reactive scaler."""
