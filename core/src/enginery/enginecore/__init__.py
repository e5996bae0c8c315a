"""Engine cores: running a model through a Python object instead of a server.

For now this holds the protocol that such an object implements; see `enginery.enginecore.backend`.
"""

from enginery.enginecore.backend import Backend, Capabilities

__all__ = ["Backend", "Capabilities"]
