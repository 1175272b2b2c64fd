"""The desk in Telegram: each ticket a topic of a forum group."""
