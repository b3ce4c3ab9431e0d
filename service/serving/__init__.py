"""The models that answer: one open model, all of those that are served, and the store that they come from."""
