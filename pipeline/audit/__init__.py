"""The audit: which labels may be wrong, what is twice there, unlike the rest or damaged; `percept audit`."""

from pipeline.audit.stage import audit

__all__ = ["audit"]
