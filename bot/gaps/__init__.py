"""What the assistant could not answer, and what editors make of it."""
