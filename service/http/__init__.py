"""HTTP in front of the models: routes, bodies, limits, keys, and the Open Inference Protocol.

Nothing is imported here: `service.service`, the only user, imports `app`, `connections` and `log`.
"""
