"""What the figures in RESULTS.md are made with."""
