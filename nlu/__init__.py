"""Language: encoder, intents, training and evaluation."""
