"""One turn: of its `situation`, `thinking` makes a `plan`, and `saving` writes it. `turns` puts the parts together."""
