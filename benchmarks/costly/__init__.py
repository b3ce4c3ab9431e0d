"""Kinds of requests that may cost a service more than their bytes suggest, each with a few parameters to search over.

A request is made from its parameters whenever it is sent, and none is kept. All are either valid or plainly malformed;
none is meant for a fault of a library.
"""

from benchmarks.costly.forms import FORMS
from benchmarks.costly.kind import Kind, Values
from benchmarks.costly.pictures import PICTURES
from benchmarks.costly.protocol import PROTOCOL
from benchmarks.costly.sounds import SOUNDS

KINDS = [*PICTURES, *SOUNDS, *FORMS, *PROTOCOL]

__all__ = ["KINDS", "Kind", "Values"]
