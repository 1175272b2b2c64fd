"""What agents do, whatever desk they sit at."""
