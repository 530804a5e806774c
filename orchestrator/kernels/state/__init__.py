"""What a cluster is: codes, records, a row, and access to its tables."""
