"""The commands of `otvet`."""
