"""Guided steps: what a flow is, how it is read and run, and what it looks up."""
