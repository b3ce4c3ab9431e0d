"""The microservice: bytes in, probabilities out. Imports nothing of `pipeline`."""
