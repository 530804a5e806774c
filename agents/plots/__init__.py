"""Pictures: learning curves, comparisons, outcomes, time series, packing and Gantt charts."""
