"""A person's data: given to him, and taken out for good."""
