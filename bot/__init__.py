"""The assistant at work: channels, ledger, turn, decision, web."""
