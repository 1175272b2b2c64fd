"""The platforms, each behind the port in `bot.channels.base`."""
