"""Does a reasoning LLM make a better embedding model than its base? The study's code, in ten rooms along its flow.

study -> texts -> similarity -> models -> training -> evaluation -> analysis -> verdict -> report -> workflow

A module imports from its own room or an earlier one (docs/architecture.md).
"""

__version__ = "0.1.0"
