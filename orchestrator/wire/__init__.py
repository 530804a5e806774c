"""What is kept and sent as bytes, and back: typed, versioned, with a digest."""
