"""Conversations, transcripts, tickets and their routing. Knows no platform and no model."""
