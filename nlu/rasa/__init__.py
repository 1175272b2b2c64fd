"""Rasa Open Source 3.6 as an engine of intents: a process in an environment of its own, spoken to over HTTP."""
