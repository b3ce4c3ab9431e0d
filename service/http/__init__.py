"""HTTP in front of the models: routes, bodies, limits, keys, and the Open Inference Protocol."""
